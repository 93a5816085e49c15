"""The back ends: `mongodb`, `redis`."""

from __future__ import annotations

import re
from typing import Annotated, Final

from msgspec import Meta

from server.core.config.values import Seconds, Section
from server.core.errors import StartError

_DATABASE: Final = re.compile(r'[^/\\. "$\0]{1,63}')
_PREFIX: Final = re.compile(r"(?!system\.)[A-Za-z_](?:[A-Za-z0-9_-]|\.(?!\.)){0,31}")
_KEY_BYTES: Final = 32


class MongoDB(Section):
    uri: str = "embedded"
    """or `mongodb://…` of a replica set (one node will do; a standalone server is refused)"""
    database: str = "waterspout"
    """several Waterspouts may share a replica set, each with a database of its own"""
    prefix: str = "waterspout."
    """what the names of the server's own collections begin with: `waterspout.messages`. All instances must agree. To
    change it later, rename the collections yourself: the server would not find them"""
    outbox: bool | str | None = None
    """whether what is inserted into the collection `waterspout_outbox` is [published](outbox.md). null: from when there
    is such a collection; true: it is made; false: never. Or the name of another database of the same cluster that it is
    in"""
    publish_timeout: Seconds = Seconds(10)
    """then a publish is answered `unavailable` or `outcome_unknown`"""
    dedupe_window: Seconds = Seconds(600)
    """younger messages are never trimmed, so that a retry finds the first one"""
    trim_interval: Seconds = Seconds(60)
    """how often retention is enforced on the channels written to, and again when what was too young no longer is; all
    channels are gone through once an hour"""
    shards: Annotated[int, Meta(ge=1, le=64)] = 2
    """batches in flight at a time, as soon as there are more messages than one takes well; a channel stays in one, so
    its order is kept. Up to 64"""

    def check(self, path: str) -> None:
        if not _DATABASE.fullmatch(self.database):
            raise StartError(f'{path}.database: 1 to 63 characters, none of them / \\ . $ " or a space')
        if isinstance(self.outbox, str) and not _DATABASE.fullmatch(self.outbox):
            raise StartError(f"{path}.outbox: true, false, null, or the name of a database")
        if not _PREFIX.fullmatch(self.prefix):
            raise StartError(f"{path}.prefix: 1 to 32 of A-Z a-z 0-9 _ - and single dots, a letter or _ first")


class Redis(Section):
    url: str | None = None
    """null: the memory broker, one instance. `redis://`, `rediss://`, `unix://`,
    `redis+sentinel://host:port,host:port/service`, `redis+cluster://host:port`"""
    prefix: str = "waterspout"
    """several Waterspouts may share a Redis. All instances of one must agree"""
    sharded: bool = False
    """`SPUBLISH`/`SSUBSCRIBE`, for a Redis 7 cluster"""
    hmac_key: str | None = None
    """signs what goes through Redis, for one that others can publish to. All instances must agree. It does not
    encrypt"""

    def check(self, path: str) -> None:
        if self.hmac_key is not None and len(self.hmac_key.encode()) < _KEY_BYTES:
            raise StartError(f"{path}.hmac_key must have at least {_KEY_BYTES} bytes")
