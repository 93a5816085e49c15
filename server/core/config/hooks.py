"""The user's own rules: `hooks`."""

from __future__ import annotations

import re
from typing import Final, Literal

from msgspec import field

from server.core.config.values import Seconds, Section
from server.core.errors import StartError

_SECRET_BYTES: Final = 32


class Hook(Section):
    url: str | None = None
    """asked with `POST`, or"""
    function: str | None = None
    """`module:function`, imported at the start"""
    secret: str | None = None
    """signs the requests; needed with a URL, 32 bytes at least"""
    timeout: Seconds = Seconds(1)
    """for the whole answer, from when it is asked: a hook has 64 questions at a time, and the others wait for their
    turn"""
    on_failure: Literal["deny", "allow"] = "deny"
    """`allow`: what the hook does not answer is accepted. Else it is refused with `unavailable`. What could not be
    asked because of too many other questions (5,000 waiting, or 10 s) is refused in either case"""
    actions: list[Literal["publish", "subscribe", "write"]] = field(
        default_factory=lambda: ["publish", "subscribe", "write"]
    )
    """what it is asked about"""

    def check(self, path: str) -> None:
        if (self.url is None) == (self.function is None):
            raise StartError(f"{path}: one of url and function")
        if self.function is not None and not re.fullmatch(r"[\w.]+:\w+", self.function):
            raise StartError(f"{path}.function: expected module:function")
        if self.url is not None and not re.match(r"https?://[^/\s]", self.url):
            raise StartError(f"{path}.url: expected http:// or https://")
        if self.url is not None and len((self.secret or "").encode()) < _SECRET_BYTES:
            raise StartError(f"{path}.secret: at least {_SECRET_BYTES} bytes, for the signature")
        if not self.timeout:
            raise StartError(f"{path}.timeout: must be more than 0")
