"""Seals: short proofs that a node of this Waterspout has said something.

Every node can check them, nobody else can make one: it takes the key that all nodes have in common (tickets.py). They
hide nothing.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from hashlib import blake2b
from typing import Final

from server.core.errors import Error

_BYTES: Final = 12


class Seals:
    """`derive(purpose)`: a key that all nodes have in common, or `unavailable`. `purpose`: what they are made for, and
    good for nothing else."""

    __slots__ = ("_derive", "_purpose", "_keyed")

    def __init__(self, derive: Callable[[str], bytes], purpose: str) -> None:
        self._derive = derive
        self._purpose = purpose
        self._keyed: blake2b | None = None
        """With the key in it already, and nothing else: to be copied."""

    def seal(self, *said: str) -> str:
        """24 hexadecimal digits for texts of which only the last may hold a NUL; `unavailable` until the key is
        known."""
        if self._keyed is None:
            self._keyed = blake2b(key=self._derive(self._purpose), digest_size=_BYTES)
        sealing = self._keyed.copy()
        sealing.update("\0".join(said).encode())
        return sealing.hexdigest()

    def holds(self, seal: str, *said: str) -> bool:
        """Whether it is the seal of just this; not as long as nobody can know."""
        try:
            return hmac.compare_digest(seal.encode(), self.seal(*said).encode())
        except Error:
            return False
