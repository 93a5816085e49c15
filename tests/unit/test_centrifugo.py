"""Names and commands of Centrifugo's protocol, without a server."""

from __future__ import annotations

import pytest

from server.centrifugo.names import Names
from server.core.errors import Error


@pytest.mark.parametrize("name", ["news", "news$1", "chat:a", "chat:a:b"])
def test_names_there_and_back(name: str) -> None:
    """One-to-one, and with a namespace that stands for no colon."""
    names = Names("cf")
    assert names.theirs(names.ours(name)) == name
    assert names.ours("news") == "cf:news"


@pytest.mark.parametrize(
    ("namespace", "name"),
    [(None, "news"), ("cf", "cf:news"), ("cf", "cf:a:b"), ("cf", "two words"), (None, "Chat:a"), ("cf", ":a")],
)
def test_names_that_no_channel_can_have(namespace: str | None, name: str) -> None:
    """Without a namespace where there is none, or under a second name."""
    with pytest.raises(Error, match="unknown_channel"):
        Names(namespace).ours(name)
