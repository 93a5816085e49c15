"""What a revocation of rights reaches."""

from __future__ import annotations

import pytest

from server.access.revocations import Revocation


@pytest.mark.parametrize(
    ("pattern", "channel", "covered"),
    [
        ("chat:*", "chat:a", True),
        ("chat:a", "chat:a/b", False),
        ("docs:orders", "docs:orders", True),
        ("docs:orders", "docs:orders/o1", True),
        ("docs:orders", "docs:others/o1", False),
        ("docs:orders/o1", "docs:orders", False),
        ("docs:orders/o1", "docs:orders/o1", True),
        ("docs:orders", "docs:orders#open", True),
        ("docs:orders/a", "docs:orders/a#b", False),
        ("docs:*", "docs:orders#open", True),
        ("docs:orders/a", "docs:orders#/a", False),
        ("chat:a", "$thread:12:chat:a", True),
        ("chat:*", "$thread:12:chat:a", True),
        ("*", "$thread:12:chat:a", True),
        ("chat:b", "$thread:12:chat:a", False),
        ("$thread:12:chat:a", "$thread:12:chat:a", True),
        ("$thread:12:chat:a", "$thread:13:chat:a", False),
        ("$thread:12:chat:a", "chat:a", False),
    ],
)
def test_a_collection_takes_its_documents_and_a_channel_its_threads(pattern: str, channel: str, covered: bool) -> None:
    assert Revocation("revoke", "ann", 0.0, channels=[pattern]).covers(channel) is covered


@pytest.mark.parametrize(
    ("channel", "subscription", "meant"),
    [
        ("docs:orders", "docs:orders#open", True),
        ("docs:orders#open", "docs:orders#open", True),
        ("docs:orders#open", "docs:orders", False),
        ("docs:orders", "docs:orders/1", False),
    ],
)
def test_a_subscription_is_ended_by_either_of_its_names(channel: str, subscription: str, meant: bool) -> None:
    assert Revocation("unsubscribe", "ann", 0.0, channels=[channel]).names(subscription) is meant
