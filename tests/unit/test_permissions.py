"""Who may do what: deny by default, one place that decides."""

from __future__ import annotations

from typing import Any

import pytest

from server.config import RULES, Namespace
from server.errors import Error
from server.permissions import Action, Permissions
from server.principals import GUEST, Principal

USER = Principal(user="ann")
SERVER = Principal(user="shop", server=True)
WHO = {"guest": GUEST, "user": USER, "server": SERVER}
ALLOWED = {"anyone": {"guest", "user", "server"}, "user": {"user", "server"}, "server": {"server"}, "nobody": set()}
ACTIONS: tuple[Action, ...] = ("publish", "subscribe")


def allowed(principal: Principal, action: Action, channel: str = "room:1", **options: Any) -> bool:
    try:
        Permissions({"room": Namespace(**options)}).check(principal, action, channel)
    except Error as error:
        if error.code != "permission_denied":
            raise
        return False
    return True


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("rule", sorted(RULES))
@pytest.mark.parametrize("who", WHO)
def test_the_rules(who: str, rule: str, action: Action) -> None:
    """Each rule lets in exactly whom it names, and says nothing about the other action."""
    assert allowed(WHO[who], action, **{action: rule}) is (who in ALLOWED[rule])
    other = ACTIONS[action == "publish"]
    assert not allowed(WHO[who], other, **{action: rule})


def test_an_admin_key_is_no_right_to_channels() -> None:
    """Looking after the server is not reading its channels."""
    assert not allowed(Principal(user="ops", server=True, admin=True), "subscribe")


@pytest.mark.parametrize(
    ("pattern", "channel", "matches"),
    [
        ("room:1", "room:1", True),
        ("room:1", "room:12", False),
        ("room:*", "room:1", True),
        ("room:*", "room:a:b*c", True),
        ("room:a*z", "room:a-z", True),
        ("room:a*z", "room:a-zz-y", False),
        ("*", "room:1", True),
        ("roo*", "room:1", True),
        ("r*m:*", "room:1", True),
        ("chat:*", "room:1", False),
        ("room:.", "room:1", False),
        ("room:[0-9]", "room:1", False),
        ("room:?", "room:1", False),
        ("", "room:1", False),
    ],
)
def test_a_tokens_own_rights(pattern: str, channel: str, matches: bool) -> None:
    """A token's patterns know `*` and nothing else, and give just the actions they list."""
    ann = Principal(user="ann", channels={pattern: ["publish"]})
    assert allowed(ann, "publish", channel) is matches
    assert not allowed(ann, "subscribe", channel)


def test_a_right_does_not_declare_a_namespace() -> None:
    """Whoever may do anything still finds only declared namespaces, and well-formed names."""
    god = Principal(user="god", server=True, channels={"*": ["publish", "subscribe"]})
    permissions = Permissions({"room": Namespace()})
    for channel, code in [("attic:1", "unknown_channel"), ("docs:x", "unknown_channel"), ("$sys:x", "unknown_channel"),
                          ("room", "bad_request"), ("room:", "bad_request"), ("room:a b", "bad_request")]:  # fmt: skip
        with pytest.raises(Error) as caught:
            permissions.check(god, "subscribe", channel)
        assert caught.value.code == code


def test_the_answer_is_the_channels_options() -> None:
    """Who may, gets the options of the namespace."""
    room = Namespace(publish="user")
    assert Permissions({"room": room}).check(USER, "publish", "room:1") is room
