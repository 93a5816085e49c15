"""Accounts, for products without a user database of their own (`auth.accounts`).

    accounts        {_id: name in lower case, user: name, password: argon2 hash, info: JSON text, created: ms}
    refresh_tokens  {_id: family, user: an account's _id, current: SHA-256 of the secret, expires: date}
    meta            {_id: "secret", secret: …}      signs the tokens where auth.secret is null

A login begins a family of refresh tokens, of which one is good at a time: `family.secret`. Using it replaces it. If
an earlier one of the family comes along, there are two who hold it, and one is a thief: the family ends, for both.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import secrets
import unicodedata
from collections import OrderedDict
from collections.abc import Callable, Container
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from argon2 import PasswordHasher
from argon2.exceptions import VerificationError
from pymongo.errors import DuplicateKeyError

from server.access.throttle import Throttle
from server.core.addresses import address_key
from server.core.clock import Clock
from server.core.errors import Error, bad_request
from server.mongo.client import agreed, mapped
from server.mongo.databases import Database
from server.wire.codec import JSON
from server.wire.rest import Tokens

logger = logging.getLogger(__name__)

ACCESS_SECONDS: Final = 15 * 60
REFRESH_WITHIN: Final = timedelta(days=30)
PASSWORD_BYTES: Final = range(8, 1025)
INFO_BYTES: Final = 1024
HASHING: Final = 2
"""Hashes under way: each takes a core for about 30 ms, and 19 MiB (OWASP's recommendation for argon2id)."""
WAITING: Final = 100
"""Hashes under way or waiting for that; more are refused at once."""
FREE_ATTEMPTS: Final = 5
"""Wrong passwords for one name from one address before the first wait, which then doubles."""
FREE_ADDRESS: Final = 100
"""The same for all names, and for new accounts: many people may share an address."""
FREE_ACCOUNT: Final = 50
"""The same for one name from everywhere: whoever has many addresses can guess slowly only."""
LONGEST_ACCOUNT_WAIT: Final = 60.0
"""Seconds. Shorter than the others, since the owner has to wait as well."""
FORGET_ACCOUNT_AFTER: Final = 86400.0
"""Seconds. Longer than the others, or a pause would be worth 50 guesses more."""
KNOWN: Final = 10_000
"""(account, address) pairs that have logged in, and need not wait for the mistakes of others."""

_USER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")
_HASHER: Final = PasswordHasher(time_cost=2, memory_cost=19456, parallelism=1)


class Accounts:
    """`sign(user, seconds, info=…)` makes an access token and tells when it expires. `reserved` names are not given."""

    def __init__(
        self,
        database: Database,
        sign: Callable[..., tuple[str, int]],
        reserved: Container[str],
        clock: Clock | None = None,
    ) -> None:
        self._clock = clock or Clock()
        self._accounts = database.own("accounts")
        self._families = database.own("refresh_tokens")
        self._database = database
        self._sign = sign
        self._reserved = reserved
        self._pool = ThreadPoolExecutor(HASHING, thread_name_prefix="argon2")
        self._hashing = 0
        self._dummy = ""
        self._logins = Throttle(FREE_ATTEMPTS)
        self._addresses = Throttle(FREE_ADDRESS)
        self._names = Throttle(FREE_ACCOUNT, LONGEST_ACCOUNT_WAIT, FORGET_ACCOUNT_AFTER)
        self._registrations = Throttle(FREE_ADDRESS)
        self._known: OrderedDict[tuple[str, str], None] = OrderedDict()

    async def open(self) -> None:
        """`unavailable` if MongoDB is not there."""
        with mapped():
            await self._families.create_index("expires", expireAfterSeconds=0)
            await self._families.create_index("user")
        self._dummy = await self._work(_HASHER.hash, secrets.token_urlsafe())

    async def kept_secret(self) -> str:
        """A secret to sign with, made at the first start and the same for all nodes."""
        return await agreed(self._database, "secret", "secret", secrets.token_urlsafe(48))

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    # --- the use cases: each answers {"user", "token", "expires", "refresh_token"} ------------------------------------

    async def register(self, user: str, password: str, info: Any, address: str) -> Tokens:
        """A new account, logged in; `conflict` if the name is taken, in whatever case."""
        name, password = _name(user), _password(password)
        encoded = JSON.encode(info)
        if len(encoded) > INFO_BYTES:
            raise Error("too_large", f"info: {len(encoded)} bytes; {INFO_BYTES} at most")
        self._registrations.attempt(address_key(address))
        if user in self._reserved or name in self._reserved:
            raise Error("conflict", "user: this name is taken")
        account = {
            "_id": name,
            "user": user,
            "password": await self._work(_HASHER.hash, password),
            "info": encoded.decode(),
            "created": self._clock.now_ms(),
        }
        try:
            with mapped():
                await self._accounts.insert_one(account)
        except Error as error:
            if isinstance(error.__cause__, DuplicateKeyError):
                raise Error("conflict", "user: this name is taken") from None
            raise
        logger.info("account registered", extra={"user": user, "ip": address})
        return await self._log_in(account)

    async def login(self, user: str, password: str, address: str) -> Tokens:
        """`unauthenticated`, after the same work, whether the account or the password is the wrong one."""
        name, password = _name(user), _password(password)
        key = address_key(address)
        throttles = [(self._addresses, key), (self._logins, (name, key))]
        if (name, key) not in self._known:
            throttles.append((self._names, name))
        taken = []
        try:
            for throttle, who in throttles:
                throttle.attempt(who)
                taken.append((throttle, who))
            with mapped():
                account = await self._accounts.find_one({"_id": name})
            hashed = self._dummy if account is None else account["password"]
            good = await self._work(verify_password, hashed, password)
        except Error:
            for throttle, who in taken:
                throttle.give_back(who)  # nobody has looked at the password
            raise
        if account is None or not good:
            logger.info("login refused", extra={"user": name, "ip": address})
            raise Error("unauthenticated", "user, password: they do not belong together")
        for throttle, who in taken:
            throttle.give_back(who)
        self._logins.forget((name, key))
        self._remember(name, key)
        return await self._log_in(account)

    async def refresh(self, refresh_token: str) -> Tokens:
        """New tokens for the newest refresh token of a family; `unauthenticated` ends the family."""
        family, _, secret = refresh_token.partition(".")
        new, now = secrets.token_urlsafe(32), self._now()
        with mapped():
            found = await self._families.find_one_and_update(
                {"_id": family, "current": _digest(secret), "expires": {"$gt": now}},
                {"$set": {"current": _digest(new), "expires": now + REFRESH_WITHIN}},
            )
            account = found and await self._accounts.find_one({"_id": found["user"]})
            if account:
                return self._tokens(account, f"{family}.{new}")
            ended = await self._families.find_one_and_delete({"_id": family})
        if ended is not None:
            logger.warning("a used refresh token came again: its login is ended", extra={"user": ended["user"]})
        raise Error("unauthenticated", "refresh_token: not valid, or not any more; log in")

    async def logout(self, refresh_token: str) -> None:
        """End the family, if there is one. Access tokens live on for their minutes."""
        with mapped():
            await self._families.delete_one({"_id": refresh_token.partition(".")[0]})

    async def log_out(self, user: str) -> None:
        """End all families of a user, who need not have an account."""
        with mapped():
            await self._families.delete_many({"user": user.lower()})

    # --- parts --------------------------------------------------------------------------------------------------------

    def _remember(self, name: str, key: str) -> None:
        self._known[name, key] = None
        self._known.move_to_end((name, key))
        if len(self._known) > KNOWN:
            self._known.popitem(last=False)

    async def _log_in(self, account: dict[str, Any]) -> Tokens:
        family, secret = secrets.token_urlsafe(16), secrets.token_urlsafe(32)
        expires = self._now() + REFRESH_WITHIN
        with mapped():
            await self._families.insert_one(
                {"_id": family, "user": account["_id"], "current": _digest(secret), "expires": expires}
            )
        return self._tokens(account, f"{family}.{secret}")

    def _tokens(self, account: dict[str, Any], refresh_token: str) -> Tokens:
        token, expires = self._sign(account["user"], ACCESS_SECONDS, info=JSON.decode(account["info"].encode()))
        return {"user": account["user"], "token": token, "expires": expires, "refresh_token": refresh_token}

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.time(), UTC)

    async def _work(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """In a thread, since a hash takes its time on purpose; `unavailable` if too many wait already."""
        if self._hashing >= WAITING:
            raise Error("unavailable", "too many logins at a time", retry_after=2.0)
        self._hashing += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)
        finally:
            self._hashing -= 1


def verify_password(hashed: str, password: str) -> bool:
    """Takes about 30 ms of a core, whether they belong together or not."""
    try:
        return _HASHER.verify(hashed, password)
    except VerificationError:
        return False


def _name(user: str) -> str:
    if not _USER.fullmatch(user):
        raise bad_request("user: 1 to 64 letters (a-z), digits and . _ @ + - with a letter or a digit in front")
    return user.lower()


def _password(password: str) -> str:
    """As the same text in every form of Unicode (NIST SP 800-63B, section 3.1.1.2)."""
    if len(password) <= PASSWORD_BYTES[-1]:
        password = unicodedata.normalize("NFKC", password)
        if len(password.encode()) in PASSWORD_BYTES:
            return password
    raise bad_request(f"password: {PASSWORD_BYTES[0]} to {PASSWORD_BYTES[-1]} bytes")


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
