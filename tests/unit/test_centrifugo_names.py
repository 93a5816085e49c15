"""Their names and numbers for our channels and errors."""

from __future__ import annotations

import pytest

from server.centrifugo.codes import error_fields, unrecoverable
from server.centrifugo.names import Names
from server.core.errors import ERRORS, Error


def test_a_name_without_a_colon_lives_in_the_namespace() -> None:
    """There and back again it is the same name."""
    names = Names("cf")
    assert [names.ours(name) for name in ("news", "chat:lobby")] == ["cf:news", "chat:lobby"]
    assert [names.theirs(channel) for channel in ("cf:news", "chat:lobby")] == ["news", "chat:lobby"]


@pytest.mark.parametrize("name", ["cf:news", "a b", "A:b", ":x"])
def test_a_channel_has_one_name(name: str) -> None:
    """A second one is as unknown as one that no channel can have."""
    with pytest.raises(Error) as caught:
        Names("cf").ours(name)
    assert error_fields(caught.value)["code"] == 102


def test_without_a_namespace_such_a_name_is_unknown() -> None:
    """Error 102 says which option would give it a place."""
    with pytest.raises(Error, match=r"centrifugo\.namespace") as caught:
        Names(None).ours("news")
    assert error_fields(caught.value)["code"] == 102


def test_every_error_has_a_number() -> None:
    """All codes of the catalogue do, and those that may pass are temporary. What a back end has refused has its own."""
    fields = {code: error_fields(Error(code, "why")) for code in ERRORS}
    assert fields.pop("refused") == {"code": 422, "message": "why"}
    assert all(100 <= one["code"] <= 111 and one["message"] == "why" for one in fields.values())
    assert {code for code, one in fields.items() if one.get("temporary")} == {
        *("internal", "unavailable", "outcome_unknown", "rate_limited")
    }
    assert error_fields(unrecoverable("gone")) == {"code": 112, "message": "gone"}
