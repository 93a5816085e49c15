"""Requests are signed, so that a back end knows that they are the server's and recent.

With a secret as it stands: `Waterspout-Signature: v1=` and the hexadecimal HMAC-SHA256 of the timestamp in
`Waterspout-Timestamp`, a dot, and the body.

With a secret `whsec_…`: as the Standard Webhooks specification says. `webhook-signature: v1,` and the Base64 of the
HMAC-SHA256 of `webhook-id`, a dot, `webhook-timestamp`, a dot, and the body, with what is Base64 behind `whsec_`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets

from server.core.clock import Clock
from server.core.config.targets import STANDARD


def new_id() -> str:
    """A `webhook-id`. What is sent again because it failed has the same one, so the back end can tell."""
    return f"msg_{secrets.token_hex(16)}"


class Signer:
    """`clock` dates the requests."""

    __slots__ = ("_key", "_standard", "_clock")

    def __init__(self, secret: str, clock: Clock) -> None:
        self._standard = secret.startswith(STANDARD)
        self._key = base64.b64decode(secret.removeprefix(STANDARD)) if self._standard else secret.encode()
        self._clock = clock

    def headers(self, body: bytes, message_id: str | None = None) -> dict[str, str]:
        """What is sent along with the body. `message_id`: its `webhook-id`; None: one of its own."""
        now = str(int(self._clock.time()))
        if not self._standard:
            return {"Waterspout-Timestamp": now, "Waterspout-Signature": f"v1={self._sign(now, body).hex()}"}
        message_id = message_id or new_id()
        signature = base64.b64encode(self._sign(f"{message_id}.{now}", body)).decode()
        return {"webhook-id": message_id, "webhook-timestamp": now, "webhook-signature": f"v1,{signature}"}

    def _sign(self, prefix: str, body: bytes) -> bytes:
        return hmac.new(self._key, prefix.encode() + b"." + body, hashlib.sha256).digest()
