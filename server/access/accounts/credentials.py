"""Passkeys as they are stored: the public half of a key pair whose other half stays with the user's device.

passkeys  {_id: the credential's ID in base64url, user: an account's _id, name: text, key: COSE public key,
           count: signatures so far, as the device says, created, used: ms, synced: true, transports: [text]}
"""

from __future__ import annotations

from typing import Any, Final

from msgspec import Struct, field
from pymongo.errors import DuplicateKeyError

from server.core.errors import Error, bad_request
from server.mongo.client import mapped
from server.mongo.databases import Database

MOST: Final = 20
"""Passkeys of an account."""
NAME: Final = 64
_TRANSPORTS: Final = frozenset(("usb", "nfc", "ble", "smart-card", "hybrid", "internal"))


class Passkey(Struct, frozen=True, kw_only=True):
    id: str
    user: str
    """The `_id` of an account."""
    name: str
    key: bytes
    count: int = 0
    """0 for good with devices that do not count, as those do that copy their passkeys to each other."""
    created: int = 0
    """Milliseconds since 1970."""
    used: int | None = None
    synced: bool = False
    """It is not on one device alone."""
    transports: list[str] = field(default_factory=list)


class PasskeyStore:
    def __init__(self, database: Database) -> None:
        self._passkeys = database.own("passkeys")

    async def open(self) -> None:
        """`unavailable` if MongoDB is not there."""
        with mapped():
            await self._passkeys.create_index("user")

    async def find(self, passkey: str) -> Passkey | None:
        with mapped():
            found = await self._passkeys.find_one({"_id": passkey})
        return None if found is None else _passkey(found)

    async def of(self, user: str) -> list[Passkey]:
        """The oldest first."""
        with mapped():
            found = await self._passkeys.find({"user": user}).sort([("created", 1), ("_id", 1)]).to_list(MOST)
        return [_passkey(one) for one in found]

    async def insert(self, passkey: Passkey) -> None:
        """`conflict` if somebody has it; `limit_exceeded`, with nothing stored, if it would be one too many."""
        document: dict[str, Any] = {name: getattr(passkey, name) for name in Passkey.__struct_fields__ if name != "id"}
        try:
            with mapped():
                await self._passkeys.insert_one({"_id": passkey.id} | document)
        except Error as error:
            if isinstance(error.__cause__, DuplicateKeyError):
                raise Error("conflict", "credential: it is registered already") from None
            raise
        # Counted behind the insert, so that of many at once too few rather than too many stay.
        with mapped():
            many = await self._passkeys.count_documents({"user": passkey.user}) > MOST
        if many:
            await self.remove(passkey.user, passkey.id)
            raise Error("limit_exceeded", f"an account has {MOST} passkeys at most")

    async def note_use(self, passkey: Passkey, count: int, synced: bool, now_ms: int) -> bool:
        """False: it has been used, or removed, since it was looked at."""
        values = {"count": count, "synced": synced, "used": now_ms}
        with mapped():
            done = await self._passkeys.update_one({"_id": passkey.id, "count": passkey.count}, {"$set": values})
        return bool(done.matched_count)

    async def remove(self, user: str, passkey: str) -> bool:
        """Whether there was one."""
        with mapped():
            return bool((await self._passkeys.delete_one({"_id": passkey, "user": user})).deleted_count)

    async def remove_all(self, user: str) -> None:
        with mapped():
            await self._passkeys.delete_many({"user": user})


def _passkey(document: dict[str, Any]) -> Passkey:
    known = {name: document[name] for name in Passkey.__struct_fields__ if name in document}
    return Passkey(id=document["_id"], **known)


# --- what is given ----------------------------------------------------------------------------------------------------


def as_name(given: str) -> str:
    name = given.strip()
    if not 0 < len(name) <= NAME or not name.isprintable():
        raise bad_request(f"name: 1 to {NAME} characters")
    return name


def as_transports(given: list[str]) -> list[str]:
    """Those that are known: how a browser may reach the device, no more than a hint."""
    return sorted(_TRANSPORTS.intersection(given))
