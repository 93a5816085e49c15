"""What workers do that fetch their messages: for API keys that are `admin`, or name the consumer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from server.consumers.pulling import Job, Lost, Pulling
from server.consumers.service import Consumers
from server.consumers.work import parse_receipt
from server.core.errors import Error, bad_request
from server.core.lifecycle import Lifecycle
from server.core.principals import Principal
from server.wire.pushes import Fields


class Workers:
    def __init__(self, consumers: Consumers, lifecycle: Lifecycle) -> None:
        self._consumers = consumers
        self._lifecycle = lifecycle

    async def fetch(
        self, principal: Principal, name: str, limit: int, wait: float, there: Callable[[], bool] = lambda: True
    ) -> Fields:
        """{"messages": [{"id", "channel", "offset", "key", "user", "time", "data", "delivery"}], "gaps"?}"""
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
    return {
        "id": job.id,
        "channel": message.channel,
        "offset": message.offset,
        "key": message.key,
        "user": message.user,
        "time": message.time,
        "data": message.data,
        "delivery": job.delivery,
    }


def _gap(lost: Lost) -> dict[str, Any]:
    gap: dict[str, Any] = {"channel": lost.channel, "from": lost.first, "to": lost.last}
    return gap | ({} if lost.first is not None else {"reason": "epoch"})
