"""What operators see of consumers and do with them: for API keys that are `admin`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from server.access.rights import must_be_admin
from server.consumers.cursors import Stored
from server.consumers.figures import Figures
from server.consumers.service import Consumers
from server.core.clock import Clock
from server.core.cursors import Position, parse_cursor
from server.core.errors import Error, bad_request
from server.core.lifecycle import Lifecycle
from server.core.principals import Principal
from server.log.log import Log
from server.wire.pushes import Fields

FAILING: Final = 100
"""Channels that are shown of those that fail."""
AT_ONCE: Final = 1000
"""Channels that are set together."""


class ConsumerOperators:
    def __init__(self, consumers: Consumers, log: Log, lifecycle: Lifecycle, clock: Clock) -> None:
        self._lifecycle = lifecycle
        self._consumers = consumers
        self._log = log
        self._clock = clock

    async def every(self, principal: Principal) -> Fields:
        """{"consumers": [{"name", "state", "lag": {"messages", "seconds", "channels"}, …}]}, by name."""
        must_be_admin(principal)
        if not self._consumers.options:
            return {"consumers": []}
        self._lifecycle.check()
        figures = await self._figures(self._consumers.options)
        names = sorted(self._consumers.options)
        return {"consumers": [self._row(name, figures.get(name, Figures())) for name in names]}

    async def one(self, principal: Principal, name: str) -> Fields:
        """The same of one, with the channels that fail: [{"channel", "cursor", "attempts", "error", "next"}]."""
        self._find(principal, name)
        figures = (await self._figures([name])).get(name, Figures())
        failing = await self._consumers.cursors.failing(name, FAILING)
        return self._row(name, figures) | {"failures": [_failure(*one) for one in failing]}

    async def pause(self, principal: Principal, name: str, paused: bool = True) -> Fields:
        """Or let it run again, also one that is stopped: then at once, whatever it waits for."""
        self._find(principal, name)
        await self._consumers.change([name], "paused" if paused else "running")
        return self._row(name, Figures())

    async def reset(self, principal: Principal, name: str, channel: str | None, to: str) -> Fields:
        """Go on from another place: `beginning` (of what is retained), `now`, or a cursor of the channel. Without a
        channel: in all of them, those to come as well."""
        self._find(principal, name)
        if channel is None:
            return await self._reset_all(name, to)
        if name not in self._consumers.followed.by(channel):
            raise Error("not_found", f"channel: {name} does not follow {channel}")
        head = await self._log.head(channel)
        if to in ("beginning", "now"):
            position = head.position if to == "now" else Position(head.position.epoch, head.floor)
        else:
            given = parse_cursor(to, "to")
            position = Position(given.epoch or head.position.epoch, given.offset)
            if position.epoch != head.position.epoch or position.offset > head.position.offset:
                raise bad_request("to: not a cursor of this channel's present history")
        await self._consumers.cursors.put(name, {channel: position})
        await self._consumers.tell()
        return {"name": name, "channel": channel, "cursor": str(position)}

    async def _reset_all(self, name: str, to: str) -> Fields:
        if to not in ("beginning", "now"):
            raise bad_request("to: beginning or now, where no channel is named")
        # Channels without a cursor first: what is published meanwhile has its cursor from then on.
        await self._consumers.states.begin_at(name, 0 if to == "beginning" else self._clock.now_ms())
        channels = await self._consumers.cursors.channels(name)
        for index in range(0, len(channels), AT_ONCE):
            heads = await self._log.survey.heads(channels[index : index + AT_ONCE])
            places = {
                channel: head.position if to == "now" else Position(head.position.epoch, head.floor)
                for channel, head in heads.items()
            }
            await self._consumers.cursors.put(name, places)
        await self._consumers.tell()
        return {"name": name, "channel": None, "cursor": None}

    async def _figures(self, names: Iterable[str]) -> dict[str, Figures]:
        figures = await self._consumers.board.read()
        return figures | {name: await self._consumers.count(name) for name in names if name in self._consumers.pulling}

    def _find(self, principal: Principal, name: str) -> None:
        must_be_admin(principal)
        if name not in self._consumers.options:
            raise Error("not_found", f"consumer: {name[:100]} is not in the configuration")
        self._lifecycle.check()

    def _row(self, name: str, figures: Figures) -> Fields:
        options, status = self._consumers.options[name], self._consumers.states[name]
        seconds = figures.seconds(self._clock.now_ms())
        return {
            "name": name,
            "state": status.state,
            "why": status.why,
            "changed": status.at,
            "target": "workers" if options.pulled else "url" if options.url is not None else "function",
            "channels": options.channels,
            "lag": {"messages": figures.messages, "seconds": round(seconds, 3), "channels": figures.channels},
            "retention": round(figures.retention, 4),
            "failing": figures.failing,
            "attempts": figures.attempts,
            "error": figures.error,
            "failed": figures.failed or None,
            "dead_letter": self._consumers.dead_letter(name),
        }


def _failure(channel: str, stored: Stored) -> Fields:
    failure = stored.failure
    assert failure is not None
    return {
        "channel": channel,
        "cursor": str(stored.position),
        "attempts": failure.attempts,
        "error": failure.error,
        "next": failure.due,
    }
