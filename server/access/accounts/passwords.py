"""Passwords: what is one, and argon2id, in threads and bounded, since a hash takes its time on purpose."""

from __future__ import annotations

import asyncio
import secrets
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from server.core.errors import Error, bad_request

PASSWORD_BYTES: Final = range(8, 1025)
HASHING: Final = 2
"""Hashes under way: each takes a core for about 30 ms, and 19 MiB (OWASP's recommendation for argon2id)."""
WAITING: Final = 100
"""Hashes under way or waiting for that; more are refused at once."""

_HASHER: Final = PasswordHasher(time_cost=2, memory_cost=19456, parallelism=1)


class Passwords:
    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(HASHING, thread_name_prefix="argon2")
        self._hashing = 0
        self._dummy = ""

    async def open(self) -> None:
        self._dummy = await self.hash(secrets.token_urlsafe())

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def hash(self, password: str) -> str:
        """`unavailable` if too many wait already."""
        hashed: str = await self._work(_HASHER.hash, password)
        return hashed

    async def verify(self, hashed: str | None, password: str) -> bool:
        """Whether they belong together, after the same work if there is no hash. `unavailable` as above."""
        good: bool = await self._work(verify_password, hashed or self._dummy, password)
        return good and hashed is not None

    async def _work(self, function: Callable[..., Any], *arguments: Any) -> Any:
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
    except (VerificationError, InvalidHashError):
        return False


def as_password(given: str, field: str = "password") -> str:
    """As the same text in every form of Unicode (NIST SP 800-63B, section 3.1.1.2)."""
    if len(given) <= PASSWORD_BYTES[-1]:
        password = unicodedata.normalize("NFKC", given)
        if len(password.encode()) in PASSWORD_BYTES:
            return password
    raise bad_request(f"{field}: {PASSWORD_BYTES[0]} to {PASSWORD_BYTES[-1]} bytes")
