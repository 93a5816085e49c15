"""Accounts as operators look after them, by REST and by `run.py users`."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from server.node import Node
from tests.support.client import Client
from tests.support.commands import called
from tests.support.processes import Mongod
from tests.support.waiting import until

PASSWORD, OTHER = "correct horse battery", "another horse battery"
KEY, PLAIN = "the-key-of-an-operator", "the-key-of-a-shop"


@pytest.fixture
def settings() -> dict[str, object]:
    def key(secret: str, admin: bool) -> dict[str, object]:
        return {"sha256": hashlib.sha256(secret.encode()).hexdigest(), "admin": admin}

    return {
        "auth.accounts": True,
        "auth.api_keys": {"ops": key(KEY, True), "shop": key(PLAIN, False)},
        "auth.operators": "claim:roles=operator",
        "server.url": "https://rt.example.com",
    }


@pytest.fixture
def bearer() -> str:
    return KEY


@pytest.fixture
def sign_in(ask: Any) -> Any:
    async def sign_in(user: str, password: str = PASSWORD) -> Any:
        return await ask("POST", "/auth/login", {"user": user, "password": password}, None)

    return sign_in


async def gone(client: Client, code: int = 4501) -> None:
    await until(lambda: client.losses, 10, "the end of the connection")
    assert client.losses[0].code == code


@pytest.mark.gen_test
async def test_operators_only(ask: Any, sign_in: Any) -> None:
    """An `admin` key, or a user who is one of `auth.operators`; nobody else, at any of the paths."""
    for user, roles in (("olga", ["operator"]), ("ann", [])):
        assert (await ask("POST", "/accounts", {"user": user, "password": PASSWORD, "roles": roles}))[0] == 201
    olga, ann = (await sign_in("olga"))[1]["token"], (await sign_in("ann"))[1]["token"]
    paths = [
        ("GET", "/accounts", None),
        ("POST", "/accounts", {"user": "eve"}),
        ("GET", "/accounts/ann", None),
        ("PATCH", "/accounts/ann", {"info": {"name": "Ann"}}),
        ("POST", "/accounts/ann/reset", {}),
        ("GET", "/accounts/ann/sessions", None),
        ("DELETE", "/accounts/ann/sessions", None),
        ("DELETE", "/accounts/ann/sessions/x", None),
        ("DELETE", "/accounts/ann", None),
    ]
    for method, path, body in paths:
        for token in (ann, PLAIN, None):
            assert (await ask(method, path, body, token))[0] == 403, (method, path, token)
        if method != "DELETE":
            assert (await ask(method, path, body, olga))[0] in (200, 201), (method, path)


@pytest.mark.gen_test
async def test_accounts_are_listed_in_pages(ask: Any) -> None:
    """By name, with what is asked of them; nothing that is secret."""
    for number in range(5):
        body = {"user": f"User{number}", "password": PASSWORD, "roles": ["agent"] if number % 2 else []}
        assert (await ask("POST", "/accounts", body))[0] == 201
    assert (await ask("PATCH", "/accounts/user4", {"disabled": True}))[1]["disabled"] is True
    seen: list[str] = []
    after = ""
    while after is not None:
        status, page = await ask("GET", f"/accounts?limit=2&after={after}")
        assert status == 200
        seen += [row["user"] for row in page["accounts"]]
        after = page["next"]
    assert seen == [f"User{number}" for number in range(5)]
    for query, users in (("role=agent", ["User1", "User3"]), ("disabled=true", ["User4"]), ("prefix=USER2", ["User2"])):
        assert [row["user"] for row in (await ask("GET", f"/accounts?{query}"))[1]["accounts"]] == users
    assert "argon2" not in json.dumps(page)
    assert (await ask("GET", "/accounts/nobody"))[0] == 404
    for bad in ({"user": "a b"}, {"user": "eve", "roles": ["no role"]}, {"user": "eve", "email": "none"}, {}):
        assert (await ask("POST", "/accounts", bad))[0] == 400
    assert (await ask("POST", "/accounts", {"user": "USER1"}))[1]["code"] == "conflict"
    assert (await ask("POST", "/accounts", {"user": "shop"}))[1]["code"] == "conflict", "an API key's name"


@pytest.mark.gen_test
async def test_who_is_disabled_is_out_until_enabled(ask: Any, sign_in: Any, base_url: str) -> None:
    """Connections close, tokens and refresh tokens are good no longer; who has the right password is told why, as is
    who is banned, whose refresh tokens stay good for when that is over."""
    await ask("POST", "/accounts", {"user": "ann", "password": PASSWORD})
    _, ann = await sign_in("ann")
    async with Client(base_url.replace("http", "ws") + "/v1/ws", token=ann["token"]) as client:
        assert (await ask("PATCH", "/accounts/ann", {"disabled": True}))[0] == 200
        await gone(client)
    assert (await ask("POST", "/auth/refresh", {"refresh_token": ann["refresh_token"]}, None))[0] == 401
    assert (await ask("GET", "/auth/me", None, ann["token"]))[0] == 401
    assert (await sign_in("ann", OTHER))[1]["reason"] == "user, password: they do not belong together"
    assert (await sign_in("ann"))[1]["reason"] == "this account is disabled"
    assert (await ask("PATCH", "/accounts/ann", {"disabled": False}))[0] == 200
    status, again = await sign_in("ann")
    assert status == 200
    assert (await ask("GET", "/auth/me", None, again["token"]))[0] == 200

    assert (await ask("POST", "/users/ann/ban", {"reason": "spam"}))[0] == 200
    assert (await ask("GET", "/auth/me", None, again["token"]))[0] == 403
    status, problem = await sign_in("ann")
    assert (status, problem["reason"]) == (403, "ann is banned: spam")
    assert (await ask("POST", "/users/ann/unban", {}))[0] == 200
    assert (await ask("POST", "/auth/refresh", {"refresh_token": again["refresh_token"]}, None))[0] == 200


@pytest.mark.gen_test
async def test_other_roles_count_at_once(ask: Any, sign_in: Any) -> None:
    """Access tokens that say otherwise are revoked, the sign-in goes on: its next token has the new roles."""
    await ask("POST", "/accounts", {"user": "olga", "password": PASSWORD, "roles": ["operator"]})
    _, olga = await sign_in("olga")
    assert (await ask("GET", "/nodes", None, olga["token"]))[0] == 200
    assert (await ask("PATCH", "/accounts/olga", {"roles": ["agent"]}))[1]["roles"] == ["agent"]
    assert (await ask("GET", "/nodes", None, olga["token"]))[0] == 401
    status, olga = await ask("POST", "/auth/refresh", {"refresh_token": olga["refresh_token"]}, None)
    assert status == 200
    assert (await ask("GET", "/nodes", None, olga["token"]))[0] == 403
    assert (await ask("GET", "/auth/me", None, olga["token"]))[1]["roles"] == ["agent"]


@pytest.mark.gen_test
async def test_an_address_that_is_corrected_is_not_changed_back(ask: Any, node: Node) -> None:
    """What was mailed to a mistyped address, a stranger's, verifies nothing after an operator has corrected it; an
    invitation, which was handed over, is good all the same."""
    assert node.accounts is not None
    status, made = await ask("POST", "/accounts", {"user": "ann", "email": "an@example.com"})
    assert status == 201
    mailed = await node.accounts.tokens.issue("verify", 60, "ann", {"email": "an@example.com"})
    assert (await ask("PATCH", "/accounts/ann", {"email": "ann@example.com", "verified": True}))[0] == 200
    assert (await ask("POST", "/auth/verify", {"token": mailed}, None))[0] == 401
    own = (await ask("GET", "/accounts/ann"))[1]
    assert (own["email"], own["verified"]) == ("ann@example.com", True)
    body = {"token": made["invitation"]["token"], "password": PASSWORD}
    assert (await ask("POST", "/auth/reset", body, None))[0] == 204


@pytest.mark.gen_test
async def test_invitations_resets_and_sessions(ask: Any, sign_in: Any) -> None:
    """Who is made without a password gets a link; an operator's reset leaves the password as it is until it is used;
    sessions are ended one by one, or all."""
    status, made = await ask("POST", "/accounts", {"user": "ann", "email": "ann@example.com", "verified": True})
    assert (status, made["password"], made["verified"]) == (201, False, True)
    assert made["invitation"]["link"] == f"https://rt.example.com/account/#reset={made['invitation']['token']}"
    assert (await sign_in("ann"))[0] == 401
    body = {"token": made["invitation"]["token"], "password": PASSWORD}
    assert (await ask("POST", "/auth/reset", body, None))[0] == 204
    status, reset = await ask("POST", "/accounts/ann/reset", {})
    assert status == 200
    assert (await sign_in("ann"))[0] == 200
    assert (await sign_in("ann"))[0] == 200
    sessions = (await ask("GET", "/accounts/ann/sessions"))[1]["sessions"]
    assert len(sessions) == 2
    path = f"/accounts/ann/sessions/{sessions[0]['session']}"
    assert (await ask("DELETE", path))[0] == 204
    assert (await ask("DELETE", path))[0] == 404
    assert (await ask("DELETE", "/accounts/ann/sessions"))[0] == 204
    assert (await ask("GET", "/accounts/ann/sessions"))[1]["sessions"] == []
    assert (await ask("POST", "/auth/reset", {"token": reset["token"], "password": OTHER}, None))[0] == 204
    assert (await sign_in("ann", OTHER))[0] == 200
    assert (await ask("DELETE", "/accounts/ann"))[0] == 204
    assert (await ask("GET", "/accounts/ann"))[0] == 404
    assert (await sign_in("ann", OTHER))[0] == 401


@pytest.mark.gen_test(timeout=60)
async def test_the_command_line(ask: Any, sign_in: Any, node: Node, mongod: Mongod, base_url: str) -> None:
    """The same by `run.py users`, beside the server, which acts on it within a second."""
    database, url = f"mongodb.database={node.config.mongodb.database}", "server.url=https://rt.example.com"
    flags = ["--mongodb-uri", mongod.uri, "--set", database, "--set", url, "--set", "auth.accounts=true"]

    async def users(*words: str) -> str:
        code, said = await called("users", *words, *flags)
        assert code == 0, said
        return said

    said = await users("create", "Ann", "--email", "ann@example.com", "--role", "agent")
    token = said.partition("/account/#reset=")[2].split()[0]
    assert (await ask("POST", "/auth/reset", {"token": token, "password": PASSWORD}, None))[0] == 204
    _, ann = await sign_in("ann")
    listed = await users("list", "--role", "agent")
    assert "Ann" in listed
    assert "ann@example.com" in listed
    async with Client(base_url.replace("http", "ws") + "/v1/ws", token=ann["token"]) as client:
        assert "disabled" in await users("disable", "ann")
        await gone(client)
    assert (await sign_in("ann"))[0] == 403
    code, said = await called("users", "roles", "nobody", "agent", *flags)
    assert (code, said.splitlines()[-1]) == (1, "waterspout: users: user: nobody has no account")
