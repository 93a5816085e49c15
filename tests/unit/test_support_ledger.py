"""The checker fails on every fault it can name, and on nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.support.ledger import MIB, Log, PublisherLedger, Receipt, SubscriberLedger, Verdict, check, fingerprint

CHANNEL = "chat:lobby"


@dataclass
class Accounts:
    """Three accounts of five messages that agree, for a test to corrupt one of them."""

    publisher: PublisherLedger
    subscriber: SubscriberLedger
    control: SubscriberLedger
    entries: list[tuple[int, str]]
    floor: int = 0

    def verdict(self, growth: int = 0) -> Verdict:
        log = Log({CHANNEL: self.entries}, {CHANNEL: self.floor})
        return check("case", [self.publisher], [self.subscriber, self.control], log, growth=growth)

    def receive(self, index: int, count: int = 1) -> None:
        """Let the subscriber receive the message at `index` again."""
        self.subscriber.receipts += [self.subscriber.receipts[index]] * count


def accounts() -> Accounts:
    publisher = PublisherLedger("ann")
    subscriber = SubscriberLedger("bob", CHANNEL)
    control = SubscriberLedger("eve", CHANNEL, control=True)
    entries = []
    for offset in range(1, 6):
        key = f"k{offset}"
        publisher.sent(key, CHANNEL, {"n": offset})
        publisher.acknowledged(key, offset)
        entries.append((offset, key))
        for ledger in (subscriber, control):
            ledger.take({"type": "message", "offset": offset, "key": key, "data": {"n": offset}})
    return Accounts(publisher, subscriber, control, entries)


def test_accounts_that_agree_are_ok() -> None:
    verdict = accounts().verdict()
    assert verdict.ok, str(verdict)
    assert (verdict.sent, verdict.acknowledged, verdict.delivered) == (5, 5, 10)
    assert "ok" in verdict.line()


def test_nothing_sent_is_not_ok() -> None:
    assert not check("case", [], [], Log({})).ok


def _acknowledged_but_not_stored(all_: Accounts) -> None:
    all_.entries.pop()
    all_.subscriber.receipts.pop()
    all_.control.receipts.pop()


def _stored_elsewhere(all_: Accounts) -> None:
    all_.publisher.publications["k5"].offsets = [4]
    all_.publisher.publications["k5"].attempts = 2


def _last_one_not_received(all_: Accounts) -> None:
    all_.subscriber.receipts.pop()


def _middle_one_not_received(all_: Accounts) -> None:
    del all_.subscriber.receipts[2]


def _gap_claimed_for_what_is_retained(all_: Accounts) -> None:
    del all_.subscriber.receipts[0]
    all_.subscriber.take({"type": "gap", "from": 1, "to": 1})


def _received_twice(all_: Accounts) -> None:
    all_.receive(-1)


def _stored_twice(all_: Accounts) -> None:
    all_.entries.append((6, "k5"))
    for ledger in (all_.subscriber, all_.control):
        ledger.receipts.append(Receipt(6, "k5", fingerprint({"n": 5}), 0))


def _acknowledged_with_two_offsets(all_: Accounts) -> None:
    all_.publisher.acknowledged("k5", 6)


def _received_in_another_order(all_: Accounts) -> None:
    receipts = all_.subscriber.receipts
    receipts[1], receipts[2] = receipts[2], receipts[1]


def _stored_in_another_order_than_sent(all_: Accounts) -> None:
    publications = all_.publisher.publications
    publications["k4"].offsets, publications["k5"].offsets = [5], [4]
    all_.entries[3:] = [(4, "k5"), (5, "k4")]
    for ledger in (all_.subscriber, all_.control):
        first, second = ledger.receipts[3:]
        ledger.receipts[3:] = [second._replace(offset=4), first._replace(offset=5)]


def _offset_skipped(all_: Accounts) -> None:
    all_.entries[-1] = (7, "k5")
    all_.publisher.publications["k5"].offsets = [7]
    for ledger in (all_.subscriber, all_.control):
        ledger.receipts[-1] = ledger.receipts[-1]._replace(offset=7)


def _received_but_not_stored(all_: Accounts) -> None:
    all_.subscriber.receipts.append(Receipt(6, "k6", fingerprint(None), 0))


def _stored_but_never_sent(all_: Accounts) -> None:
    all_.entries.append((6, "k6"))
    for ledger in (all_.subscriber, all_.control):
        ledger.receipts.append(Receipt(6, "k6", fingerprint(None), 0))


def _received_with_other_data(all_: Accounts) -> None:
    all_.subscriber.receipts[0] = all_.subscriber.receipts[0]._replace(data=fingerprint({"n": 99}))


def _refused_but_stored(all_: Accounts) -> None:
    all_.publisher.sent("k6", CHANNEL, None)
    all_.publisher.refused("k6", "internal")
    all_.entries.append((6, "k6"))
    for ledger in (all_.subscriber, all_.control):
        ledger.receipts.append(Receipt(6, "k6", fingerprint(None), 0))


def _never_answered(all_: Accounts) -> None:
    all_.publisher.sent("k6", CHANNEL, None)


@pytest.mark.parametrize(
    ("corrupt", "fault"),
    [
        (_acknowledged_but_not_stored, "lost"),
        (_stored_elsewhere, "lost"),
        (_last_one_not_received, "missed"),
        (_middle_one_not_received, "missed"),
        (_gap_claimed_for_what_is_retained, "missed"),
        (_received_twice, "duplicates"),
        (_stored_twice, "duplicates"),
        (_acknowledged_with_two_offsets, "duplicates"),
        (_received_in_another_order, "out_of_order"),
        (_stored_in_another_order_than_sent, "out_of_order"),
        (_offset_skipped, "holes"),
        (_received_but_not_stored, "phantoms"),
        (_stored_but_never_sent, "phantoms"),
        (_received_with_other_data, "altered"),
        (_refused_but_stored, "false_refusals"),
        (_never_answered, "unanswered"),
    ],
)
def test_each_fault_is_found_and_named(corrupt: Callable[[Accounts], None], fault: str) -> None:
    all_ = accounts()
    corrupt(all_)
    verdict = all_.verdict()
    found = [name for name in Verdict.FAULTS if getattr(verdict, name)]
    assert found == [fault]
    assert not verdict.ok
    assert any(problem.startswith(fault) for problem in verdict.problems)
    assert "FAILED" in verdict.line()


def test_a_retried_message_has_no_promised_place_and_an_unknown_one_may_be_stored_or_not() -> None:
    all_ = accounts()
    _stored_in_another_order_than_sent(all_)
    all_.publisher.sent("k4", CHANNEL, {"n": 4})
    for key in ("k6", "k7"):
        all_.publisher.sent(key, CHANNEL, None)
        all_.publisher.unknown(key)
    all_.entries.append((6, "k6"))
    for ledger in (all_.subscriber, all_.control):
        ledger.receipts.append(Receipt(6, "k6", fingerprint(None), 0))
    verdict = all_.verdict()
    assert verdict.ok, str(verdict)
    assert verdict.unknown == 2


def test_a_refusal_after_an_unknown_attempt_settles_nothing() -> None:
    ledger = PublisherLedger()
    ledger.sent("k", CHANNEL, None)
    ledger.unknown("k")
    ledger.sent("k", CHANNEL, None)
    ledger.refused("k", "unavailable")
    assert ledger.publications["k"].outcome == "unknown"


def test_what_was_trimmed_is_owed_to_nobody() -> None:
    all_ = accounts()
    del all_.entries[:2]
    all_.floor = 2
    del all_.subscriber.receipts[:2]
    all_.subscriber.take({"type": "gap", "from": 1, "to": 2})
    assert all_.verdict().ok


def test_a_subscriber_is_owed_what_lies_between_its_start_and_its_end() -> None:
    all_ = accounts()
    all_.subscriber.start, all_.subscriber.end = 1, 4
    del all_.subscriber.receipts[4], all_.subscriber.receipts[0]
    assert all_.verdict().ok
    del all_.subscriber.receipts[0]
    assert all_.verdict().missed == 1


def test_a_control_client_notices_a_loss_a_delay_and_its_own_faults() -> None:
    lost = accounts()
    lost.control.disturbances.append("connection lost")
    assert lost.verdict().hurt == 1

    late = accounts()
    late.control.receipts[-1] = late.control.receipts[-1]._replace(at=late.control.receipts[-1].at + 6)
    assert late.verdict().hurt == 1
    assert 6 < late.verdict().recovery < 7

    wrong = accounts()
    wrong.control.receipts.pop()
    assert (wrong.verdict().hurt, wrong.verdict().missed) == (1, 1)


def test_memory_that_grows_past_the_limit_is_a_failure() -> None:
    assert accounts().verdict(growth=64 * MIB).ok
    assert not accounts().verdict(growth=65 * MIB).ok
