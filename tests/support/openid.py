"""Providers of OpenID Connect to sign in at: a real one as a process, and one that a test says the ID tokens of."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from tornado.web import Application, RequestHandler

from tests.support.ports import free_port
from tests.support.process import Process
from tests.support.waiting import until

installed = find_spec("authlib") is not None and find_spec("oidc_provider_mock") is not None


class OpenIDProvider(Process):
    """`oidc-provider-mock`, which stands on Authlib's server. `users`: claims with a `sub` each."""

    def __init__(self, directory: Path, *users: dict[str, Any]) -> None:
        super().__init__("provider", directory)
        self.port = free_port()
        self.issuer = f"http://127.0.0.1:{self.port}"
        self._users = users

    def command(self) -> list[str]:
        flags = [flag for user in self._users for flag in ("--user-claims", json.dumps(user))]
        return [sys.executable, "-m", "oidc_provider_mock", "--port", str(self.port), "--require-nonce", "true", *flags]

    async def wait_ready(self) -> None:
        async def listens() -> bool:
            assert self.running, self.log_tail()
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                return False
            writer.close()
            return True

        await until(listens, 30, "the provider")


class HostileProvider:
    """Gives out what `forge` makes of an honest ID token's claims: (claims, or a whole token; the key). It holds who
    asks to PKCE."""

    def __init__(self, client_id: str) -> None:
        self.client_id = client_id
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.forge: Callable[[dict[str, Any]], Any] = lambda claims: claims
        self.nonce = self.challenge = ""
        """Of the authorization request, which the test has seen."""
        self._listener, self.port = bind_unused_port()
        self.issuer = f"http://127.0.0.1:{self.port}"
        provider = self

        class Discovery(RequestHandler):
            def get(self) -> None:
                names = {"authorization_endpoint": "authorize", "token_endpoint": "token", "jwks_uri": "jwks"}
                self.write({"issuer": provider.issuer} | {key: f"{provider.issuer}/{at}" for key, at in names.items()})

        class Keys(RequestHandler):
            def get(self) -> None:
                public = json.loads(RSAAlgorithm.to_jwk(provider.key.public_key()))
                self.write({"keys": [public | {"kid": "one", "use": "sig", "alg": "RS256"}]})

        class Token(RequestHandler):
            def post(self) -> None:
                sent = parse_qs(self.request.body.decode())
                digest = hashlib.sha256(sent["code_verifier"][0].encode()).digest()
                if base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != provider.challenge:
                    self.set_status(400)
                    self.write({"error": "invalid_grant"})
                    return
                made = provider.forge(provider.claims())
                self.write({"access_token": "x", "token_type": "Bearer"} | ({"id_token": made} if made else {}))

        self._server = HTTPServer(
            Application([("/.well-known/openid-configuration", Discovery), ("/jwks", Keys), ("/token", Token)])
        )
        self._server.add_sockets([self._listener])

    def claims(self) -> dict[str, Any]:
        now = int(time.time())
        return {
            "iss": self.issuer, "sub": "mallory", "aud": self.client_id, "nonce": self.nonce, "iat": now,
            "exp": now + 60, "email": "mallory@example.com", "email_verified": True,
        }  # fmt: skip

    def sign(self, claims: dict[str, Any], key: Any = None, algorithm: str = "RS256") -> str:
        return jwt.encode(claims, key or self.key, algorithm, headers={"kid": "one"})

    def stop(self) -> None:
        self._server.stop()
        self._listener.close()
