"""Signing in with passkeys, with a device in software: honest ones, and what is forged, replayed or another's."""

from __future__ import annotations

import hashlib
import io
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from server.access.accounts.families import Visit
from server.core import config
from server.core.errors import StartError
from server.node import Node
from tests.support.authenticator import PRESENT, Authenticator, base64url, installed
from tests.support.commands import called
from tests.support.processes import Mongod

if not installed:
    pytest.skip("the extra `passkeys` is not installed", allow_module_level=True)

PASSWORD, KEY = "correct horse battery", "the-key-of-an-operator"
URL = "https://rt.example.com"


@pytest.fixture
def settings() -> dict[str, object]:
    return {
        "auth.accounts": True,
        "auth.passkeys": True,
        "auth.passkey_domain": "example.com",
        "auth.api_keys": {"ops": {"sha256": hashlib.sha256(KEY.encode()).hexdigest(), "admin": True}},
        "server.url": URL,
        "origins": ["https://shop.example.com", "https://example.com.evil.org"],
    }


@pytest.fixture
def register(ask: Any) -> Any:
    async def register(user: str) -> str:
        status, tokens = await ask("POST", "/auth/register", {"user": user, "password": PASSWORD})
        assert status == 201
        return str(tokens["token"])

    return register


@pytest.fixture
def begin(ask: Any) -> Any:
    """Of a new one with a token, else of a sign-in."""

    async def begin(token: str | None = None) -> Any:
        body = {"password": PASSWORD} if token else {}
        status, question = await ask("POST", f"/auth/passkey/{'new' if token else 'begin'}", body, token)
        assert status == 200, question
        return question

    return begin


@pytest.fixture
def add(ask: Any, begin: Any) -> Any:
    async def add(token: str, device: Authenticator, name: str = "My phone") -> Any:
        status, row = await ask("POST", "/auth/passkeys", {"name": name, **device.create(await begin(token))}, token)
        assert status == 201, row
        return row

    return add


@pytest.mark.gen_test
async def test_a_passkey_from_its_making_to_its_end(ask: Any, begin: Any, add: Any, register: Any, node: Node) -> None:
    """It takes the password to add one; a sign-in takes no name; what it has signed in ends with it, the session that
    asks excepted, and then it is good no longer."""
    ann, phone, shop = await register("Ann"), Authenticator(URL), Authenticator("https://shop.example.com")
    assert (await ask("GET", "/auth"))[1]["passkeys"] == "example.com"
    for wrong, status in (({"password": "not the password"}, 403), ({}, 400)):
        assert (await ask("POST", "/auth/passkey/new", wrong, ann))[0] == status
    question = await begin(ann)
    assert question["options"]["authenticatorSelection"]["residentKey"] == "required"
    assert question["options"]["authenticatorSelection"]["userVerification"] == "required"
    assert question["options"]["user"]["name"] == "Ann"
    row = await add(ann, phone, " My phone ")
    assert (row["name"], row["used"], row["passkey"]) == ("My phone", None, base64url(phone.id))
    assert (await begin(ann))["options"]["excludeCredentials"][0]["id"] == row["passkey"]
    await add(ann, shop, "Of the shop's page")

    signed_in = []
    for device in (phone, phone, shop):
        question = await begin()
        assert "allowCredentials" not in question["options"] or not question["options"]["allowCredentials"]
        status, tokens = await ask("POST", "/auth/passkey", device.get(question))
        assert (status, tokens["user"]) == (200, "Ann"), tokens
        signed_in.append(tokens)
    rows = (await ask("GET", "/auth/passkeys", None, signed_in[0]["token"]))[1]["passkeys"]
    assert [(one["name"], one["used"] is not None) for one in rows] == [
        ("My phone", True),
        ("Of the shop's page", True),
    ]
    assert "key" not in rows[0]
    sessions = (await ask("GET", "/auth/sessions", None, ann))[1]["sessions"]
    assert sorted(session["way"] for session in sessions) == ["passkey"] * 3 + ["password"]

    assert (await ask("DELETE", f"/auth/passkeys/{row['passkey']}", None, signed_in[0]["token"]))[0] == 204
    for tokens, status in zip(signed_in, (200, 401, 200), strict=True):
        assert (await ask("POST", "/auth/refresh", {"refresh_token": tokens["refresh_token"]}))[0] == status
    assert (await ask("GET", "/auth/me", None, signed_in[1]["token"]))[0] == 401, "revoked"
    assert (await ask("POST", "/auth/passkey", phone.get(await begin())))[0] == 401
    assert (await ask("DELETE", f"/auth/passkeys/{row['passkey']}", None, ann))[0] == 404
    assert node.accounts is not None
    await node.accounts.store.change("ann", {"disabled": True})
    status, refused = await ask("POST", "/auth/passkey", shop.get(await begin()))
    assert (status, refused["reason"]) == (403, "this account is disabled")


@pytest.mark.gen_test
async def test_nothing_forged_is_added(ask: Any, begin: Any, add: Any, register: Any, node: Node) -> None:
    """Each refusal says why and leaves nothing behind: another challenge, page or domain, nobody verified, a state that
    was used, another session's or another user's."""
    ann, bob = await register("ann"), await register("bob")
    device = Authenticator(URL)
    assert node.accounts is not None
    for user in ("ann", "bob"):  # who have signed in just now, which is proof enough without a password
        await node.accounts.store.change(user, {"password": None})
    ann_account = await node.accounts.store.find("ann")

    async def refused(status: int, why: str, token: str = ann, question: Any = None, **other: Any) -> None:
        question = question or await begin(ann)
        body = {"name": other.pop("name", "x"), **device.create(question, **other)}
        answered, problem = await ask("POST", "/auth/passkeys", body, token)
        assert (answered, why in problem["reason"]) == (status, True), problem
        assert (await ask("POST", "/auth/passkeys", body | {"name": "x"}, token))[0] == 400, "a state is good once"

    await refused(400, "another challenge", challenge=base64url(b"x" * 32))
    await refused(400, "of a page that is not", origin="https://evil.example.org")
    await refused(400, "of a page that is not", origin="https://example.com.evil.org")
    await refused(400, "within another one's", cross_origin=True)
    await refused(400, "credential:", domain="evil.org")
    await refused(400, "credential:", type="webauthn.get")
    await refused(400, "credential:", flags=PRESENT)
    await refused(400, "state:", bob)
    await refused(400, "state:", question=(await begin(ann)) | {"state": (await begin())["state"]})
    assert ann_account is not None
    again = await node.accounts.log_in(ann_account, Visit("127.0.0.1"), "password")
    await refused(400, "state:", again["token"])
    question = await begin(ann)
    for name in ("", " ", "x" * 65, "a\nb"):
        status, problem = await ask("POST", "/auth/passkeys", {"name": name, **device.create(question)}, ann)
        assert (status, problem["reason"].startswith("name")) == (400, True), problem
    for path, value in (
        ("attestationObject", "oA"),
        ("attestationObject", ""),
        ("attestationObject", 7),
        ("clientDataJSON", "e30"),
        ("clientDataJSON", "not base64!"),
    ):
        body = {"name": "x", **device.create(await begin(ann))}
        body["credential"]["response"][path] = value
        assert (await ask("POST", "/auth/passkeys", body, ann))[0] == 400, (path, value)
    assert await node.database.own("passkeys").count_documents({}) == 0
    await add(ann, device)
    body = {"name": "mine", **device.create(await begin(bob))}
    assert (await ask("POST", "/auth/passkeys", body, bob))[1]["code"] == "conflict", "it is ann's"
    rows = [{"_id": f"{number:04}", "user": "ann", "name": "x", "key": b""} for number in range(19)]
    await node.database.own("passkeys").insert_many(rows)
    body = {"name": "one more", **Authenticator(URL).create(await begin(ann))}
    assert (await ask("POST", "/auth/passkeys", body, ann))[1]["code"] == "limit_exceeded"
    assert await node.database.own("passkeys").count_documents({"user": "ann"}) == 20


@pytest.mark.gen_test
async def test_what_is_larger_than_a_device_says_is_not_read(ask: Any, begin: Any, add: Any, register: Any) -> None:
    """Each field has a bound, which its refusal names, and no state is spent: what is made for it takes minutes."""
    ann, device = await register("ann"), Authenticator(URL)
    await add(ann, device)
    for path, token, body in (
        ("/auth/passkeys", ann, {"name": "x", **Authenticator(URL).create(await begin(ann))}),
        ("/auth/passkey", None, device.get(await begin())),
    ):
        good = body["credential"]
        for field in ("id", *(f"response.{one}" for one in good["response"] if one != "transports")):
            within, _, name = field.rpartition(".")
            forged = json.loads(json.dumps(good))
            (forged["response"] if within else forged)[name] = "A" * 8193
            status, problem = await ask("POST", path, body | {"credential": forged}, token)
            assert (status, problem["code"]) == (413, "too_large"), problem
            assert problem["reason"] == f"credential.{field}: 8193 characters; 8192 at most"
        assert (await ask("POST", path, body, token))[0] in (200, 201), "the state is good still"


@pytest.mark.gen_test
async def test_nothing_forged_signs_in(ask: Any, begin: Any, add: Any, register: Any, log: io.StringIO) -> None:
    """A passkey that nobody has is refused in the words for a signature that is another's; a count that went back is
    told to the operator; an answer is good once."""
    device, stranger = Authenticator(URL), Authenticator(URL)
    row = await add(await register("ann"), device)
    stranger.handle = device.handle
    words = "credential: not a passkey of an account here, or not good"

    async def refused(why: str, one: Authenticator = device, question: Any = None, **other: Any) -> None:
        body = one.get(question or await begin(), **other)
        status, problem = await ask("POST", "/auth/passkey", body)
        assert (status, problem["code"], why in problem["reason"]) == (401, "unauthenticated", True), problem
        assert (await ask("POST", "/auth/passkey", body))[1]["reason"].startswith("state:"), "good once"

    await refused(words, stranger)
    await refused(words, key=ec.generate_private_key(ec.SECP256R1()))
    await refused(words, handle=base64url(b"another's"))
    await refused(words, handle="")
    await refused(words, domain="evil.org")
    await refused(words, flags=PRESENT)
    await refused(words, type="webauthn.create")
    await refused("another challenge", challenge=(await begin())["options"]["challenge"])
    await refused("of a page that is not", origin="https://evil.example.org")
    await refused("within another one's", cross_origin=True)
    await refused("state:", question=(await begin()) | {"state": "made up"})
    assert (await ask("POST", "/auth/passkey", device.get(await begin())))[0] == 200
    assert "may have been copied" not in log.getvalue()
    await refused(words, count=1)
    assert "may have been copied" in log.getvalue()
    body = device.get(await begin())
    assert (await ask("POST", "/auth/passkey", body))[0] == 200
    assert (await ask("POST", "/auth/passkey", body))[0] == 401, "replayed"
    assert row["passkey"] not in log.getvalue()

    for _ in range(100):  # of what was refused, most were free
        status, problem = await ask(
            "POST", "/auth/passkey", stranger.get({"state": "x", "options": {"rpId": "", "challenge": ""}})
        )
        if status == 429:
            break
    assert (status, problem["code"]) == (429, "rate_limited")


@pytest.mark.gen_test
async def test_what_is_removed_while_it_signs_in_does_not(
    ask: Any, begin: Any, add: Any, register: Any, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A passkey that was good when it was looked at, and is removed before there are tokens, leaves no session."""
    ann, device = await register("ann"), Authenticator(URL)
    row = await add(ann, device)
    assert node.accounts is not None
    honest, remove = node.accounts.families.begin, node.accounts.credentials.remove

    async def meanwhile(*about: Any) -> Any:
        assert await remove("ann", row["passkey"])
        return await honest(*about)

    monkeypatch.setattr(node.accounts.families, "begin", meanwhile)
    assert (await ask("POST", "/auth/passkey", device.get(await begin())))[0] == 401
    sessions = (await ask("GET", "/auth/sessions", None, ann))[1]["sessions"]
    assert [session["way"] for session in sessions] == ["password"]


@pytest.mark.gen_test
async def test_what_is_added_while_the_account_changes_is_not(
    ask: Any, begin: Any, register: Any, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A passkey that was on its way when the password was changed, or its session ended, is no way in."""
    assert node.accounts is not None
    honest = node.accounts.credentials.insert
    for user, path, method, change in (
        ("ann", "/auth/password", "POST", {"old": PASSWORD, "password": "another password"}),
        ("bob", "/auth/sessions", "DELETE", None),
    ):
        token = await register(user)

        async def meanwhile(
            one: Any, token: str = token, method: str = method, path: str = path, change: Any = change
        ) -> None:
            assert (await ask(method, path, change, token))[0] in (200, 204)
            await honest(one)

        monkeypatch.setattr(node.accounts.credentials, "insert", meanwhile)
        body = {"name": "x", **Authenticator(URL).create(await begin(token))}
        status, problem = await ask("POST", "/auth/passkeys", body, token)
        assert (status, problem["code"]) == (409, "conflict")
    assert await node.database.own("passkeys").count_documents({}) == 0


@pytest.mark.gen_test
async def test_operators_look_after_them(
    ask: Any, begin: Any, add: Any, register: Any, mongod: Mongod, node: Node
) -> None:
    """They list and remove them, by REST and on the command line; nobody else does. Whoever takes the name of an
    account that was deleted is somebody else: no passkey of the first is good, even if it were still there."""
    ann, device, lost = await register("ann"), Authenticator(URL), Authenticator(URL)
    row = await add(ann, device)
    await add(ann, lost, "A phone that is lost")
    _, tokens = await ask("POST", "/auth/passkey", lost.get(await begin()))
    removed = f"/accounts/ann/passkeys/{base64url(lost.id)}"
    for method, path in (("GET", "/accounts/ann/passkeys"), ("DELETE", removed)):
        assert (await ask(method, path, None, ann))[0] == 403
    listed = (await ask("GET", "/accounts/ann/passkeys", None, KEY))[1]["passkeys"]
    assert [one["name"] for one in listed] == ["My phone", "A phone that is lost"]
    assert (await ask("DELETE", removed, None, KEY))[0] == 204
    assert (await ask("DELETE", removed, None, KEY))[0] == 404
    assert (await ask("POST", "/auth/refresh", {"refresh_token": tokens["refresh_token"]}))[0] == 401

    kept = await node.database.own("passkeys").find_one({"_id": row["passkey"]})
    flags = (
        f"--mongodb-uri={mongod.uri}",
        f"--set=mongodb.database={node.config.mongodb.database}",
        "--set=auth.accounts=true",
    )
    code, said = await called("users", "passkeys", "ann", *flags)
    assert (code, row["passkey"] in said, "lost" in said) == (0, True, False), said
    code, said = await called("users", "remove-passkey", *flags, "--", "ann", row["passkey"])
    assert (code, "the passkey is removed" in said) == (0, True), said
    assert (await ask("POST", "/auth/passkey", device.get(await begin())))[0] == 401

    await add(ann, lost)
    assert (await ask("DELETE", "/accounts/ann", None, KEY))[0] == 204
    assert await node.database.own("passkeys").count_documents({}) == 0
    await register("ann")
    await node.database.own("passkeys").insert_one(kept)
    assert (await ask("POST", "/auth/passkey", device.get(await begin())))[0] == 401


def test_passkeys_are_checked_at_the_start() -> None:
    """They need accounts, a name to be bound to, and pages that nobody on the way has changed."""
    on = {"auth.accounts": True, "auth.passkeys": True}
    for settings, named in (
        ({"auth.passkeys": True, "server.url": URL}, "auth.accounts"),
        (on, "127.0.0.1: they are bound to a name"),
        (on | {"server.url": "https://[::1]"}, "bound to a name"),
        (on | {"server.url": "http://rt.example.com"}, "has to be https"),
        (on | {"auth.passkey_domain": "example.com", "origins": ["http://example.com"]}, "has to be https"),
        (on | {"server.url": URL, "auth.passkey_domain": "ample.com"}, "passkey_domain"),
        (on | {"server.url": URL, "auth.passkey_domain": "https://example.com"}, "bound to a name"),
    ):
        with pytest.raises(StartError, match=named):
            config.load(None, {}, settings.items())
    config.load(None, {}, (on | {"server.url": "http://localhost:8888"}).items())
