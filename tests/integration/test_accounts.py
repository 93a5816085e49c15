"""Accounts through a real server and a real MongoDB: logins, refreshing, and what must not be learnt."""

from __future__ import annotations

import asyncio
import json
import logging
from types import SimpleNamespace
from typing import Any

import jwt
import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPResponse

from server.access import throttle
from server.access.accounts import attempts, families, passwords
from server.core.errors import Error
from server.node import Node
from tests.integration.conftest import SETTINGS
from tests.support.client import Client
from tests.support.processes import Mongod

PASSWORD = "correct horse battery"


@pytest.fixture
def settings() -> dict[str, object]:
    key = {"sha256": "0" * 64}
    return {"auth.accounts": True, "auth.secret": None, "auth.guests": False, "auth.api_keys": {"shop": key}}


@pytest.fixture
def post(http_client: AsyncHTTPClient, base_url: str) -> Any:
    async def post(path: str, **body: Any) -> tuple[int, Any]:
        response: HTTPResponse = await http_client.fetch(
            f"{base_url}/v1/auth/{path}", method="POST", body=json.dumps(body), raise_error=False
        )
        assert response.headers["Cache-Control"] == "no-store"
        return response.code, json.loads(response.body) if response.body else None

    return post


@pytest.mark.gen_test
async def test_an_account_is_good_at_every_door(post: Any, base_url: str, node: Node) -> None:
    """Register answers tokens; they work over WebSocket and REST, without a secret in the configuration."""
    status, ann = await post("register", user="Ann", password=PASSWORD, info={"name": "Ann B."})
    assert status == 201
    assert ann.keys() == {"user", "token", "expires", "refresh_token"}
    assert ann["user"] == "Ann"
    principal = node.authenticator.authenticate(ann["token"])
    assert (principal.user, principal.info, principal.expires) == ("Ann", {"name": "Ann B."}, float(ann["expires"]))
    async with Client(base_url.replace("http", "ws") + "/v1/ws", token=ann["token"]) as client:
        assert client.session["user"] == "Ann"
        assert client.session["expires"] == ann["expires"]
        await client.subscribe("feed:news")
        status, again = await post("login", user="aNN", password=PASSWORD)
        assert (status, again["user"]) == (200, "Ann")
        assert (await client.request("refresh", token=again["token"]))["expires"] >= ann["expires"]


@pytest.mark.gen_test
async def test_nothing_secret_is_stored(post: Any, node: Node) -> None:
    """The database has an argon2id hash of the password, and hashes of refresh tokens."""
    _, ann = await post("register", user="ann", password=PASSWORD, info={"$where": "1", "a.b": {"$ne": 1}})
    database = node.database
    stored = await database.own("accounts").find_one({"_id": "ann"})
    assert stored is not None
    assert stored["password"].startswith("$argon2id$")
    families = [family async for family in database.own("refresh_tokens").find()]
    everything = json.dumps([stored, families], default=str)
    assert PASSWORD not in everything
    assert ann["refresh_token"].partition(".")[2] not in everything
    assert node.authenticator.authenticate(ann["token"]).info == {"$where": "1", "a.b": {"$ne": 1}}


@pytest.mark.gen_test
async def test_two_registers_at_once(post: Any) -> None:
    """One wins, whatever the case of the letters; the others get `conflict`."""
    names = ["bob", "Bob", "BOB", "bob", "bOb"]
    answers = await asyncio.gather(*(post("register", user=name, password=f"password {name}") for name in names))
    assert sorted(status for status, _ in answers) == [201, 409, 409, 409, 409]
    assert {body["code"] for status, body in answers if status == 409} == {"conflict"}


@pytest.mark.gen_test
async def test_what_is_refused_is_named(post: Any, node: Node) -> None:
    """Names, passwords and info have rules; the answer names the field, and nothing is stored."""
    for body, named in (
        ({"user": "ann"}, "password"),
        ({"password": PASSWORD}, "user"),
        ({"user": {"$ne": 1}, "password": PASSWORD}, "user: "),
        ({"user": "ann", "password": {"$gt": ""}}, "password: "),
        ({"user": "ann", "password": "short"}, "password: 8 to 1024 bytes"),
        ({"user": "ann", "password": "x" * 1025}, "password: 8 to 1024 bytes"),
        ({"user": "ann", "password": "ﷺ" * 500}, "password: 8 to 1024 bytes"),
        *(({"user": user, "password": PASSWORD}, "user: ") for user in ("", "a b", "a:b", "é", "$x", "x" * 65, "a\n")),
    ):
        status, problem = await post("register", **body)
        assert (status, problem["code"]) == (400, "bad_request"), body
        assert named in problem["reason"]
    status, problem = await post("register", user="ann", password=PASSWORD, info="x" * 1100)
    assert (status, problem["code"]) == (413, "too_large")
    status, problem = await post("register", user="Shop", password=PASSWORD)
    assert (status, problem["code"]) == (409, "conflict"), "the name of an API key"
    assert await node.database.own("accounts").count_documents({}) == 0


@pytest.mark.gen_test
async def test_a_login_does_not_tell_which_accounts_exist(
    post: Any, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong name and a wrong password: the same answer, after the same hashing."""
    await post("register", user="ann", password=PASSWORD)
    hashed: list[str] = []
    verify = passwords.verify_password

    def counting(stored: str, password: str) -> bool:
        hashed.append(stored)
        return verify(stored, password)

    monkeypatch.setattr(passwords, "verify_password", counting)
    wrong_password = await post("login", user="ann", password="not the right one")
    wrong_name = await post("login", user="nobody", password="not the right one")
    assert wrong_password == wrong_name
    assert (wrong_name[0], wrong_name[1]["code"]) == (401, "unauthenticated")
    assert len(hashed) == 2
    parameters = [one.split("$")[:4] for one in hashed]
    assert parameters[0] == parameters[1]


@pytest.mark.gen_test
@pytest.mark.parametrize("user", ["ann", "nobody"])
async def test_guessing_takes_longer_and_longer(post: Any, user: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After five wrong passwords there is a wait that doubles, side by side or not, and for unknown names as well. The
    right password has to wait, too; another user need not."""
    await post("register", user="ann", password=PASSWORD)
    await post("register", user="bob", password=PASSWORD)
    monkeypatch.setattr(throttle, "time", SimpleNamespace(monotonic=lambda: 1000.0))
    answers = await asyncio.gather(*(post("login", user=user, password=f"password {n}") for n in range(12)))
    assert sorted(status for status, _ in answers) == [401] * 5 + [429] * 7
    refusal = next(body for status, body in answers if status == 429)
    assert refusal["code"] == "rate_limited"
    assert 0 < refusal["retry_after"] <= 1
    assert (await post("login", user=user.upper(), password=PASSWORD))[0] == 429
    assert (await post("login", user="bob", password=PASSWORD))[0] == 200


class TestBehindAProxy:
    """Many addresses, as a trusted proxy names them."""

    @pytest.fixture
    def settings(self) -> dict[str, object]:
        return {"auth.accounts": True, "server.trusted_proxies": ["127.0.0.1"]}

    @pytest.fixture
    def login(self, http_client: AsyncHTTPClient, base_url: str, monkeypatch: pytest.MonkeyPatch) -> Any:
        monkeypatch.setattr(throttle, "time", SimpleNamespace(monotonic=lambda: 1000.0))

        async def login(password: str, address: str, path: str = "login") -> int:
            body = json.dumps({"user": "ann", "password": password})
            headers = {"X-Forwarded-For": address}
            url = f"{base_url}/v1/auth/{path}"
            answer = await http_client.fetch(url, method="POST", body=body, headers=headers, raise_error=False)
            return answer.code

        return login

    @pytest.mark.gen_test(timeout=60)
    async def test_addresses_of_one_network_guess_as_one(self, login: Any) -> None:
        """Of IPv6 the /64 counts; another network may go on."""
        await login(PASSWORD, "192.0.2.1", "register")
        answers = [await login("a wrong one", f"2001:db8:1:2::{n:x}") for n in range(1, 13)]
        assert answers == [401] * 5 + [429] * 7
        assert await login(PASSWORD, "2001:db8:1:2:ffff::1") == 429
        assert await login(PASSWORD, "2001:db8:1:3::1") == 200

    @pytest.mark.gen_test(timeout=60)
    async def test_an_account_is_guessed_slowly_from_everywhere(
        self, login: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """After wrong passwords from many networks all have to wait, except where the owner has logged in before."""
        await login(PASSWORD, "192.0.2.1", "register")
        assert await login(PASSWORD, "192.0.2.1") == 200
        answers = [await login("a wrong one", f"198.51.100.{n}") for n in range(attempts.FREE_ACCOUNT + 5)]
        assert answers == [401] * attempts.FREE_ACCOUNT + [429] * 5
        assert await login(PASSWORD, "203.0.113.7") == 429
        assert await login(PASSWORD, "192.0.2.1") == 200
        now = 1001.0 + attempts.LONGEST_ACCOUNT_WAIT
        monkeypatch.setattr(throttle, "time", SimpleNamespace(monotonic=lambda: now))
        assert await login(PASSWORD, "203.0.113.7") == 200

    @pytest.mark.gen_test(timeout=60)
    async def test_many_names_at_once_count_as_many_in_a_row(
        self, post: Any, monkeypatch: pytest.MonkeyPatch, node: Node
    ) -> None:
        """An address is counted when it asks, not when the answer is known."""
        monkeypatch.setattr(throttle, "time", SimpleNamespace(monotonic=lambda: 1000.0))
        names = [f"user{n}" for n in range(attempts.FREE_ADDRESS + 20)]
        answers = await asyncio.gather(*(post("login", user=name, password="a wrong one") for name in names))
        assert sum(status == 429 for status, _ in answers) == 20


@pytest.mark.gen_test
async def test_refresh_tokens_rotate(post: Any) -> None:
    """Each is good once; whoever comes with an earlier one ends the login for both, and other logins go on."""
    await post("register", user="ann", password=PASSWORD)
    _, first = await post("login", user="ann", password=PASSWORD)
    _, other = await post("login", user="ann", password=PASSWORD)
    status, second = await post("refresh", refresh_token=first["refresh_token"])
    assert (status, second["user"]) == (200, "ann")
    status, third = await post("refresh", refresh_token=second["refresh_token"])
    assert status == 200
    assert len({first["refresh_token"], second["refresh_token"], third["refresh_token"]}) == 3
    status, problem = await post("refresh", refresh_token=first["refresh_token"])
    assert (status, problem["code"]) == (401, "unauthenticated")
    assert (await post("refresh", refresh_token=third["refresh_token"]))[0] == 401
    assert (await post("refresh", refresh_token=other["refresh_token"]))[0] == 200


@pytest.mark.gen_test
async def test_one_refresh_token_twice_at_once(post: Any) -> None:
    """One of the two gets new tokens at most, and the login is ended."""
    _, ann = await post("register", user="ann", password=PASSWORD)
    answers = await asyncio.gather(*(post("refresh", refresh_token=ann["refresh_token"]) for _ in range(5)))
    good = [body for status, body in answers if status == 200]
    assert len(good) <= 1
    for body in good:
        assert (await post("refresh", refresh_token=body["refresh_token"]))[0] == 401


@pytest.mark.gen_test
async def test_logout_and_what_is_no_refresh_token(post: Any, node: Node) -> None:
    """A logout ends the login, twice is fine; anything else is refused and is no query."""
    _, ann = await post("register", user="ann", password=PASSWORD)
    for token in ("", ".", "x", ann["token"], "x" * 300, ann["refresh_token"].partition(".")[0][:-1] + "."):
        assert (await post("refresh", refresh_token=token))[0] in (400, 401)
    for bad in ({"$ne": ""}, None, 7):
        assert (await post("refresh", refresh_token=bad))[0] == 400
        assert (await post("logout", refresh_token=bad))[0] == 400
    assert (await post("logout", refresh_token="x"))[0] == 204
    status, again = await post("refresh", refresh_token=ann["refresh_token"])
    assert status == 200
    assert await post("logout", refresh_token=again["refresh_token"]) == (204, None)
    assert (await post("refresh", refresh_token=again["refresh_token"]))[0] == 401
    assert (await post("logout", refresh_token=again["refresh_token"]))[0] == 204
    await node.database.own("accounts").delete_one({"_id": "ann"})


@pytest.mark.gen_test
async def test_a_deleted_account_cannot_refresh(post: Any, node: Node) -> None:
    """Deleting the account's document is enough."""
    _, ann = await post("register", user="ann", password=PASSWORD)
    await node.database.own("accounts").delete_one({"_id": "ann"})
    assert (await post("refresh", refresh_token=ann["refresh_token"]))[0] == 401
    assert (await post("login", user="ann", password=PASSWORD))[0] == 401


@pytest.mark.gen_test
async def test_another_node_has_the_same_secret(post: Any, node: Node, mongod: Mongod) -> None:
    """The secret that is made at the first start is kept: a token is good on every node, and after a restart."""
    _, ann = await post("register", user="ann", password=PASSWORD)
    other = Node(node.config, mongod.uri)
    with pytest.raises(Error, match="unavailable"):
        other.authenticator.authenticate(ann["token"])
    await other.start()
    try:
        assert other.authenticator.authenticate(ann["token"]).user == "ann"
    finally:
        await other.close()


class TestWithASecret:
    @pytest.fixture
    def settings(self) -> dict[str, object]:
        return {"auth.accounts": True, "auth.issuer": "us", "auth.audience": "them"}

    @pytest.mark.gen_test
    async def test_the_configured_secret_signs(self, post: Any, node: Node) -> None:
        """With issuer and audience; no other secret is made."""
        _, ann = await post("register", user="ann", password=PASSWORD)
        claims = jwt.decode(ann["token"], str(SETTINGS["auth.secret"]), ["HS256"], issuer="us", audience="them")
        assert claims["sub"] == "ann"
        assert claims["exp"] - claims["iat"] == 900
        assert await node.database.own("meta").find_one({"_id": "secret"}) is None

    @pytest.mark.gen_test
    async def test_logs_have_names_and_no_secrets(self, post: Any, caplog: pytest.LogCaptureFixture) -> None:
        """Who registers and who is refused is told; passwords and tokens never are."""
        caplog.set_level(logging.DEBUG)
        _, ann = await post("register", user="ann", password=PASSWORD)
        await post("login", user="ann", password="a wrong password")
        await post("refresh", refresh_token=ann["refresh_token"])
        await post("refresh", refresh_token=ann["refresh_token"])
        said = {record.message: vars(record) for record in caplog.records}
        for message in ("account registered", "login refused"):
            assert (said[message]["user"], said[message]["ip"]) == ("ann", "127.0.0.1")
        assert said["a used refresh token came again: its login is ended"]["user"] == "ann"
        for secret in (PASSWORD, "a wrong password", ann["token"], ann["refresh_token"].partition(".")[2]):
            assert secret not in caplog.text


@pytest.mark.gen_test
async def test_too_many_logins_at_a_time(post: Any, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashing is bounded: beyond it `unavailable`, and the loop goes on turning."""
    monkeypatch.setattr(passwords, "WAITING", 3)
    answers = await asyncio.gather(*(post("login", user=f"user{n}", password=PASSWORD) for n in range(8)))
    assert {status for status, _ in answers} == {401, 503}


class TestWithoutAccounts:
    @pytest.fixture
    def settings(self) -> dict[str, object]:
        return {}

    @pytest.mark.gen_test
    async def test_there_are_no_such_paths(self, http_client: AsyncHTTPClient, base_url: str) -> None:
        """Accounts are off by default."""
        for path in ("register", "login", "refresh", "logout"):
            url = f"{base_url}/v1/auth/{path}"
            response = await http_client.fetch(url, method="POST", body="{}", raise_error=False)
            assert (response.code, json.loads(response.body)["code"]) == (404, "not_found")


@pytest.mark.gen_test
async def test_an_account_has_so_many_sign_ins(post: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more ends the one that was used longest ago, and no other."""
    monkeypatch.setattr(families, "MOST", 2)
    _, first = await post("register", user="ann", password=PASSWORD)
    _, second = await post("login", user="ann", password=PASSWORD)
    _, first = await post("refresh", refresh_token=first["refresh_token"])
    _, third = await post("login", user="ann", password=PASSWORD)
    statuses = [(await post("refresh", refresh_token=one["refresh_token"]))[0] for one in (first, second, third)]
    assert statuses == [200, 401, 200]


@pytest.mark.gen_test
async def test_what_an_account_takes_back_is_not_kept_for_ever(post: Any, node: Node) -> None:
    """Its tokens are good for minutes, and where nobody else signs tokens there are no others."""
    await post("register", user="ann", password=PASSWORD)
    accounts = node.accounts
    assert accounts is not None
    account = await accounts.store.find("ann")
    assert account is not None
    for session in await accounts.families.sessions("ann", None):
        await accounts.end_one(account, session["session"])
    await accounts.end_all(account)
    taken = await node.database.own("revocations").find().sort("_id").to_list(None)
    assert ["token" in one for one in taken] == [True, False]
    assert all(0 < one["until"] - one["at"] < 3600 for one in taken)
