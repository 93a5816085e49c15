"""The hub: what a delivery costs, and who gets it when things change in the middle of a turn."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

from server.delivery.hub import DELIVERY_MESSAGES, Delivery, Hub
from server.wire.codec import JSON, MSGPACK, Codec
from server.wire.messages import Message
from server.wire.pushes import GapPush, Push
from tests.unit.virtual_time import run


class Counting(Codec):
    """A codec that counts what it encodes."""

    def __init__(self, codec: Codec) -> None:
        super().__init__(codec.name, codec.media_type, codec.opcode, self._encode, codec.decode)
        self.inner = codec
        self.encoded = 0

    def _encode(self, value: Any) -> bytes:
        self.encoded += 1
        return self.inner.encode(value)


class Sink:
    """Keeps what it is sent; `then` is called inside of every `send`."""

    def __init__(self, codec: Codec = JSON, name: str = "s", then: Callable[[], None] = lambda: None) -> None:
        self.id = name
        self.codec = codec
        self.direct_write: Callable[[bytes], None] | None = None
        self.topics = 0
        self.deliveries: list[Delivery] = []
        self.told: list[Push] = []
        self.flushes = 0
        self.then = then

    def send(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)
        self.then()

    def tell(self, push: Push, delivery: Delivery) -> None:
        self.told.append(push)
        self.send(delivery)

    def flush(self) -> None:
        self.flushes += 1

    @property
    def data(self) -> list[Any]:
        """The data of the messages it got, in order (of JSON frames below 126 bytes)."""
        return [push.get("data") for delivery in self.deliveries for push in pushes(delivery.data)]


def pushes(frames: bytes) -> list[Any]:
    result = []
    while frames:
        length = frames[1]
        assert length < 126
        result.append(json.loads(frames[2 : 2 + length]))
        frames = frames[2 + length :]
    return result


def message(offset: int, channel: str = "c:1", **more: Any) -> Message:
    return Message(channel, "e" if offset else "", offset, "k", None, 0, more.pop("data", offset), **more)


async def turn() -> None:
    """Let the hub's turn end."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)


def hub_test(test: Callable[[Hub], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Run the test with a new hub in a loop with a clock of its own."""

    def wrapped() -> None:
        async def main() -> None:
            await test(Hub())

        run(main())

    wrapped.__name__, wrapped.__doc__ = test.__name__, test.__doc__
    return wrapped


@hub_test
async def test_a_message_is_encoded_once_per_encoding(hub: Hub) -> None:
    """100 sinks of two encodings cost one encode a message and encoding, and share the same bytes."""
    codecs = [Counting(JSON), Counting(MSGPACK)]
    sinks = [Sink(codec) for codec in codecs for _ in range(50)]
    for sink in sinks:
        hub.add("c:1", sink)
    hub.deliver([message(offset) for offset in range(1, 11)])
    await turn()
    assert [codec.encoded for codec in codecs] == [10, 10]
    assert len({id(sink.deliveries[0].data) for sink in sinks}) == 2
    assert hub.encodes == 20


@hub_test
async def test_one_send_a_turn(hub: Hub) -> None:
    """What comes for a channel in one turn goes to each sink in one send, in order."""
    sinks = [Sink() for _ in range(5)]
    for sink in sinks:
        hub.add("c:1", sink)
    for offset in range(1, 9):
        hub.deliver([message(offset)])
    assert not any(sink.deliveries for sink in sinks)
    await turn()
    for sink in sinks:
        [delivery] = sink.deliveries
        assert (delivery.first, delivery.last, delivery.size) == (1, 8, 8)
        assert sink.data == list(range(1, 9))
    assert hub.sends == 5


@hub_test
async def test_a_turns_only_delivery_is_written_straight(hub: Hub) -> None:
    """To the sinks that have nothing waiting; with a second channel in the turn there is something to collect."""
    free, busy = Sink(name="free"), Sink(name="busy")
    written: list[bytes] = []
    free.direct_write = written.append
    for sink in (free, busy):
        hub.add("c:1", sink)
        hub.add("c:2", sink)
    hub.deliver([message(1), message(2)])
    await turn()
    assert [push["data"] for push in pushes(b"".join(written))] == busy.data == [1, 2]
    assert free.deliveries == []
    assert (hub.sends, hub.messages) == (2, 4)
    hub.deliver([message(3)])
    hub.deliver([message(1, "c:2")])
    await turn()
    assert len(written) == 1
    assert free.data == [3, 1]


@hub_test
async def test_who_listens_to_one_channel_alone_is_written_to_straight(hub: Hub) -> None:
    """However many channels the turn brings: for this one there is nothing to collect. Not while it has another one."""
    one, other = Sink(name="one"), Sink(name="other")
    written: list[bytes] = []
    one.direct_write = written.append
    for channel in ("c:1", "c:2"):
        hub.add(channel, other)
    for _ in range(2):  # twice is once
        hub.add("c:1", one)

    async def both() -> list[Any]:
        written.clear()
        one.deliveries.clear()
        for channel in ("c:1", "c:2"):
            hub.deliver([message(1, channel)])
        await turn()
        return [len(written), len(one.deliveries)]

    assert await both() == [1, 0]
    hub.add("c:2", one)
    assert await both() == [0, 2]
    for _ in range(2):
        hub.remove("c:2", one)
    assert await both() == [1, 0]
    assert len(other.deliveries) == 6


@hub_test
async def test_a_sink_that_cannot_be_written_to_is_alone_with_that(hub: Hub) -> None:
    """The others get the message all the same."""
    broken, whole = Sink(name="broken"), Sink(name="whole")
    broken.direct_write = [].remove
    for sink in (broken, whole):
        hub.add("c:1", sink)
    hub.deliver([message(1)])
    await turn()
    assert whole.data == [1]


@hub_test
async def test_a_long_turn_is_cut_without_holes(hub: Hub) -> None:
    """More messages than one delivery holds come in several, one behind the other."""
    sink = Sink()
    hub.add("c:1", sink)
    count = 3 * DELIVERY_MESSAGES + 1
    hub.deliver([message(offset) for offset in range(1, count + 1)])
    await turn()
    assert len(sink.deliveries) == 4
    assert sink.data == list(range(1, count + 1))
    assert [delivery.first for delivery in sink.deliveries] == [1, *(d.last + 1 for d in sink.deliveries[:-1])]
    assert sum(delivery.size for delivery in sink.deliveries) == count


@hub_test
async def test_no_task_per_delivery(hub: Hub) -> None:
    """However many messages, channels and sinks, a turn is one callback and no task at all."""
    for number in range(20):
        for _ in range(5):
            hub.add(f"c:{number}", Sink())
    loop = asyncio.get_running_loop()
    created: list[Any] = []
    loop.set_task_factory(
        lambda loop, coro, **options: created.append(coro) or asyncio.Task(coro, loop=loop, **options)
    )
    callbacks: list[Any] = []
    call_soon = loop.call_soon
    loop.call_soon = lambda *args, **options: callbacks.append(args) or call_soon(*args, **options)  # type: ignore[method-assign]
    for number in range(20):
        hub.deliver([message(1, f"c:{number}"), message(2, f"c:{number}")])
    del loop.call_soon
    await turn()
    assert (len(created), len(callbacks), hub.sends) == (0, 1, 100)


@hub_test
async def test_channels_do_not_mix(hub: Hub) -> None:
    """A sink gets its channels and no other; nobody listening costs nothing."""
    one, other = Sink(), Sink()
    hub.add("c:1", one)
    hub.add("c:2", other)
    hub.deliver([message(1)])
    hub.deliver([message(1, "c:3")])
    await turn()
    assert (one.data, other.data, hub.encodes) == ([1], [], 1)
    assert (hub.count("c:1"), hub.count("c:3")) == (1, 0)


@hub_test
async def test_joining_and_leaving_in_the_middle_of_a_turn(hub: Hub) -> None:
    """Who joins gets only what comes after it, who leaves has got all that came before: to the message."""
    first, second = Sink(), Sink()
    hub.add("c:1", first)
    hub.deliver([message(1)])
    hub.add("c:1", second)
    hub.deliver([message(2)])
    hub.remove("c:1", first)
    assert first.data == [1, 2]
    hub.deliver([message(3)])
    await turn()
    assert (first.data, second.data) == ([1, 2], [2, 3])
    hub.remove("c:1", second)
    hub.remove("c:1", second)
    hub.deliver([message(4)])
    await turn()
    assert second.data == [2, 3]
    assert hub.count("c:1") == 0


@hub_test
async def test_coming_back_in_the_same_turn(hub: Hub) -> None:
    """The only sink of a channel may leave and come back before the turn ends, and misses only what came between."""
    sink = Sink()
    hub.add("c:1", sink)
    hub.deliver([message(1)])
    hub.remove("c:1", sink)
    hub.deliver([message(2)])
    hub.add("c:1", sink)
    hub.deliver([message(3)])
    await turn()
    assert sink.data == [1, 3]


@hub_test
async def test_a_sink_may_leave_while_it_is_sent_to(hub: Hub) -> None:
    """A sink that cannot keep up leaves from inside of `send`; nobody else notices."""
    leaving = Sink(name="leaving")
    leaving.then = lambda: hub.remove("c:1", leaving)
    others = [Sink(), leaving, Sink(), Sink(MSGPACK)]
    for sink in others:
        hub.add("c:1", sink)
    hub.deliver([message(1)])
    await turn()
    hub.deliver([message(2)])
    await turn()
    assert [len(sink.deliveries) for sink in others] == [2, 1, 2, 2]


@hub_test
async def test_a_sink_may_have_others_leave_while_it_is_sent_to(hub: Hub) -> None:
    """Whoever is removed during a turn, the last of its encoding included, the other channels get theirs."""
    last_of_its_encoding = Sink(MSGPACK)
    one = Sink(then=lambda: hub.remove("c:1", last_of_its_encoding))
    elsewhere = Sink()
    hub.add("c:1", one)
    hub.add("c:1", last_of_its_encoding)
    hub.add("c:2", elsewhere)
    hub.deliver([message(1)])
    hub.deliver([message(1, "c:2")])
    await turn()
    assert (one.data, elsewhere.data, hub.count("c:1")) == ([1], [1], 1)


@hub_test
async def test_what_a_send_brings_about_is_delivered_too(hub: Hub) -> None:
    """A delivery made from inside of a `send`, to a channel that has had its turn or to its own, is not forgotten."""
    sink, other = Sink(), Sink()
    more = [message(1, "c:2"), message(2)]

    def deliver_more() -> None:
        while more:
            hub.deliver([more.pop()])

    sink.then = deliver_more
    hub.add("c:1", sink)
    hub.add("c:2", other)
    hub.deliver([message(1)])
    await turn()
    await turn()
    assert (sink.data, other.data) == ([1, 2], [1])


@hub_test
async def test_what_cannot_be_encoded_costs_nobody_else_anything(hub: Hub) -> None:
    """One message that breaks its encoder does not take the other channels' messages along, now or later."""
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    broken, fine = Sink(), Sink()
    hub.add("c:1", broken)
    hub.add("c:2", fine)
    hub.deliver([message(1, data=object())])
    hub.deliver([message(1, "c:2")])
    await turn()
    hub.deliver([message(2, "c:2")])
    await turn()
    assert fine.data == [1, 2]


@hub_test
async def test_a_sink_that_cannot_be_flushed_costs_nobody_else_anything(hub: Hub) -> None:
    """One connection that fails at the end of a turn does not keep the others from theirs, now or later."""
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    broken, fine = Sink(), Sink()

    def fail() -> None:
        raise OSError("broken")

    broken.flush = fail  # type: ignore[method-assign]
    for turns in (1, 2):
        hub.wake(broken)
        hub.wake(fine)
        await turn()
        assert fine.flushes == turns


@hub_test
async def test_a_publisher_may_leave_out_its_own_message(hub: Hub) -> None:
    """`skip` leaves one message out for one session; it still learns how far the channel has come."""
    ann, bob = Sink(name="ann"), Sink(name="bob")
    hub.add("c:1", ann)
    hub.add("c:1", bob)
    hub.deliver([message(1, skip="bob"), message(2), message(3, skip="ann")])
    await turn()
    assert (ann.data, bob.data) == ([1, 2], [2, 3])
    assert [sink.deliveries[-1].last for sink in (ann, bob)] == [3, 3]
    assert [sink.deliveries[-1].size for sink in (ann, bob)] == [2, 2]


@hub_test
async def test_a_push_keeps_its_place(hub: Hub) -> None:
    """A gap is told between the message before it and the one behind it, once per encoding."""
    codec = Counting(JSON)
    sinks = [Sink(codec), Sink(codec)]
    for sink in sinks:
        hub.add("c:1", sink)
    hub.deliver([message(1)])
    hub.tell("c:1", GapPush.trimmed("c:1", "e", 2, 4), 2, 4)
    hub.deliver([message(5)])
    await turn()
    hub.tell("c:9", GapPush.trimmed("c:9", "e", 1, 1), 1, 1)
    for sink in sinks:
        told = [(delivery.first, delivery.last, delivery.size) for delivery in sink.deliveries]
        assert told == [(1, 1, 1), (2, 4, 0), (5, 5, 1)]
    assert codec.encoded == 3


@hub_test
async def test_a_sink_is_flushed_at_the_end_of_the_turn(hub: Hub) -> None:
    """A sink that asks for it is told once that the turn is over, behind everything that was sent in it."""
    sink = Sink()
    seen: list[int] = []
    sink.then = lambda: hub.wake(sink) if len(sink.deliveries) == 1 else None
    sink.flush = lambda: seen.append(len(sink.deliveries))  # type: ignore[method-assign]
    for number in (1, 2, 3):
        hub.add(f"c:{number}", sink)
        hub.deliver([message(1, f"c:{number}")])
    await turn()
    assert seen == [3]
    hub.wake(sink)
    await turn()
    assert seen == [3, 3]


def value(number: int, tag: str | None = None) -> Message:
    return message(0, data=number, tag=tag)


@hub_test
async def test_conflation(hub: Hub) -> None:
    """The first message goes at once, then the newest of each tag every interval, in the order they came."""
    sink = Sink()
    hub.add("c:1", sink, conflate=0.1)
    hub.deliver([value(1)])
    await turn()
    assert sink.data == [1]
    for number, tag in [(2, None), (3, "a"), (4, "b"), (5, None), (6, "a")]:
        hub.deliver([value(number, tag)])
    await turn()
    assert sink.data == [1]
    await asyncio.sleep(0.11)
    assert sink.data == [1, 4, 5, 6]
    assert len(sink.deliveries) == 2
    await asyncio.sleep(0.3)
    assert sink.data == [1, 4, 5, 6]
    hub.deliver([value(7)])
    await turn()
    assert sink.data[-1] == 7


@hub_test
async def test_conflation_keeps_to_its_interval_and_ends_with_the_newest(hub: Hub) -> None:
    """However fast the messages come, there is one delivery an interval, and the last message is never lost."""
    sink = Sink()
    hub.add("c:1", sink, conflate=0.1)
    for number in range(1001):
        hub.deliver([value(number)])
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.2)
    assert 9 <= len(sink.deliveries) <= 12
    assert sink.data[-1] == 1000
    assert sink.data == sorted(sink.data)


@hub_test
async def test_conflation_ends_with_its_last_sink(hub: Hub) -> None:
    """What was being held back for somebody who left is not for whoever comes next."""
    one, other = Sink(), Sink()
    hub.add("c:1", one, conflate=0.1)
    hub.deliver([value(1)])
    await turn()
    hub.deliver([value(2)])
    hub.remove("c:1", one)
    hub.add("c:1", other, conflate=0.1)
    await asyncio.sleep(0.3)
    assert other.data == []
