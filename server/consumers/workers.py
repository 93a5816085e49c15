"""What workers do that fetch their messages: for API keys that are `admin`, or name the consumer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from server.consumers.pulling import Job, Lost, Pulling
from server.consumers.service import Consumers
from server.consumers.work import parse_receipt
from server.core.errors import Error, bad_request
from server.core.lifecycle import Lifecycle
from server.core.principals import Principal
from server.wire.amendments import Counted
from server.wire.pushes import Fields

_FIELDS: Final = ("channel", "offset", "key", "user", "time")


class Workers:
    def __init__(self, consumers: Consumers, lifecycle: Lifecycle) -> None:
        self._consumers = consumers
        self._lifecycle = lifecycle

    async def fetch(
        self, principal: Principal, name: str, limit: int, wait: float, there: Callable[[], bool] = lambda: True
    ) -> Fields:
        """{"messages": [{"id", "channel", "offset", "key", "user", "time", "data", "delivery"}], "gaps"?}; where
        messages can be amended with what else they have in the history, and amendments with `"type": "amend"`."""
        jobs, lost = await self._find(principal, name).fetch(limit, wait, there)
        answer: Fields = {"messages": [_job(one) for one in jobs]}
        if lost:
            answer["gaps"] = [_gap(one) for one in lost]
        return answer

    async def ack(self, principal: Principal, name: str, ids: Sequence[str]) -> Fields:
        """These are done. Of what is not, or no longer, who says it, nothing changes."""
        await self._find(principal, name).ack([parse_receipt(one) for one in ids])
        return {}

    async def nack(self, principal: Principal, name: str, ids: Sequence[str], delay: float) -> Fields:
        """These are to be handed out again."""
        await self._find(principal, name).nack([parse_receipt(one) for one in ids], delay)
        return {}

    def _find(self, principal: Principal, name: str) -> Pulling:
        if not (principal.admin or name in principal.consumers):
            raise Error("permission_denied", f"{principal.name} may not work for the consumer {name[:100]}")
        self._lifecycle.check()
        if name not in self._consumers.options:
            raise Error("not_found", f"consumer: {name[:100]} is not in the configuration")
        if name not in self._consumers.pulling:
            raise bad_request(f"consumer: {name} is pushed to its back end, there is nothing to fetch")
        return self._consumers.pulling[name]


def _job(job: Job) -> dict[str, Any]:
    message = job.message
    fields = {"id": job.id, **{name: getattr(message, name) for name in _FIELDS}}
    if not isinstance(message, Counted):
        return fields | {"data": message.data, "delivery": job.delivery}
    # Else a reaction would be work like any other.
    push = msgspec.to_builtins(message.push())
    del push["cursor"]
    if push["type"] == "message":
        del push["type"]
    return fields | {"data": None, **push, "delivery": job.delivery}


def _gap(lost: Lost) -> dict[str, Any]:
    gap: dict[str, Any] = {"channel": lost.channel, "from": lost.first, "to": lost.last}
    return gap | ({} if lost.first is not None else {"reason": "epoch"})
