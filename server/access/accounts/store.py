"""The accounts as they are stored.

    accounts  {_id: name in lower case, user: name, password: argon2 hash, info: JSON text, created: ms, email: text,
               mailbox: the e-mail address in lower case, verified: true, roles: [text], disabled: true, example: true,
               signed_in: ms, identities: ["PROVIDER SUBJECT"], handle: text}

What is null, empty or false is left out. An e-mail address belongs to one account, the first that has proved to read
it: what is not verified is a claim that any account may make, so that nobody can keep others from theirs, and nobody
learns from a refusal who has an account.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct, field
from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError

from server.core.errors import Error, bad_request
from server.mongo.client import mapped
from server.mongo.databases import Database
from server.wire.codec import JSON

INFO_BYTES: Final = 1024
EMAIL_BYTES: Final = 254
ROLES: Final = 32
_USER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")
_EMAIL: Final = re.compile(r"[^\s@\"<>(),:;\\\[\]]{1,64}@[^\s@\"<>(),:;\\\[\]]+")
_ROLE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")


class Account(Struct, frozen=True, kw_only=True):
    id: str
    user: str
    password: str | None = None
    """None: it is not signed in to with a password."""
    info: str = "null"
    created: int = 0
    """Milliseconds since 1970."""
    email: str | None = None
    verified: bool = False
    """Whoever has the account has proved to read what is sent to `email`."""
    roles: list[str] = field(default_factory=list)
    disabled: bool = False
    example: bool = False
    """Made by `run.py seed`: signed in to by one click, in development only."""
    signed_in: int | None = None
    """Milliseconds since 1970, of the last time."""
    identities: list[str] = field(default_factory=list)
    handle: str | None = None
    """What devices know it by that have a passkey of it: random, in base64url. There once it is needed."""

    @property
    def shown(self) -> Any:
        """What others may be shown of the user."""
        return JSON.decode(self.info.encode())


class AccountStore:
    def __init__(self, database: Database) -> None:
        self._accounts = database.own("accounts")

    async def open(self) -> None:
        """`unavailable` if MongoDB is not there."""
        with mapped():
            await self._accounts.create_index("mailbox", unique=True, partialFilterExpression={"verified": True})
            known = {"identities": {"$exists": True}}
            await self._accounts.create_index("identities", unique=True, partialFilterExpression=known)

    async def find(self, name: str) -> Account | None:
        """By its name, in whatever case."""
        return await self._find({"_id": name.lower()})

    async def with_email(self, email: str) -> Account | None:
        """Whose address that is for certain."""
        return await self._find({"mailbox": email.lower(), "verified": True})

    async def with_identity(self, identity: str) -> Account | None:
        return await self._find({"identities": identity})

    async def _find(self, query: Mapping[str, Any]) -> Account | None:
        with mapped():
            return _account(await self._accounts.find_one(query))

    async def insert(self, account: Account) -> None:
        """`conflict` if the name is taken, or the verified address."""
        with _unique(), mapped():
            await self._accounts.insert_one(_document(account))

    async def insert_if_absent(self, account: Account) -> None:
        with mapped():
            document = _document(account)
            del document["_id"]
            await self._accounts.update_one({"_id": account.id}, {"$setOnInsert": document}, upsert=True)

    async def change(
        self, name: str, values: Mapping[str, Any], given: Mapping[str, Any] | None = None
    ) -> Account | None:
        """As it is afterwards; None: there is none, or none of which `given` is true. A value that is null, empty or
        false is taken away. `conflict` if another account has verified the address."""
        values = dict(values)
        if "email" in values:
            values["mailbox"] = values["email"] and values["email"].lower()
        update = {
            operator: fields
            for operator, fields in (
                ("$set", {field: value for field, value in values.items() if value}),
                ("$unset", {field: "" for field, value in values.items() if not value}),
            )
            if fields
        }
        query = {"_id": name.lower(), **(given or {})}
        with _unique(), mapped():
            return _account(
                await self._accounts.find_one_and_update(query, update, return_document=ReturnDocument.AFTER)
            )

    async def note_sign_in(self, account: Account, now_ms: int) -> Account | None:
        """As it is at that moment."""
        return await self.change(account.id, {"signed_in": now_ms})

    async def handle(self, account: Account) -> str:
        """Made at the first time, and the same ever after; `not_found` if the account is gone."""
        if account.handle is None:
            await self.change(account.id, {"handle": secrets.token_urlsafe(32)}, {"handle": None})
        now = account if account.handle else await self.find(account.id)
        if now is None or now.handle is None:
            raise Error("not_found", f"{account.user} has no account here")
        return now.handle

    async def examples(self, limit: int) -> list[str]:
        with mapped():
            found = await self._accounts.find({"example": True}, {"user": 1}).sort("_id").to_list(limit)
        return [account["user"] for account in found]

    async def page(
        self, prefix: str, after: str, limit: int, *, role: str | None = None, disabled: bool | None = None
    ) -> list[Account]:
        """In the order of their names, behind `after`."""
        query: dict[str, Any] = {"_id": {"$gte": prefix.lower(), "$lt": prefix.lower() + "\U0010ffff"}}
        if after:
            query["_id"]["$gt"] = after.lower()
        if role is not None:
            query["roles"] = role
        if disabled is not None:
            query["disabled"] = True if disabled else {"$exists": False}
        with mapped():
            found = await self._accounts.find(query).sort("_id").limit(limit).to_list(limit)
        return [account for document in found if (account := _account(document)) is not None]

    async def delete(self, name: str) -> Account | None:
        """What it was."""
        with mapped():
            return _account(await self._accounts.find_one_and_delete({"_id": name.lower()}))


class _unique:
    """What a unique index refuses is a `conflict` that names the field."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        cause = error.__cause__ if isinstance(error, Error) else None
        if not isinstance(cause, DuplicateKeyError):
            return
        field = next(iter((cause.details or {}).get("keyPattern", {})), "_id")
        if field == "mailbox":
            raise Error("conflict", "email: another account has this address") from None
        if field == "identities":
            raise Error("conflict", "this identity belongs to another account") from None
        raise Error("conflict", "user: this name is taken") from None


def _account(document: Mapping[str, Any] | None) -> Account | None:
    if document is None:
        return None
    known = {name: document[name] for name in Account.__struct_fields__ if name in document}
    return Account(id=document["_id"], **known)


def _document(account: Account) -> dict[str, Any]:
    fields = {name: getattr(account, name) for name in Account.__struct_fields__ if name != "id"}
    document = {"_id": account.id} | {name: value for name, value in fields.items() if value}
    if account.email is not None:
        document["mailbox"] = account.email.lower()
    return document


# --- what is given ----------------------------------------------------------------------------------------------------


def as_user(given: str) -> str:
    """A name; its account is the one in lower case."""
    if not _USER.fullmatch(given):
        raise bad_request("user: 1 to 64 letters (a-z), digits and . _ @ + - with a letter or a digit in front")
    return given


def as_info(given: Any) -> str:
    encoded = JSON.encode(given)
    if len(encoded) > INFO_BYTES:
        raise Error("too_large", f"info: {len(encoded)} bytes; {INFO_BYTES} at most")
    return encoded.decode()


def as_email(given: str) -> str:
    """An address by its looks: whether there is such a mailbox only its mail can tell."""
    email = given.strip()
    if len(email.encode()) > EMAIL_BYTES or not _EMAIL.fullmatch(email) or not email.isprintable():
        raise bad_request(f"email: an address such as ann@example.com, {EMAIL_BYTES} bytes at most")
    return email


def as_roles(given: list[str]) -> list[str]:
    roles = list(dict.fromkeys(given))
    if len(roles) > ROLES or not all(_ROLE.fullmatch(role) for role in roles):
        raise bad_request(f"roles: {ROLES} at most, each 1 to 64 letters (a-z), digits and . _ : -")
    return roles
