"""Signing in elsewhere, by OpenID Connect: with a real provider, and with one that forges."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from tornado.httpclient import AsyncHTTPClient, HTTPResponse

from server.core import config
from server.core.errors import StartError
from server.node import Node
from tests.support.openid import HostileProvider, OpenIDProvider, installed

if not installed:
    pytest.skip("the extra `oidc`, or a provider, is not installed", allow_module_level=True)

VERIFIER = "a verifier that the page keeps"
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()
ANN = {"sub": "248289761001", "name": "Ann Example", "preferred_username": "Ann E.", "email": "ann@example.com",
       "email_verified": True}  # fmt: skip


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenIDProvider]:
    one = OpenIDProvider(tmp_path_factory.mktemp("provider"), ANN)
    asyncio.run(one.start())
    yield one
    asyncio.run(one.stop())


@pytest.fixture
def hostile() -> Iterator[HostileProvider]:
    one = HostileProvider("waterspout")
    yield one
    one.stop()


@pytest.fixture
def settings(provider: OpenIDProvider, hostile: HostileProvider) -> dict[str, object]:
    client = {"client_id": "waterspout", "client_secret": "a secret"}
    return {
        "auth.accounts": True,
        "auth.oidc": {
            "example": {"issuer": provider.issuer, "title": "Example", **client},
            "evil": {"issuer": hostile.issuer, **client},
        },
        "server.url": "https://rt.example.com",
        "origins": ["https://shop.example.com"],
    }


@pytest.fixture
def fetch(http_client: AsyncHTTPClient, base_url: str) -> Any:
    async def fetch(path: str, body: Any = None, form: Any = None) -> HTTPResponse:
        return await http_client.fetch(
            path if path.startswith("http") else f"{base_url}/v1{path}",
            method="GET" if body is None and form is None else "POST",
            body=urlencode(form) if form is not None else None if body is None else json.dumps(body),
            follow_redirects=False,
            raise_error=False,
        )

    return fetch


@pytest.fixture
def begin(fetch: Any) -> Any:
    async def begin(name: str = "example", back: str = "/chat/") -> str:
        answer = await fetch(f"/auth/oidc/{name}", {"return": back, "challenge": CHALLENGE})
        assert answer.code == 200, answer.body
        return str(json.loads(answer.body)["url"])

    return begin


def path_of(redirect: HTTPResponse) -> str:
    """Where a provider sends the browser back to, at the server of the test."""
    assert redirect.code in (302, 303), redirect.body
    location = redirect.headers["Location"]
    assert location.startswith("https://rt.example.com/v1/auth/oidc/")
    return str(location.removeprefix("https://rt.example.com/v1"))


@pytest.mark.gen_test
async def test_signing_in_at_a_real_provider(fetch: Any, begin: Any, node: Node) -> None:
    """The first time makes an account, with a name of its own and the verified address; the second finds it. The code
    of the end is good once, and with the verifier of the page that has begun alone."""
    assert json.loads((await fetch("/auth")).body)["providers"] == [
        {"name": "example", "title": "Example"},
        {"name": "evil", "title": "Evil"},
    ]
    tokens = {}
    for times in range(2):
        url = await begin()
        query = parse_qs(urlsplit(url).query)
        assert query["redirect_uri"] == ["https://rt.example.com/v1/auth/oidc/example/callback"]
        assert query["code_challenge_method"] == ["S256"]
        assert len(query["nonce"][0]) == 32
        callback = path_of(await fetch(url, form={"sub": ANN["sub"]}))
        back = await fetch(callback)
        page, _, code = back.headers["Location"].partition("#sign-in=")
        assert (back.code, page) == (303, "/chat/")
        assert (await fetch(callback)).code == 401, "a state is good once"
        if times:
            assert (await fetch("/auth/oidc", {"code": code, "verifier": "another's"})).code == 401
            assert (await fetch("/auth/oidc", {"code": code, "verifier": VERIFIER})).code == 401, "used up"
            continue
        tokens = json.loads((await fetch("/auth/oidc", {"code": code, "verifier": VERIFIER})).body)
        assert tokens["user"] == "Ann-E"
    assert node.accounts is not None
    (account,) = await node.accounts.store.page("", "", 10)
    assert (account.email, account.verified, account.shown) == ("ann@example.com", True, {"name": "Ann Example"})
    assert account.password is None
    (session,) = await node.accounts.families.sessions(account.id, None)
    assert session["way"] == "example"
    assert node.authenticator.authenticate(tokens["token"]).user == "Ann-E"
    await node.accounts.store.change("ann-e", {"disabled": True})
    back = await fetch(path_of(await fetch(await begin(), form={"sub": ANN["sub"]})))
    code = back.headers["Location"].partition("#sign-in=")[2]
    assert (await fetch("/auth/oidc", {"code": code, "verifier": VERIFIER})).code == 403, "disabled here"


@pytest.mark.gen_test
async def test_names_and_addresses_that_are_taken(fetch: Any, begin: Any, node: Node) -> None:
    """Nobody gets an account by an address or a name that a provider says: a new one has a number, and the address is a
    claim."""
    for user in ("ann-e", "ann-e2"):
        body = {"user": user, "password": "correct horse battery", "email": "ann@example.com"}
        assert (await fetch("/auth/register", body)).code == 201
    assert node.accounts is not None
    await node.accounts.store.change("ann-e", {"email": "ann@example.com", "verified": True})
    back = await fetch(path_of(await fetch(await begin(), form={"sub": ANN["sub"]})))
    code = back.headers["Location"].partition("#sign-in=")[2]
    assert json.loads((await fetch("/auth/oidc", {"code": code, "verifier": VERIFIER})).body)["user"] == "Ann-E3"
    account = await node.accounts.store.find("ann-e3")
    assert account is not None
    assert (account.email, account.verified) == ("ann@example.com", False)


@pytest.mark.gen_test
async def test_what_is_refused_there_is_told_on_the_page(fetch: Any, begin: Any) -> None:
    """Without a code; and a page of one of `origins` may be come back to, no other."""
    url = await begin(back="https://shop.example.com/cart?x=1")
    state = parse_qs(urlsplit(url).query)["state"][0]
    back = await fetch(f"/auth/oidc/example/callback?error=access_denied&state={state}")
    assert back.headers["Location"] == "https://shop.example.com/cart?x=1#sign-in-refused=" + quote(
        "example: it was refused there"
    )
    foreign = ("https://evil.example.com/", "//evil.example.com", "/\\evil.example.com", "javascript:alert(1)")
    alike = ("https://shop.example.com.evil.com/", "https://shop.example.com@evil.com/")
    for bad in (*foreign, *alike, "http://[", "//[", "chat/", "/a#b", "/a\nb", "/чат/"):
        answer = await fetch("/auth/oidc/example", {"return": bad, "challenge": CHALLENGE})
        assert answer.code == 400, bad
    assert (await fetch("/auth/oidc/example", {"return": "/", "challenge": "short"})).code == 400
    assert (await fetch("/auth/oidc/nobody", {"return": "/", "challenge": CHALLENGE})).code == 404
    state = parse_qs(urlsplit(await begin()).query)["state"][0]
    assert (await fetch(f"/auth/oidc/evil/callback?code=x&state={state}")).code == 401, "another provider's"


@pytest.mark.gen_test
async def test_forged_tokens_sign_nobody_in(fetch: Any, begin: Any, hostile: HostileProvider, node: Node) -> None:
    """The ID token's signature, algorithm, issuer, audience, nonce and times are looked at; an honest one is good, and
    the verifier of PKCE comes along."""

    async def come_back() -> str:
        query = parse_qs(urlsplit(await begin("evil")).query)
        hostile.nonce, hostile.challenge = query["nonce"][0], query["code_challenge"][0]
        back = await fetch(f"/auth/oidc/evil/callback?code=x&state={query['state'][0]}")
        return str(back.headers["Location"])

    def changed(**claims: Any) -> Any:
        return lambda honest: hostile.sign({**honest, **claims})

    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    forgeries = [
        changed(nonce="another"),
        changed(iss="https://another.example.com"),
        changed(aud="another-client"),
        changed(aud=["waterspout", "another"], azp="another"),
        changed(exp=1_000_000_000),
        changed(iat=9_000_000_000, nbf=9_000_000_000),
        changed(sub=""),
        changed(sub=7),
        lambda honest: hostile.sign({name: value for name, value in honest.items() if name != "nonce"}),
        lambda honest: hostile.sign({name: value for name, value in honest.items() if name != "sub"}),
        lambda honest: hostile.sign(honest, other),
        lambda honest: hostile.sign(honest, "a secret of thirty-two bytes and more", "HS256"),
        lambda honest: "e30." + hostile.sign(honest).split(".")[1] + ".",
        lambda honest: None,
        lambda honest: "no token",
    ]
    for number, forge in enumerate(forgeries):
        hostile.forge = forge
        assert (await come_back()).startswith("/chat/#sign-in-refused=evil"), number
    assert await node.database.own("accounts").count_documents({}) == 0
    hostile.forge = changed()
    assert (await come_back()).startswith("/chat/#sign-in=")
    account = await node.database.own("accounts").find_one({})
    assert account is not None
    assert (account["_id"], account["identities"]) == ("mallory", ["evil mallory"])


def test_providers_are_checked_at_the_start() -> None:
    """Their issuer, their names, and that there are accounts to sign in to."""
    good = {"issuer": "https://accounts.example.com", "client_id": "x"}
    for settings, named in (
        ({"auth.accounts": True, "auth.oidc": {"Bad name": good}}, "auth.oidc.Bad name"),
        ({"auth.accounts": True, "auth.oidc": {"a": good | {"issuer": "http://accounts.example.com"}}}, "issuer"),
        ({"auth.accounts": True, "auth.oidc": {"a": good | {"algorithms": ["HS256"]}}}, "algorithms"),
        ({"auth.accounts": True, "auth.oidc": {"a": good | {"scopes": ["email"]}}}, "scopes"),
        ({"auth.oidc": {"a": good}}, "auth.accounts"),
    ):
        with pytest.raises(StartError, match=named):
            config.load(None, {}, settings.items())
