"""What documents there are: `collections`."""

from __future__ import annotations

import re
from typing import Any, Final

from msgspec import field

from server.core.config.channels import Retention, check_rule
from server.core.config.values import Section
from server.core.errors import StartError
from server.core.rules import Rule

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_FIELD: Final = re.compile(r"[^$._\0][^.\0]*")
_PATH: Final = re.compile(r"-?[^$.,\0-][^$,\0]*")


class Collection(Section):
    read: Rule = "nobody"
    """who may read, list and watch: a [rule](#rules); `owner` is any user, where `owner` names a field"""
    write: Rule = "nobody"
    """who may write, the same"""
    hook: str | None = None
    """one of `hooks`: asked before a write (`action`: `write`, with `collection`, `op`, `document_id`, `document`,
    which `data` in the answer replaces), and before documents are read or watched (`subscribe`)"""
    owner: str | None = None
    """a field at top level: users see and write only the documents in which it is their name (or a list with their
    name in it). Servers see all, guests none"""
    read_all: Rule = "nobody"
    """who may read, list and watch all documents in spite of `owner`: `claim:roles=agent`. `read` need not say so as
    well"""
    write_all: Rule = "nobody"
    """who may write all documents in spite of `owner`, and say who owns them, the same"""
    schema: dict[str, Any] | None = None
    """a JSON Schema for the fields of a document, without `_id` and `_rev`. `$ref` may point inside it only. Writes
    made directly to MongoDB are not checked"""
    indexes: list[str] = field(default_factory=list)
    """indexes made at start, as fields with `-` for descending: `[status, "customer,-created"]`. Removed ones stay"""
    unique: list[str] = field(default_factory=list)
    """unique indexes, among the documents that have the field"""
    history: Retention = field(default_factory=Retention)

    def check(self, path: str) -> None:
        name = path.partition(".")[2]
        if not _NAME.fullmatch(name):
            raise StartError(f"{path}: a name is [A-Za-z][A-Za-z0-9_-]*, 64 characters at most")
        if self.owner is not None and not _FIELD.fullmatch(self.owner):
            raise StartError(f"{path}.owner: expected the name of a field at top level")
        for option in ("indexes", "unique"):
            for index in getattr(self, option):
                if not all(_PATH.fullmatch(one.strip()) for one in index.split(",")):
                    raise StartError(f"{path}.{option}: {index!r} is no list of fields, such as `status,-created`")
        for option in ("read", "write", "read_all", "write_all"):
            check_rule(f"{path}.{option}", getattr(self, option))
        for option in ("read_all", "write_all"):
            if self.owner is None and getattr(self, option) != "nobody":
                raise StartError(f"{path}.{option}: it is of use beside an owner; without one, see {option[:-4]}")
