"""Group commit: plain puts that come while a command is under way go together in the next one."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

from server.core.errors import Error
from server.core.tasks import Keeper
from server.core.worker import Worker
from server.documents import document_json
from server.documents.commands import Commands, Permit
from server.documents.document_json import Json
from server.documents.failures import not_stored, unknown

logger = logging.getLogger(__name__)

PUTS: Final = 200
PUT_BYTES: Final = 4 << 20
QUEUED: Final = 10_000
QUEUED_BYTES: Final = 64 << 20


class Written(NamedTuple):
    document: Json | None
    """None: deleted."""
    created: bool
    duplicate: bool = False

    def fields(self) -> Json:
        """As a reply tells it."""
        if self.document is None:
            return {"deleted": True}
        return {"document": self.document, "created": self.created, "duplicate": self.duplicate}


class _Put:
    """One that waits. Before it is `sent` it can be taken back; what has not been sent at `latest` never is, since it
    would leave those that are sent with it too little time."""

    __slots__ = ("id", "raw", "deadline", "permit", "latest", "answer", "sent")

    def __init__(self, identifier: str, raw: bytes, deadline: float, permit: Permit) -> None:
        now = asyncio.get_running_loop().time()
        self.id = identifier
        self.raw = raw
        self.deadline = deadline
        self.permit = permit
        self.latest = now + (deadline - now) * 0.75
        self.answer: asyncio.Future[Written | Error] = asyncio.get_running_loop().create_future()
        self.sent = False


class _Queue:
    __slots__ = ("waiting", "size")

    def __init__(self) -> None:
        self.waiting: deque[_Put] = deque()
        self.size = 0
        """Bytes."""


class Puts:
    """Puts that neither ask what is there nor need to know. One that has been answered is out of the queue, and what
    was sent already is fenced (commands.py)."""

    def __init__(self, commands: Commands, worker: Worker, keeper: Keeper) -> None:
        self._commands = commands
        self._worker = worker
        self._keeper = keeper
        self._queues: dict[str, _Queue] = {}
        """By collection; there is one while its task runs."""

    async def put(self, collection: str, identifier: str, raw: bytes, deadline: float, permit: Permit) -> Written:
        """Answered at `deadline` at the latest: `outcome_unknown` if it was sent, else `unavailable`. `permit` is asked
        right before it is sent."""
        queue = self._queues.get(collection)
        if queue is None:
            queue = self._queues[collection] = _Queue()
            self._keeper.spawn(f"put {collection}", self._work(collection, queue))
        elif len(queue.waiting) >= QUEUED or queue.size + len(raw) > QUEUED_BYTES:
            raise Error("unavailable", "too many documents are waiting to be stored", retry_after=1.0)
        put = _Put(identifier, raw, deadline, permit)
        queue.waiting.append(put)
        queue.size += len(raw)
        try:
            async with asyncio.timeout_at(deadline):
                result = await put.answer
        except TimeoutError:
            raise (unknown() if put.sent else not_stored()) from None
        if isinstance(result, Error):
            raise result
        return result

    async def put_many(
        self, collection: str, documents: Sequence[bytes], permits: Sequence[Permit], deadline: float
    ) -> list[Written | Error]:
        """Documents with different ids, at once."""
        results = await self._commands.put_many(collection, documents, permits, deadline)

        def shown() -> list[Written | Error]:
            return [
                result.error or Written(document_json.document(raw), result.created)
                for raw, result in zip(documents, results, strict=True)
            ]

        return await self._worker.run(sum(map(len, documents)), shown)

    async def _work(self, collection: str, queue: _Queue) -> None:
        batch: list[_Put] = []
        try:
            while batch := _next_batch(queue):
                documents, permits = [put.raw for put in batch], [put.permit for put in batch]
                results = await self.put_many(collection, documents, permits, batch[0].deadline)
                for put, result in zip(batch, results, strict=True):
                    if not put.answer.done():
                        put.answer.set_result(result)
        except Exception:
            logger.exception("documents of %s could not be written", collection)
            raise
        finally:
            del self._queues[collection]
            for put in (*batch, *queue.waiting):
                if not put.answer.done():
                    put.answer.set_result(unknown() if put.sent else not_stored())


def _next_batch(queue: _Queue) -> list[_Put]:
    """What goes into the next command, the oldest first; of one document one put, so that the last one said is the last
    one done. Nothing that has been answered."""
    now = asyncio.get_running_loop().time()
    batch: dict[str, _Put] = {}
    later: list[_Put] = []
    size = 0
    while queue.waiting and len(batch) + len(later) < PUTS and size < PUT_BYTES:
        put = queue.waiting.popleft()
        if not put.answer.done() and put.latest < now:
            put.answer.set_result(not_stored())
        if put.answer.done():
            queue.size -= len(put.raw)
        elif put.id in batch:
            later.append(put)
        else:
            batch[put.id] = put
            put.sent = True
            queue.size -= len(put.raw)
            size += len(put.raw)
    queue.waiting.extendleft(reversed(later))
    return list(batch.values())
