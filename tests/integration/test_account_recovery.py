"""Passwords that are changed or forgotten, addresses, and sessions, through a real server, MongoDB and back end."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPResponse

from server.access import throttle
from server.access.accounts import recovery
from server.access.accounts.families import FRESH_MINUTES, Visit
from server.access.accounts.store import Account
from server.node import Node
from tests.support.back_end import RAW_SECRET, Answer, BackEnd
from tests.support.client import Client
from tests.support.waiting import until

PASSWORD, OTHER = "correct horse battery", "another horse battery"


@pytest.fixture
def back_end() -> Iterator[BackEnd]:
    one = BackEnd()
    yield one
    one.stop()


@pytest.fixture
def settings(back_end: BackEnd) -> dict[str, object]:
    mail = {"url": back_end.url, "secret": RAW_SECRET}
    return {"auth.accounts": True, "auth.mail": mail, "server.url": "https://rt.example.com"}


@pytest.fixture
def ask(http_client: AsyncHTTPClient, base_url: str) -> Any:
    async def ask(path: str, body: Any = None, token: str | None = None, method: str = "") -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        response: HTTPResponse = await http_client.fetch(
            f"{base_url}/v1/auth/{path}",
            method=method or ("GET" if body is None else "POST"),
            headers=headers,
            body=None if body is None else json.dumps(body),
            raise_error=False,
        )
        return response.code, json.loads(response.body) if response.body else None

    return ask


@pytest.fixture
def sign_in(ask: Any) -> Any:
    async def sign_in(user: str, password: str = PASSWORD) -> Any:
        status, tokens = await ask("login", {"user": user, "password": password})
        assert status == 200, tokens
        return tokens

    return sign_in


async def mailed(back_end: BackEnd, count: int) -> list[Any]:
    """The letters that the back end has been given."""
    await until(lambda: len(back_end.asked) >= count, 10, f"{count} letters")
    return [asked.question for asked in back_end.asked]


async def verified(ask: Any, back_end: BackEnd, user: str, email: str) -> Any:
    """An account whose address is proved."""
    before = len(back_end.asked)
    status, tokens = await ask("register", {"user": user, "password": PASSWORD, "email": email})
    assert status == 201
    letter = (await mailed(back_end, before + 1))[-1]
    assert (letter["kind"], letter["user"], letter["email"]) == ("verify", user, email)
    status, own = await ask("verify", {"token": letter["token"]})
    assert (status, own["verified"], own["email"]) == (200, True, email)
    assert (await ask("verify", {"token": letter["token"]}))[0] == 401, "good once"
    return tokens


@pytest.mark.gen_test
async def test_a_forgotten_password_is_reset_by_mail(ask: Any, back_end: BackEnd, node: Node, base_url: str) -> None:
    """By the name or the address: the token is good once and stored as a hash; afterwards the old password, tokens and
    connections are good no longer, and a login at once is."""
    ann = await verified(ask, back_end, "Ann", "Ann@example.com")
    async with Client(base_url.replace("http", "ws") + "/v1/ws", token=ann["token"]) as client:
        assert await ask("forgot", {"user": "ann"}) == (202, None)
        assert await ask("forgot", {"email": "ann@EXAMPLE.com"}) == (202, None)
        first, second = (await mailed(back_end, 3))[1:]
        assert first["kind"] == second["kind"] == "reset"
        assert first["link"] == f"https://rt.example.com/account/#reset={first['token']}"
        stored = [str(one) async for one in node.database.own("account_tokens").find()]
        assert len(stored) == 2
        assert first["token"] not in "".join(stored)
        assert (await ask("reset", {"token": second["token"] + "x", "password": OTHER}))[0] == 401
        assert (await ask("reset", {"token": first["token"], "password": "short"}))[0] == 400
        assert await ask("reset", {"token": first["token"], "password": OTHER}) == (204, None)
        await until(lambda: client.losses, 10, "the end of the connection")
        assert client.losses[0].code == 4501
    for used in (first, second):
        assert (await ask("reset", {"token": used["token"], "password": PASSWORD}))[0] == 401
    assert (await ask("login", {"user": "ann", "password": PASSWORD}))[0] == 401
    assert (await ask("refresh", {"refresh_token": ann["refresh_token"]}))[0] == 401
    assert (await ask("me", token=ann["token"]))[0] == 401
    status, again = await ask("login", {"user": "ann", "password": OTHER})
    assert status == 200
    assert (await ask("me", token=again["token"]))[0] == 200, "issued in the second of the revocation, and after it"


@pytest.mark.gen_test
async def test_nobody_learns_who_has_an_account(ask: Any, back_end: BackEnd, caplog: pytest.LogCaptureFixture) -> None:
    """The answer is the same for names and addresses that nobody has; a mail goes to verified addresses alone, and a
    token is in no log."""
    caplog.set_level(logging.DEBUG)
    await verified(ask, back_end, "ann", "ann@example.com")
    assert (await ask("register", {"user": "bob", "password": PASSWORD, "email": "ann@example.com"}))[0] == 201
    letters = await mailed(back_end, 2)
    assert (await ask("verify", {"token": letters[1]["token"]}))[1]["code"] == "conflict", "it is Ann's"
    for who in ({"user": "nobody"}, {"user": "bob"}, {"email": "nobody@example.com"}, {"user": "ann"}):
        assert await ask("forgot", who) == (202, None)
    letters = await mailed(back_end, 3)
    assert [letter["user"] for letter in letters[2:]] == ["ann"]
    for bad in ({}, {"user": "ann", "email": "ann@example.com"}, {"user": {"$ne": ""}}, {"email": "no address"}):
        assert (await ask("forgot", bad))[0] == 400
    assert not any(letter["token"] in caplog.text for letter in letters)


@pytest.mark.gen_test
async def test_mails_are_throttled(ask: Any, back_end: BackEnd) -> None:
    """So many to one account and then a wait that grows, whether it exists or not."""
    for user in ("ann", "nobody"):
        answers = [await ask("forgot", {"user": user}) for _ in range(6)]
        assert {status for status, _ in answers[:3]} == {202}
        assert answers[5][0] == 429
        assert answers[5][1]["retry_after"] > 0


@pytest.mark.gen_test
async def test_mails_are_counted_where_they_are_asked_for(
    ask: Any, back_end: BackEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From one address of the network there are so many, to whomever: those that verify a new account's address too."""
    monkeypatch.setattr(throttle, "time", SimpleNamespace(monotonic=lambda: 1000.0))
    for number in range(recovery.FREE_ADDRESS - 1):
        assert (await ask("forgot", {"user": f"nobody{number}"}))[0] == 202
    for user in ("ann", "bob"):
        body = {"user": user, "password": PASSWORD, "email": f"{user}@example.com"}
        assert (await ask("register", body))[0] == 201
    assert (await ask("forgot", {"user": "one-more"}))[0] == 429
    assert [letter["user"] for letter in await mailed(back_end, 1)] == ["ann"]


@pytest.mark.gen_test
async def test_changing_the_password_ends_all_other_sessions(ask: Any, sign_in: Any) -> None:
    """It takes the old one, whose guesses count as those of a login; the answer's tokens are the only ones that are
    good."""
    await ask("register", {"user": "ann", "password": PASSWORD})
    here, there = await sign_in("ann"), await sign_in("ann")
    status, problem = await ask("password", {"old": OTHER, "password": OTHER}, here["token"])
    assert (status, problem["reason"]) == (403, "old: not the password")
    status, now = await ask("password", {"old": PASSWORD, "password": OTHER}, here["token"])
    assert status == 200
    for tokens in (here, there):
        assert (await ask("me", token=tokens["token"]))[0] == 401
        assert (await ask("refresh", {"refresh_token": tokens["refresh_token"]}))[0] == 401
    assert (await ask("me", token=now["token"]))[0] == 200
    for _ in range(5):
        await ask("password", {"old": "a wrong password", "password": OTHER}, now["token"])
    assert (await ask("password", {"old": "a wrong password", "password": OTHER}, now["token"]))[0] == 429
    assert (await ask("login", {"user": "ann", "password": OTHER}))[0] == 429, "the same count"
    assert (await ask("password", {"old": PASSWORD, "password": OTHER}))[0] == 401, "nobody's"


@pytest.mark.gen_test
async def test_sessions_are_listed_and_ended(ask: Any, sign_in: Any, base_url: str, node: Node) -> None:
    """Each sign-in with its address and browser; ending one revokes its tokens and closes its connections, and no
    other's; signing out everywhere ends all."""
    await ask("register", {"user": "ann", "password": PASSWORD})
    await ask("register", {"user": "bob", "password": PASSWORD})
    here, there, bob = await sign_in("ann"), await sign_in("ann"), await sign_in("bob")
    status, page = await ask("sessions", token=here["token"])
    assert status == 200
    assert [session["current"] for session in page["sessions"]].count(True) == 1
    assert len(page["sessions"]) == 3
    for session in page["sessions"]:
        assert (session["address"], session["way"]) == ("127.0.0.1", "password")
        assert session["created"] <= session["used"] < session["expires"]
        assert session["session"] not in here["refresh_token"]
    current = next(one["session"] for one in page["sessions"] if one["current"])
    status, theirs = await ask("sessions", token=there["token"])
    target = next(one["session"] for one in theirs["sessions"] if one["current"])
    assert target != current
    assert (await ask(f"sessions/{target}", token=bob["token"], method="DELETE"))[0] == 404
    ws = base_url.replace("http", "ws") + "/v1/ws"
    async with Client(ws, token=there["token"]) as ended, Client(ws, token=here["token"]) as kept:
        assert await ask(f"sessions/{target}", token=here["token"], method="DELETE") == (204, None)
        await until(lambda: ended.losses, 10, "the end of the connection")
        assert ended.losses[0].code == 4501
        await kept.request("ping")
    assert (await ask("me", token=there["token"]))[0] == 401
    assert (await ask("refresh", {"refresh_token": there["refresh_token"]}))[0] == 401
    status, renewed = await ask("refresh", {"refresh_token": here["refresh_token"]})
    assert status == 200
    assert await ask("sessions", token=renewed["token"], method="DELETE") == (204, None)
    for token in (here["token"], renewed["token"]):
        assert (await ask("me", token=token))[0] == 401
    # A back end that has the secret may have signed longer ones; but not for that one session.
    kept = ["until" in one async for one in node.database.own("revocations").find().sort("_id")]
    assert kept == [True, False]
    assert (await ask("me", token=bob["token"]))[0] == 200


@pytest.mark.gen_test
async def test_an_address_is_changed_with_the_password_and_proved(ask: Any, back_end: BackEnd, sign_in: Any) -> None:
    """The verified one stays until the new one is proved; without the password nobody takes an account over."""
    ann = await verified(ask, back_end, "ann", "ann@example.com")
    body = {"email": "ann@example.org", "password": "a wrong password"}
    assert (await ask("email", body, ann["token"]))[0] == 403
    status, own = await ask("email", body | {"password": PASSWORD}, ann["token"])
    assert (status, own["email"], own["verified"]) == (202, "ann@example.com", True)
    letter = (await mailed(back_end, 2))[-1]
    assert letter["email"] == "ann@example.org"
    assert (await ask("forgot", {"user": "ann"}))[0] == 202
    reset = (await mailed(back_end, 3))[-1]
    assert (reset["kind"], reset["email"]) == ("reset", "ann@example.com")
    status, own = await ask("verify", {"token": letter["token"]})
    assert (own["email"], own["verified"]) == ("ann@example.org", True)
    assert (await ask("reset", {"token": reset["token"], "password": OTHER}))[0] == 401, "it went to the old address"
    status, own = await ask("email", {"email": None, "password": PASSWORD}, ann["token"])
    assert (status, own["email"], own["verified"]) == (202, None, False)
    status, own = await ask("me", {"info": {"name": "Ann"}}, ann["token"], method="PATCH")
    assert (status, own["info"]) == (200, {"name": "Ann"})


@pytest.mark.gen_test
async def test_without_a_password_an_address_takes_a_fresh_sign_in(ask: Any, node: Node) -> None:
    """An access token alone, which may have been lost, is not enough to take an account over by its address."""
    accounts = node.accounts
    assert accounts is not None
    account = Account(id="hal", user="hal", identities=["example hal"])
    await accounts.store.insert(account)
    tokens = await accounts.log_in(account, Visit("127.0.0.1"), "example")
    body = {"email": "hal@example.com", "password": ""}
    assert (await ask("email", body, tokens["token"]))[0] == 202
    long_ago = datetime.now(UTC) - timedelta(minutes=FRESH_MINUTES + 1)
    await node.database.own("refresh_tokens").update_many({"user": "hal"}, {"$set": {"created": long_ago}})
    status, problem = await ask("email", {"email": "thief@example.com", "password": ""}, tokens["token"])
    assert (status, problem["code"]) == (403, "permission_denied")
    assert "sign in again" in problem["reason"]
    assert (await ask("me", token=tokens["token"]))[1]["email"] == "hal@example.com"
    tokens = await accounts.log_in(account, Visit("127.0.0.1"), "example")
    assert (await ask("email", {"email": None, "password": ""}, tokens["token"]))[0] == 202


@pytest.mark.gen_test
async def test_a_token_that_is_none_costs_no_hash(ask: Any, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashing takes its time on purpose and only so many at a time: strangers do not make the server do it for nothing,
    or those who log in would wait for them."""
    assert node.accounts is not None
    hashed: list[str] = []
    hash_it = node.accounts.passwords.hash

    async def counted(password: str) -> str:
        hashed.append(password)
        return await hash_it(password)

    monkeypatch.setattr(node.accounts.passwords, "hash", counted)
    assert (await ask("reset", {"token": "none", "password": PASSWORD}))[0] == 401
    assert hashed == []
    token = await node.accounts.tokens.issue("verify", 60, "ann")
    assert (await ask("reset", {"token": token, "password": PASSWORD}))[0] == 401
    assert hashed == [], "good for something else"


@pytest.mark.gen_test
async def test_a_login_that_is_overtaken_by_a_change_signs_nobody_in(ask: Any, node: Node) -> None:
    """The old password was right when it was looked at, and is not any more: no tokens for it."""
    await ask("register", {"user": "ann", "password": PASSWORD})
    assert node.accounts is not None
    verify = node.accounts.passwords.verify
    _, ann = await ask("login", {"user": "ann", "password": PASSWORD})

    async def overtaken(hashed: str | None, password: str) -> bool:
        good = await verify(hashed, password)
        if asyncio.current_task() is not None and not changed:
            changed.append(True)
            assert (await ask("password", {"old": PASSWORD, "password": OTHER}, ann["token"]))[0] == 200
        return good

    changed: list[bool] = []
    node.accounts.passwords.verify = overtaken  # type: ignore[method-assign]
    assert (await ask("login", {"user": "ann", "password": PASSWORD}))[0] == 401
    assert await node.database.own("refresh_tokens").count_documents({"user": "ann"}) == 1


@pytest.mark.gen_test
async def test_a_back_end_that_fails_is_in_the_log(ask: Any, back_end: BackEnd, log: Any) -> None:
    """Without the letter; the one who asks is answered the same."""
    await verified(ask, back_end, "ann", "ann@example.com")
    back_end.rule = lambda asked: Answer(500, b"no")
    assert await ask("forgot", {"user": "ann"}) == (202, None)
    await until(lambda: "auth.mail: answered 500; a mail was not sent" in log.getvalue(), 10, "the log's word")
    assert (await mailed(back_end, 2))[1]["token"] not in log.getvalue()


class TestWithoutMail:
    @pytest.fixture
    def settings(self) -> dict[str, object]:
        return {"auth.accounts": True}

    @pytest.mark.gen_test
    async def test_nothing_is_mailed_or_printed(self, ask: Any, log: Any, node: Node) -> None:
        """Where it is not development, a link is not in the log either: who forgets a password asks an operator."""
        await ask("register", {"user": "ann", "password": PASSWORD, "email": "ann@example.com"})
        assert (await ask("forgot", {"user": "ann"}))[0] == 404
        assert await node.database.own("account_tokens").count_documents({}) == 0
        assert "/account/#" not in log.getvalue()


class TestInDevelopment:
    @pytest.fixture
    def settings(self) -> dict[str, object]:
        return {"auth.accounts": True, "auth.development": True}

    @pytest.mark.gen_test
    async def test_links_are_printed(self, ask: Any, log: Any) -> None:
        """In the log, since nobody sends mails on a developer's machine."""
        await ask("register", {"user": "ann", "password": PASSWORD, "email": "ann@example.com"})
        await until(lambda: "/account/#verify=" in log.getvalue(), 10, "the link")
