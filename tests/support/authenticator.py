"""A device that has passkeys, in software: it signs what a test wants to be signed, honest or not."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from importlib.util import find_spec
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

installed = find_spec("webauthn") is not None and find_spec("cbor2") is not None

PRESENT, VERIFIED, NEW = 0x01, 0x04, 0x40


def base64url(given: bytes) -> str:
    return base64.urlsafe_b64encode(given).rstrip(b"=").decode()


class Authenticator:
    """What is not said in a call is as an honest browser and device would have it."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.count = 0
        self.id = secrets.token_bytes(16)
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.handle = ""
        """Of the account, as it has been told when the passkey was made."""

    def create(self, question: dict[str, Any], **other: Any) -> dict[str, Any]:
        """The answer to `navigator.credentials.create`, with the question's state."""
        import cbor2

        options = question["options"]
        self.handle = options["user"]["id"]
        numbers = self.key.public_key().public_numbers()
        public = {1: 2, 3: -7, -1: 1, -2: numbers.x.to_bytes(32, "big"), -3: numbers.y.to_bytes(32, "big")}
        made = bytes(16) + len(self.id).to_bytes(2, "big") + self.id + cbor2.dumps(public)
        data = self._data(options["rp"]["id"], NEW, other) + made
        attestation = cbor2.dumps({"fmt": "none", "attStmt": {}, "authData": data})
        response = {
            "clientDataJSON": base64url(self._client("webauthn.create", options, other)),
            "attestationObject": base64url(attestation),
            "transports": ["internal", "by pigeon"],
        }
        return self._credential(question, response)

    def get(self, question: dict[str, Any], **other: Any) -> dict[str, Any]:
        """The answer to `navigator.credentials.get`, with the question's state."""
        options = question["options"]
        self.count += 1
        data, client = self._data(options["rpId"], 0, other), self._client("webauthn.get", options, other)
        signed = data + hashlib.sha256(client).digest()
        key: ec.EllipticCurvePrivateKey = other.get("key", self.key)
        response = {
            "clientDataJSON": base64url(client),
            "authenticatorData": base64url(data),
            "signature": base64url(key.sign(signed, ec.ECDSA(hashes.SHA256()))),
            "userHandle": other.get("handle", self.handle),
        }
        return self._credential(question, response)

    def _credential(self, question: dict[str, Any], response: dict[str, Any]) -> dict[str, Any]:
        name = base64url(self.id)
        credential = {"id": name, "rawId": name, "type": "public-key", "response": response}
        return {"state": question["state"], "credential": credential}

    def _data(self, domain: str, flags: int, other: dict[str, Any]) -> bytes:
        flags |= other.get("flags", PRESENT | VERIFIED)
        of_domain = hashlib.sha256(other.get("domain", domain).encode()).digest()
        return of_domain + bytes([flags]) + int(other.get("count", self.count)).to_bytes(4, "big")

    def _client(self, kind: str, options: dict[str, Any], other: dict[str, Any]) -> bytes:
        said = {
            "type": other.get("type", kind),
            "challenge": other.get("challenge", options["challenge"]),
            "origin": other.get("origin", self.origin),
            "crossOrigin": other.get("cross_origin", False),
        }
        return json.dumps(said).encode()
