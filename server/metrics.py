"""What /metrics shows of a node. The parts count in plain numbers; they are read here, when somebody asks.

Nothing on the way of a message calls the library. A node's registry is its own: two nodes in a process have two.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from math import inf
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.registry import Collector

from server import __version__
from server.consumers.figures import Figures
from server.core.errors import ERRORS
from server.core.histogram import Histogram
from server.delivery.sequencer import CAUSES
from server.node import Node


def registry(node: Node) -> CollectorRegistry:
    """The node's metrics, and those of its process (memory, CPU, descriptors)."""
    metrics = CollectorRegistry()
    metrics.register(_Collector(node))
    ProcessCollector(registry=metrics)
    return metrics


Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily | InfoMetricFamily


class _Collector(Collector):
    def __init__(self, node: Node) -> None:
        self._node = node

    def collect(self) -> Iterator[Family]:
        node = self._node
        yield InfoMetricFamily("waterspout", "This instance.", {"version": __version__, "node": node.id})
        yield from self._clients()
        yield from self._log()
        yield from self._documents()
        yield from self._consumers()
        yield from self._calls()
        yield from self._outbox()
        broker = node.broker
        yield gauge("broker_up", "1: this node hears itself through its broker.", node.peers.unheard() is None)
        yield counter("broker_dropped", "Publications that could not be sent to the broker.", broker.dropped)
        yield counter("broker_refused", "Payloads from the broker that were not ours.", broker.refused)
        repairs = {cause: node.streams.repairs[cause] for cause in CAUSES}
        yield counters("repairs", "Reads of the log for what the broker had lost, by what showed it.", "cause", repairs)
        yield histogram("loop_lag_seconds", "How late the event loop ran what was due, once a second.", node.lag)

    def _clients(self) -> Iterator[Family]:
        node, hub = self._node, self._node.hub
        transports = {"websocket": 0} | Counter(client.transport for client in node.admission.clients)
        yield gauges("connections", "Connected clients.", "transport", transports)
        live = hub.subscriptions()
        channels, subscriptions = node.streams.counts()
        states = {"live": live, "replaying": max(subscriptions - live, 0)}
        yield gauges("subscriptions", "replaying: resuming or behind, served from the log.", "state", states)
        yield gauge("channels", "Channels that somebody here is subscribed to.", channels)
        yield gauge(
            "queue_bytes", "Waiting for clients to read.", sum(client.queued for client in node.admission.clients)
        )
        yield counter("messages_in", "Publishes that were accepted.", node.publisher.published)
        yield counter("reactions", "Reactions that were set or taken back.", node.reactions.accepted)
        yield counter("messages_out", "Messages handed to clients, replays among them.", hub.messages)
        yield counter("bytes_in", "Received from WebSocket clients.", node.admission.bytes_in)
        yield counter("bytes_out", "Handed to clients, replies and replays among them.", hub.bytes)
        yield counter("messages_dropped", "Ephemeral messages that slow clients did not get.", hub.dropped)
        yield counter("fallen_behind", "Times a durable subscription could not keep up.", hub.fallen_behind)
        refusals = {code: node.incidents.refusals[code] for code in ERRORS}
        yield counters("refusals", "Commands and requests answered with an error.", "code", refusals)
        yield counters("limits_met", "Refusals by the option whose limit was met.", "limit", node.incidents.limits)
        yield counters(
            "disconnects", "Connections ended, by our close code, or by the client.", "code", node.incidents.disconnects
        )

    def _log(self) -> Iterator[Family]:
        log = self._node.log
        yield gauge("mongodb_up", "1: MongoDB acknowledges writes by a majority.", log.problem() is None)
        yield gauge("publish_queue_messages", "Waiting to be stored.", log.queued)
        yield gauge("publish_queue_bytes", "Waiting to be stored.", log.queued_bytes)
        yield histogram("publish_seconds", "From accepting a publish to its acknowledgement.", log.publish_seconds)
        yield histogram("batch_messages", "Messages of one insert.", log.batch_messages)
        yield counter("log_inserts", "Inserts sent to MongoDB.", log.inserts)
        yield counter("log_reads", "Reads of messages and heads sent to MongoDB.", log.reads)
        yield counter("conflicts", "Inserts refused because another node had taken the offset.", log.conflicts)

    def _calls(self) -> Iterator[Family]:
        family = HistogramMetricFamily(
            "waterspout_call_seconds", "Calls of the user's back end, by what became of them.",
            labels=["pattern", "outcome"],
        )  # fmt: skip
        for pattern in self._node.calls.patterns.values():
            for outcome, values in sorted(pattern.seconds.items()):
                family.add_metric([pattern.name.removeprefix("calls."), outcome], _buckets(values), values.sum)
        yield family

    def _outbox(self) -> Iterator[Family]:
        outbox = self._node.outbox
        if not outbox.on:
            return
        yield gauge("outbox", "1: this node publishes what is in the outbox.", outbox.holds)
        yield gauge(
            "outbox_entries", "In the outbox, those for later among them.", outbox.waiting if outbox.holds else 0
        )
        yield gauge("outbox_lag_seconds", "The age of the oldest that is being published.", outbox.lag)
        yield counter("outbox_published", "Entries that this node has published.", outbox.published)
        yield counter("outbox_dead", "Entries that could not be published.", outbox.dead)

    def _documents(self) -> Iterator[Family]:
        documents, tailer = self._node.document_store, self._node.tailer
        yield counter("document_reads", "Documents and lists read, and snapshots.", documents.reads)
        yield counter("document_writes", "Writes of documents that were asked for.", documents.writes)
        yield gauge("tailer", "1: this node follows the changes of documents.", tailer.holds)
        yield counter("document_changes", "Changes that this node has put into the log.", tailer.changes)
        yield counter("tailer_conflicts", "Changes whose place in the log had to be looked up again.", tailer.conflicts)

    def _consumers(self) -> Iterator[Family]:
        """By consumer; what is behind is this node's part of it."""
        consumers = self._node.consumers
        figures = {name: one.figures() for name, one in consumers.deliveries.items()}
        now = self._node.clock.now_ms()

        def family(name: str, help: str, value: Callable[[Figures], float]) -> Family:
            return gauges(name, help, "consumer", {consumer: value(one) for consumer, one in figures.items()})

        yield family("consumer_lag_messages", "Stored and not delivered.", lambda one: one.messages)
        yield family(
            "consumer_lag_seconds",
            "The age of the oldest message that is not delivered.",
            lambda one: one.seconds(now),
        )
        yield family(
            "consumer_retention_used",
            "The largest share of what a channel retains that is not delivered: from 1 on messages are lost.",
            lambda one: one.retention,
        )
        yield family("consumer_channels_failing", "Channels whose last attempt has failed.", lambda one: one.failing)
        states = {name: consumers.states.runs(name) for name in figures}
        yield gauges("consumer_running", "0: it is paused or stopped.", "consumer", states)
        delivered = {name: one.delivered for name, one in consumers.deliveries.items()}
        yield counters("consumer_delivered", "Messages that were delivered.", "consumer", delivered)
        for outcome, help in OUTCOMES.items():
            values = {name: one.requests[outcome] for name, one in consumers.deliveries.items()}
            yield counters(f"consumer_requests_{outcome}", help, "consumer", values)


OUTCOMES: Final = {
    "delivered": "Batches that were delivered.",
    "failed": "Attempts that have failed.",
    "dead": "Batches that went into the dead-letter channel.",
}


def counter(name: str, help: str, value: int) -> CounterMetricFamily:
    return CounterMetricFamily(f"waterspout_{name}", help, value)


def counters(name: str, help: str, label: str, values: Mapping[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(f"waterspout_{name}", help, labels=[label])
    _add(family, values)
    return family


def gauge(name: str, help: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"waterspout_{name}", help, value)


def gauges(name: str, help: str, label: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"waterspout_{name}", help, labels=[label])
    _add(family, values)
    return family


def _add(family: CounterMetricFamily | GaugeMetricFamily, values: Mapping[str, float]) -> None:
    for key, value in sorted(values.items()):
        family.add_metric([key], value)


def histogram(name: str, help: str, values: Histogram) -> HistogramMetricFamily:
    return HistogramMetricFamily(f"waterspout_{name}", help, _buckets(values), values.sum)


def _buckets(values: Histogram) -> list[tuple[str, float]]:
    return [("+Inf" if bound == inf else str(float(bound)), float(count)) for bound, count in values.cumulative()]
