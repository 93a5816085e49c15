"""The last hour, for who has just come to look: figures over all nodes, what went wrong, and who met which limit.

Each node keeps the figures of all that it hears, but of events only its own: the others are asked for theirs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from server.wire.pushes import Fields

KEPT: Final = 3600
"""Seconds."""
EVERY: Final = 10
"""Beats that a row of the figures is about: of what is counted by the second the highest, of the rest the newest."""
EVENTS: Final = 500
REFUSED: Final = 500
"""Different refusals, by whom and of what, that are counted in a SPAN; those of others are `others`."""
SPAN: Final = 300
"""Seconds."""
ROWS: Final = 100

_SUMS: Final = ("connections", "in", "out", "refusals", "repairs")
_HIT: Final = ("code", "limit", "user", "address")


class Recent:
    def __init__(self) -> None:
        self._figures: deque[Fields] = deque(maxlen=KEPT // EVERY)
        self._row: Fields = {}
        self._beats = 0
        self._events: deque[Fields] = deque(maxlen=EVENTS)
        self._refused: deque[tuple[int, dict[tuple[Any, ...], list[int]]]] = deque(maxlen=KEPT // SPAN + 1)

    def beat(self, now: int, nodes: Iterable[Mapping[str, Any]]) -> None:
        """Once a second: what each node has last said of itself. `now`: milliseconds since 1970."""
        rows = [row for row in nodes if row]
        said = {name: sum(row.get(name) or 0 for row in rows) for name in _SUMS}
        slowest = max((row["publish_p99"] for row in rows if row.get("publish_p99") is not None), default=None)
        was = self._row
        self._row = {
            "time": now,
            "connections": said["connections"],
            **{name: round(max(said[name], was.get(name, 0)), 1) for name in _SUMS[1:]},
            "publish_p99": max((one for one in (slowest, was.get("publish_p99")) if one is not None), default=None),
        }
        self._beats += 1
        if self._beats % EVERY == 0:
            self._figures.append(self._row)
            self._row = {}

    def note(self, now: int, events: Sequence[Fields]) -> None:
        """What went wrong here within the last second."""
        for event in events:
            self._events.append({"time": now} | event)
            if event.get("event") == "refusal":
                self._count(now, event)

    def _count(self, now: int, event: Fields) -> None:
        span = now // (SPAN * 1000)
        if not self._refused or self._refused[-1][0] != span:
            self._refused.append((span, {}))
        counted = self._refused[-1][1]
        key = tuple(event.get(name) for name in _HIT)
        if key not in counted and len(counted) >= REFUSED:
            key = (event.get("code"), event.get("limit"), None, "others")
        one = counted.setdefault(key, [0, now])
        one[0] += event.get("count", 1)
        one[1] = now

    def figures(self) -> list[Fields]:
        """The oldest first, of all nodes within hearing."""
        return list(self._figures)

    def said(self, now: int) -> Fields:
        """{"events": [{"time", "event", …}], "refused": [{"code", "limit", "user", "address", "count", "last"}]} of
        this node, for the others too."""
        begin = now - KEPT * 1000
        total: dict[tuple[Any, ...], list[int]] = {}
        for span, counted in self._refused:
            if (span + 1) * SPAN * 1000 > begin:
                for key, (count, last) in counted.items():
                    one = total.setdefault(key, [0, 0])
                    one[0] += count
                    one[1] = max(one[1], last)
        refused = [dict(zip(_HIT, key, strict=True)) | {"count": n, "last": at} for key, (n, at) in total.items()]
        events = [one for one in self._events if one["time"] >= begin]
        return {"events": events, "refused": sorted(refused, key=_most)[:ROWS]}


def together(nodes: Sequence[Fields]) -> Fields:
    """What several nodes have `said`, as if one had."""
    events = sorted((event for said in nodes for event in said["events"]), key=lambda event: event["time"])
    refused: dict[tuple[Any, ...], Fields] = {}
    for row in (row for said in nodes for row in said["refused"]):
        one = refused.setdefault(tuple(row[name] for name in _HIT), dict(row) | {"count": 0})
        one["count"] += row["count"]
        one["last"] = max(one["last"], row["last"])
    return {"events": events[-EVENTS:], "refused": sorted(refused.values(), key=_most)[:ROWS]}


def _most(row: Fields) -> int:
    return -int(row["count"])
