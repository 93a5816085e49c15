"""What operators see: the nodes and how they are, the channels of all of them, and what goes wrong."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping
from typing import Final

from server import __version__
from server.access.admission import Admission
from server.access.rights import must_be_admin
from server.brokers.base import Announcement, Answer, Broker, Question
from server.cluster.announcer import Announcer
from server.cluster.recent import Recent, together
from server.cluster.stats import Incidents, Rates
from server.core.clock import now_ms
from server.core.config import Namespace
from server.core.names import EVENTS, NODES, namespace_of
from server.core.principals import Principal
from server.delivery.hub import Hub
from server.delivery.streams import Streams
from server.log.log import Log
from server.presence.attendance import Attendance
from server.wire.messages import Message
from server.wire.pushes import Fields

ANSWER_WITHIN: Final = 1.0
"""Seconds the other nodes have to answer a question."""
BEAT: Final = 1.0
"""Seconds from one word of a node about itself to the next."""
RATE_OVER: Final = 5
"""Beats over which a channel's rate is computed."""


class Directory:
    """`status` answers ("ready" | "degraded" | "down", why); `published` the publishes accepted so far."""

    def __init__(
        self,
        node: str,
        *,
        broker: Broker,
        announcer: Announcer,
        streams: Streams,
        hub: Hub,
        log: Log,
        attendance: Attendance,
        admission: Admission,
        incidents: Incidents,
        namespaces: Mapping[str, Namespace],
        status: Callable[[], tuple[str, list[str]]],
        published: Callable[[], int],
    ) -> None:
        self._node = node
        self._broker = broker
        self._announcer = announcer
        self._streams = streams
        self._hub = hub
        self._log = log
        self._attendance = attendance
        self._admission = admission
        self._incidents = incidents
        self._namespaces = namespaces
        self._status = status
        self._published = published
        self._started = now_ms()
        self._rates = Rates()
        self._repaired = 0
        self._beats = 0
        self.besides: Callable[[], Fields] = dict
        """What else the node tells of itself."""
        self._peers: dict[str, Fields] = {}
        """The other nodes within hearing, and what each has last told of itself."""
        self._own: Fields = {}
        self._recent = Recent()
        self._questions: dict[str, asyncio.Queue[tuple[str, Answer]]] = {}

    def start(self) -> None:
        """The first word about this node, to compare the next ones with."""
        self._own = self._state() | self._figures()

    # --- what operators ask -------------------------------------------------------------------------------------------

    def nodes(self, principal: Principal) -> Fields:
        """{"nodes": […]}: what each node within hearing last said of itself, once a second."""
        must_be_admin(principal)
        known = {node: stats for node, stats in self._peers.items() if stats} | {self._node: self._own | self._state()}
        return {"nodes": [stats for _, stats in sorted(known.items())]}

    async def channels(self, principal: Principal, prefix: str, after: str, limit: int) -> Fields:
        """{"channels": [{"channel", "subscribers", "rate", "users"?, "guests"?}], "next", "missing"}: the channels of
        all nodes with subscribers, by name; `missing` are nodes that did not answer."""
        must_be_admin(principal)
        answers, missing = await self._ask(Question(secrets.token_hex(8), prefix, after, limit + 1))
        names = sorted({channel for answer in answers for channel in answer.channels})
        rows = [self._row(name, [a.channels[name] for a in answers if name in a.channels]) for name in names[:limit]]
        following = names[limit - 1] if len(names) > limit else None
        return {"channels": rows, "next": following, "missing": missing}

    async def recent(self, principal: Principal) -> Fields:
        """{"figures", "events", "refused", "missing"}: the last hour of all nodes (recent.py)."""
        must_be_admin(principal)
        answers, missing = await self._ask(Question(secrets.token_hex(8), "", "", 0, "recent"))
        said = together([answer.recent for answer in answers if answer.recent is not None])
        return {"figures": self._recent.figures(), **said, "missing": missing}

    async def _ask(self, question: Question) -> tuple[list[Answer], list[str]]:
        """What all nodes answer, and which do not."""
        answers = [self._answer(question)]
        missing = set(self._peers)
        queue = self._questions[question.id] = asyncio.Queue()
        self._announcer.announce(question=question)
        try:
            async with asyncio.timeout(ANSWER_WITHIN):
                while missing:
                    node, answer = await queue.get()
                    missing.discard(node)
                    answers.append(answer)
        except TimeoutError:
            pass
        finally:
            del self._questions[question.id]
        return answers, sorted(missing)

    def _row(self, channel: str, counts: list[tuple[int, float]]) -> Fields:
        row: Fields = {
            "channel": channel,
            "subscribers": sum(subscribers for subscribers, _ in counts),
            "rate": max(rate for _, rate in counts),
        }
        namespace = self._namespaces.get(namespace_of(channel))
        if namespace is not None and namespace.presence:
            row["users"], row["guests"] = self._attendance.count(channel)
        return row

    def _answer(self, question: Question) -> Answer:
        if question.about == "recent":
            return Answer(question.id, {}, self._recent.said(now_ms()))
        return Answer(question.id, self._streams.listened(question.prefix, question.after, question.limit))

    # --- between nodes ------------------------------------------------------------------------------------------------

    def hear(self, announcement: Announcement) -> None:
        """An announcement of another node."""
        node = announcement.node
        self._peers.setdefault(node, {})
        if announcement.stats is not None:
            self._peers[node] = announcement.stats | {"node": node}
            self._show(self._peers[node])
        if announcement.question is not None:
            self._announcer.announce(answer=self._answer(announcement.question))
        if announcement.answer is not None and announcement.answer.id in self._questions:
            self._questions[announcement.answer.id].put_nowait((node, announcement.answer))

    def knows(self, node: str) -> bool:
        """Whether it is another node within hearing."""
        return node in self._peers

    def forget(self, node: str) -> None:
        """The node has gone silent: it is not shown any more, nor asked."""
        self._peers.pop(node, None)

    def tell(self) -> Fields:
        """Once a second. Shows operators here how this node is, publishes what has gone wrong since the last time as
        events to all nodes, and answers the former, to be announced to the peers."""
        self._beats += 1
        if self._beats % RATE_OVER == 0:
            self._streams.compute_rates(RATE_OVER * BEAT)
        self._own = self._state() | self._figures()
        self._show(self._own)
        repairs = self._streams.repairs.total()
        if repairs > self._repaired:
            self._incidents.note("repair", repairs - self._repaired)
            self._repaired = repairs
        now = now_ms()
        events = [event | {"node": self._node} for event in self._incidents.take()]
        if events:
            self._broker.publish([Message(EVENTS, "", 0, "", None, now, event) for event in events])
        self._recent.note(now, events)
        self._recent.beat(now, (self._own, *self._peers.values()))
        return self._own

    def _show(self, stats: Fields) -> None:
        if NODES in self._streams:
            self._hub.deliver([Message(NODES, "", 0, "", None, now_ms(), stats, stats["node"])])

    def _state(self) -> Fields:
        status, reasons = self._status()
        channels, subscriptions = self._streams.counts()
        return {
            "node": self._node,
            "version": __version__,
            "uptime": (now_ms() - self._started) // 1000,
            "status": status,
            "reasons": reasons,
            "connections": len(self._admission.clients),
            "users": len(self._admission.users),
            "channels": channels,
            "subscriptions": subscriptions,
            "queue_bytes": sum(client.queued for client in self._admission.clients),
        }

    def _figures(self) -> Fields:
        """Per second since the last time, and in seconds."""
        counters = {
            "in": self._published(),
            "out": self._hub.messages,
            "bytes_out": self._hub.bytes,
            "refusals": self._incidents.refusals.total(),
            "repairs": self._streams.repairs.total(),
        }
        quick, slow = self._rates.quantiles(self._log.publish_seconds, 0.5, 0.99)
        now = asyncio.get_running_loop().time()
        return self._rates.look(now, counters) | {"publish_p50": quick, "publish_p99": slow} | self.besides()
