"""Who may do what: deny by default, one place that decides."""

from __future__ import annotations

import fnmatch
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.access.permissions import Action, Permissions
from server.core.config import BUILT_IN, Namespace
from server.core.errors import Error
from server.core.names import matches
from server.core.principals import GUEST, Principal

USER = Principal(user="ann")
SERVER = Principal(user="shop", server=True)
WHO = {"guest": GUEST, "user": USER, "server": SERVER, "admin": Principal(user="ops", server=True, admin=True)}
SERVERS = {"server", "admin"}
ALLOWED = {
    "anyone": SERVERS | {"guest", "user"}, "user": SERVERS | {"user"}, "server": SERVERS, "admin": {"admin"},
    "nobody": set(),
}  # fmt: skip
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
@pytest.mark.parametrize("rule", ALLOWED)
@pytest.mark.parametrize("who", WHO)
def test_the_rules(who: str, rule: str, action: Action) -> None:
    """Each rule lets in exactly whom it names, and says nothing about the other action."""
    assert allowed(WHO[who], action, **{action: rule}) is (who in ALLOWED[rule])
    other = ACTIONS[action == "publish"]
    assert not allowed(WHO[who], other, **{action: rule})


def test_an_admin_key_is_no_right_to_channels() -> None:
    """Looking after the server is not reading its channels."""
    assert not allowed(Principal(user="ops", server=True, admin=True), "subscribe")


def test_a_personal_channel_is_of_whom_all_of_its_name_names() -> None:
    """`$user:a:b` is of the user `a:b`, not of `a` and `b`; and no token carries a right to what is built in."""
    permissions = Permissions(BUILT_IN)
    assert permissions.check(Principal(user="a:b"), "subscribe", "$user:a:b") is BUILT_IN["$user"]
    for stranger in (
        Principal(user="a"), Principal(user="b"), SERVER, Principal(user="ann", channels={"$user:*": ["subscribe"]}),
    ):  # fmt: skip
        with pytest.raises(Error, match="permission_denied"):
            permissions.check(stranger, "subscribe", "$user:a:b")


@pytest.mark.parametrize(
    ("pattern", "channel", "matches"),
    [
        ("room:1", "room:1", True),
        ("room:1", "room:12", False),
        ("room:*", "room:1", True),
        ("room:*", "room:a:b*c", True),
        ("room:a*z", "room:a-z", True),
        ("room:a*z", "room:a-zz-y", False),
        ("room:a*b*c", "room:a-b-c", True),
        ("room:a*b*c", "room:a-c-b-c", True),
        ("room:a*b*c", "room:a-c", False),
        ("room:ab*ba", "room:aba", False),
        ("room:*a*a*", "room:a", False),
        ("room:**", "room:1", True),
        ("*", "room:1", True),
        ("*:1", "room:1", True),
        ("*:2", "room:1", False),
        ("roo*", "room:1", False),
        ("room*", "room:1", False),
        ("room*:1", "room:1", False),
        ("r*m:*", "room:1", False),
        ("chat:*", "room:1", False),
        ("room:.", "room:1", False),
        ("room:[0-9]", "room:1", False),
        ("room:?", "room:1", False),
        ("", "room:1", False),
    ],
)
def test_a_tokens_own_rights(pattern: str, channel: str, matches: bool) -> None:
    """A pattern knows `*` behind the namespace and for a whole one, and gives just the actions it lists."""
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


# --- the language of rules --------------------------------------------------------------------------------------------

ANN = Principal(user="ann", claims={"sub": "ann", "vip": True, "role": "editor", "teams": ["red", "blue"], "age": 7,
                                    "none": None, "zero": 0, "empty": "", "no": False})  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "subject", "satisfied"),
    [
        ("claim:vip", "room:1", True),
        ("claim:vip=true", "room:1", True),
        ("claim:vip=True", "room:1", False),
        ("claim:no", "room:1", False),
        ("claim:no=false", "room:1", True),
        ("claim:role=editor", "room:1", True),
        ("claim:role=admin", "room:1", False),
        ("claim:role", "room:1", True),
        ("claim:teams=blue", "room:1", True),
        ("claim:teams=green", "room:1", False),
        ("claim:age=7", "room:1", True),
        ("claim:none", "room:1", False),
        ("claim:none=None", "room:1", False),
        ("claim:zero", "room:1", False),
        ("claim:empty", "room:1", False),
        ("claim:missing", "room:1", False),
        ("owner", "room:ann", True),
        ("owner", "room:bob:ann", True),
        ("owner", "room:anna", False),
        ("owner", "room:bob.ann", False),
        ("server|owner", "room:ann", True),
        ("server | claim:vip", "room:1", True),
        (["server", "claim:role=editor"], "room:1", True),
        (["server", "owner"], "room:1", False),
    ],
)
def test_claims_owners_and_lists(rule: Any, subject: str, satisfied: bool) -> None:
    assert allowed(ANN, "subscribe", subject, subscribe=rule) is satisfied


@pytest.mark.parametrize("rule", ["owner", "claim:vip", "claim:user=ann"])
def test_a_server_is_no_owner_and_has_no_claims(rule: str) -> None:
    """The name of an API key may be the same as somebody's user: that makes it nobody's."""
    assert not allowed(Principal(user="ann", server=True), "publish", "room:ann", publish=rule)
    assert not allowed(GUEST, "publish", "room:ann", publish=rule)


def test_a_namespace_called_like_a_user_is_not_its_own() -> None:
    assert not allowed(Principal(user="room"), "subscribe", "room:1", subscribe="owner")


@pytest.mark.parametrize("pattern", ["*", "*:*", "*:x"])
def test_no_star_reaches_what_is_built_in(pattern: str) -> None:
    """`docs` and `$sys` are given by name or not at all."""
    assert not matches(pattern, "docs:x")
    assert not matches(pattern, "$sys:x")
    assert matches("docs:*", "docs:x")


def test_no_pattern_takes_long() -> None:
    """A stranger's pattern on a stranger's name: with a regular expression this would take until the sun goes out."""
    assert not matches("room:" + "*a" * 120 + "*b*", "room:" + "a" * 250)


@given(st.text("ab*", max_size=12), st.text("ab", min_size=1, max_size=12))
def test_patterns_are_those_of_fnmatch(pattern: str, rest: str) -> None:
    assert matches(f"room:{pattern}", f"room:{rest}") is fnmatch.fnmatchcase(rest, pattern)


class Taken:
    """Revoked: ann's right to room:secret*; and whether that is all is known, or not."""

    def __init__(self, confirmed: bool) -> None:
        self.confirmed = confirmed

    def token(self, principal: Principal) -> bool:
        return principal.token == "stolen"

    def right(self, principal: Principal, channel: str) -> bool:
        return principal.user == "ann" and channel.startswith("room:secret")

    def refusal(self, principal: Principal, channel: str | None = None, what: str = "") -> Error:
        return Error("unauthenticated" if channel is None else "permission_denied", what)


@pytest.mark.parametrize(
    ("principal", "rule", "channel", "confirmed", "guests", "code"),
    [
        (USER, "user", "room:1", True, True, None),
        (USER, "user", "room:secret", True, True, "permission_denied"),
        (USER, "anyone", "room:secret", True, True, "permission_denied"),
        (Principal(user="ann", token="stolen"), "anyone", "room:1", True, True, "unauthenticated"),
        (USER, "user", "room:1", False, True, "unavailable"),
        (USER, "anyone", "room:1", False, True, None),
        (USER, "anyone", "room:1", False, False, "unavailable"),
        (USER, "nobody", "room:1", False, True, "permission_denied"),
        (GUEST, "anyone", "room:1", False, True, None),
        (SERVER, "server", "room:secret", False, True, None),
    ],
)
def test_what_was_revoked(
    principal: Principal, rule: str, channel: str, confirmed: bool, guests: bool, code: str | None
) -> None:
    """A revocation takes what a rule gives; and where nobody knows of the newest, a user has to wait, unless any guest
    might as well."""
    permissions = Permissions({"room": Namespace(subscribe=rule)}, Taken(confirmed), guests)
    if code is None:
        permissions.check(principal, "subscribe", channel)
    else:
        with pytest.raises(Error) as caught:
            permissions.check(principal, "subscribe", channel)
        assert caught.value.code == code
    assert permissions.deliveries_wait(principal, channel) is (principal is not GUEST and principal is not SERVER and
                                                    (rule != "anyone" or not guests))  # fmt: skip
