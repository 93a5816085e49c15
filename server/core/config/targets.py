"""Where a back end of the user's own is found, and what signs the questions to it: of hooks, calls and consumers."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final

from server.core.config.values import Section, is_url
from server.core.errors import StartError

_SECRET_BYTES: Final = 32
STANDARD: Final = "whsec_"
"""What a secret of the Standard Webhooks specification begins with."""
_STANDARD_BYTES: Final = range(24, 65)


class Target(Section):
    url: str | None = None
    """asked with `POST`, or"""
    function: str | None = None
    """`module:function`, imported at the start"""
    secret: str | None = None
    """signs the requests; needed with a URL: 32 bytes at least; or `whsec_` and the Base64 of 24 to 64 bytes, which
    signs as the Standard Webhooks specification says"""

    def check_target(self, path: str, *, needed: bool = True) -> None:
        """StartError for what is wrong. Not `needed`: there may be neither a URL nor a function."""
        given = (self.url is not None) + (self.function is not None)
        if given > 1 or (needed and not given):
            raise StartError(f"{path}: one of url and function")
        if self.function is not None and not re.fullmatch(r"[\w.]+:\w+", self.function):
            raise StartError(f"{path}.function: expected module:function")
        if self.url is None:
            return
        if not is_url(self.url):
            raise StartError(f"{path}.url: expected http:// or https://")
        secret = self.secret or ""
        if secret.startswith(STANDARD):
            try:
                length = len(base64.b64decode(secret.removeprefix(STANDARD), validate=True))
            except binascii.Error:
                length = 0
            if length not in _STANDARD_BYTES:
                raise StartError(f"{path}.secret: expected {STANDARD} and the Base64 of 24 to 64 bytes")
        elif len(secret.encode()) < _SECRET_BYTES:
            raise StartError(f"{path}.secret: at least {_SECRET_BYTES} bytes, for the signature")
