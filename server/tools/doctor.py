"""`run.py doctor`: is what the server stands on in order, and if not, what is to be done?

Each check looks at the real thing: a write that a majority has to acknowledge, a message that has to come back through
Redis. It disturbs no running server, and leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import secrets
import ssl
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import UTC
from pathlib import Path
from typing import Any, Final, NamedTuple

from pymongo.errors import PyMongoError
from redis.exceptions import RedisError

from server.backend.urls import reach
from server.brokers.redis import RedisBroker
from server.brokers.topology import Endpoint
from server.core.config import Config, MongoDB
from server.core.config.targets import Target
from server.core.errors import StartError
from server.mongo.client import brief, brief_refusal, connect
from server.mongo.databases import Database
from server.mongo.embedded import EmbeddedMongoDB
from server.mongo.migration import is_older
from server.outbox.entries import COLLECTION
from server.search.indexing import progress
from server.wire.messages import Message

WITHIN: Final = 5.0
"""Seconds each exchange may take."""
SKEW_SECONDS: Final = 1.0
PUBSUB_BUFFER: Final = 64 << 20
DESCRIPTORS_BESIDES: Final = 200
"""Connections to MongoDB and Redis, files, sockets that are being accepted."""


class Finding(NamedTuple):
    status: str
    """`ok`; `note`: it works, but; `broken`."""
    what: str
    fix: str = ""


def run(options: Config) -> int:
    """Print what was found; 1 if something is broken."""
    logging.disable(logging.WARNING)  # the parts would say it a second time
    return asyncio.run(_report(options))


async def _report(options: Config) -> int:
    broken = False
    async for finding in examine(options):
        print(f"{finding.status:7}{finding.what}", flush=True)
        if finding.fix:
            print(f"       → {finding.fix}", flush=True)
        broken = broken or finding.status == "broken"
    return int(broken)


async def examine(options: Config) -> AsyncIterator[Finding]:
    for finding in descriptors(options, resource.getrlimit(resource.RLIMIT_NOFILE)[1]):
        yield finding
    if options.mongodb.uri == "embedded":
        embedded = EmbeddedMongoDB(Path(options.server.data_dir))
        try:
            uri = await embedded.start()
            yield Finding("ok", f"MongoDB: the embedded one runs in {options.server.data_dir}/")
            async for finding in mongodb(options, uri):
                yield finding
        except StartError as error:
            if "in use" in str(error):
                yield Finding("note", f"MongoDB: {error}", "ask that server's /readyz, or stop it first")
            else:
                yield Finding("broken", f"MongoDB: {error}")
        finally:
            await embedded.stop()
    else:
        async for finding in mongodb(options, options.mongodb.uri):
            yield finding
    if options.redis.url is None:
        yield Finding("ok", "Redis: none is configured: one instance")
    else:
        async for finding in redis(options):
            yield finding
    async for finding in back_ends(options):
        yield finding


def descriptors(options: Config, most: int) -> Iterator[Finding]:
    """`most`: the hard limit, to which the server raises its own."""
    wanted = options.limits.connections + DESCRIPTORS_BESIDES
    if most == resource.RLIM_INFINITY or most >= wanted:
        yield Finding("ok", f"file descriptors: {most} (limits.connections is {options.limits.connections})")
    else:
        yield Finding(
            "broken",
            f"file descriptors: {most} at most, but limits.connections is {options.limits.connections}",
            f"raise the hard limit to {wanted} (LimitNOFILE= under systemd), or lower limits.connections",
        )


async def mongodb(options: Config, uri: str) -> AsyncIterator[Finding]:
    try:
        database = connect(options.mongodb, uri)
    except StartError as error:
        yield Finding("broken", f"MongoDB: {error}", "docs/configuration.md says what mongodb.uri may be")
        return
    try:
        async with asyncio.timeout(4 * WITHIN):
            async for finding in _mongodb(database, options.mongodb):
                yield finding
    except TimeoutError:
        yield Finding("broken", "MongoDB: it does not answer in time", "look at its log, and at the network")
    except PyMongoError as error:
        yield Finding("broken", f"MongoDB: {brief(error)}", "is it running, and are mongodb.uri and its user right?")
    finally:
        database.client.close()


async def _mongodb(database: Database, options: MongoDB) -> AsyncIterator[Finding]:
    before = time.time()
    hello = await database.client.admin.command("hello")
    after = time.time()
    version = (await database.client.admin.command("buildInfo"))["version"]
    yield Finding("ok", f"MongoDB: version {version} answers")

    if "setName" not in hello:
        yield Finding("broken", "MongoDB: a standalone server", "make it a replica set; one member will do")
        return
    members, arbiters = len(hello.get("hosts", ())), len(hello.get("arbiters", ()))
    if members >= 3 and not arbiters:
        yield Finding("ok", f"MongoDB: replica set {hello['setName']} of {members} members")
    else:
        yield Finding(
            "note",
            f"MongoDB: replica set {hello['setName']} of {members} members and {arbiters} arbiters",
            "in production: three members that hold data, so that one may fail and writes go on",
        )

    own = database.own
    if await is_older(database):
        own = database.get_collection
        yield Finding("note", f"MongoDB: the server's collections get names with {database.prefix} at the next start")
    meta, messages = own("meta"), own("messages")
    written = time.monotonic()
    reply = await database.command(
        {
            "update": meta.name,
            "updates": [{"q": {"_id": "doctor"}, "u": {"$set": {"at": int(1000 * after)}}, "upsert": True}],
            "writeConcern": {"w": "majority", "j": True, "wtimeout": int(1000 * WITHIN)},
        }
    )
    took = time.monotonic() - written
    await meta.delete_one({"_id": "doctor"})
    if "writeConcernError" in reply:
        reason = brief_refusal(reply["writeConcernError"])
        yield Finding(
            "broken",
            f"MongoDB: no majority acknowledged a write: {reason}",
            "a majority of its members has to be up and keeping up",
        )
    else:
        yield Finding("ok", f"MongoDB: a write with majority and journal took {1000 * took:.0f} ms")

    async for finding in _outbox(database, options):
        yield finding
    for job in await progress(database):
        if not job.done:
            held = job.until > 1000 * (time.time() - WITHIN)
            what = f"search: older messages of {job.namespace} are getting their words: {job.looked} looked at"
            yield Finding("ok", what) if held else Finding("note", f"{what}, and no server goes on", "start one")
    names = {index["name"] async for index in messages.list_indexes()}
    missing = {"key", "head"} - names
    if not names:
        yield Finding("ok", "MongoDB: no messages yet; the first start makes the indexes")
    elif missing:
        yield Finding(
            "broken",
            f"MongoDB: {messages.name} lacks the index {' and '.join(sorted(missing))}",
            "start the server: it makes them; if it cannot, its log says why",
        )
    else:
        yield Finding("ok", "MongoDB: the indexes are there")

    there = hello["localTime"].replace(tzinfo=UTC).timestamp()
    skew = max(before - there, there - after, 0.0)
    if skew > SKEW_SECONDS:
        yield Finding(
            "broken", f"clock: {skew:.1f} s away from MongoDB's", "run NTP on both: time, retention and tokens need it"
        )
    else:
        yield Finding("ok", "clock: agrees with MongoDB's")


async def _outbox(database: Database, options: MongoDB) -> AsyncIterator[Finding]:
    if options.outbox is False:
        return
    entries = database.client[options.outbox if isinstance(options.outbox, str) else database.name][COLLECTION]
    try:
        waiting = await entries.estimated_document_count()
    except PyMongoError as error:
        yield Finding("broken", f"MongoDB: {COLLECTION}: {brief(error)}", "the server's user needs readWrite there")
        return
    record = await database.own("meta").find_one({"_id": "outbox"}, {"until": 1}) or {}
    until = record.get("until")
    if waiting and (until is None or until.replace(tzinfo=UTC).timestamp() < time.time() - WITHIN):
        yield Finding("note", f"outbox: {waiting} entries wait, and no server publishes them", "start one")
    elif waiting:
        yield Finding("ok", f"outbox: {waiting} entries, those for later among them")


async def redis(options: Config) -> AsyncIterator[Finding]:
    try:
        broker = RedisBroker(options.redis)
    except StartError as error:
        yield Finding("broken", f"Redis: {error}", "docs/configuration.md says what redis.url may be")
        return
    arrived = asyncio.Event()
    linked = asyncio.Event()
    await broker.start("doctor", lambda messages, node: arrived.set(), lambda announcement: None, linked.set)
    try:
        channel = f"doctor:{secrets.token_hex(8)}"
        async with asyncio.timeout(WITHIN):
            await linked.wait()
            await broker.subscribe(channel)
            started = time.monotonic()
            broker.publish([Message(channel, "", 0, "", None, 0, None)])
            await arrived.wait()
        yield Finding("ok", f"Redis: a message came back in {1000 * (time.monotonic() - started):.1f} ms")
    except TimeoutError:
        reason = broker.problem() or "redis: a published message did not come back"
        yield Finding("broken", f"Redis: {reason.removeprefix('redis: ')}", "is it running, and is redis.url right?")
        return
    finally:
        await broker.close()
    async for finding in _output_buffer(Endpoint(options.redis.url or "")):
        yield finding


async def back_ends(options: Config) -> AsyncIterator[Finding]:
    """Whether somebody listens at the URLs of hooks, calls and consumers. Nothing is asked there: nobody knows what
    would come of it."""
    sections: dict[str, Mapping[str, Target]] = {
        "hooks": options.hooks, "calls": options.calls, "consumers": options.consumers,
    }  # fmt: skip
    for section, entries in sections.items():
        for name, target in entries.items():
            if target.url is not None:
                yield await _back_end(f"{section}.{name}", target.url, later=section == "consumers")


async def _back_end(path: str, url: str, *, later: bool) -> Finding:
    """`later`: nothing is lost while nobody is there."""
    began = time.monotonic()
    try:
        async with asyncio.timeout(WITHIN):
            await reach(url)
    except ssl.SSLError as error:
        return Finding("broken", f"{path}: {error.reason or 'TLS fails'}", "is its certificate one that all trust?")
    except (OSError, TimeoutError, ValueError) as error:
        why = "it does not answer in time" if isinstance(error, TimeoutError) else type(error).__name__
        fix = f"is it running, and is {path}.url right?"
        if later:
            return Finding("note", f"{path}: {why}", f"{fix} What is published meanwhile is delivered later")
        return Finding("broken", f"{path}: {why}", fix)
    return Finding("ok", f"{path}: accepts connections, in {1000 * (time.monotonic() - began):.1f} ms")


async def _output_buffer(endpoint: Endpoint) -> AsyncIterator[Finding]:
    """When Redis cuts off an instance that reads too slowly."""
    servers = None
    try:
        servers = await endpoint.resolve()
        answer: Any = await servers.all[0].config_get("client-output-buffer-limit")
        words = answer["client-output-buffer-limit"].split()
    except (RedisError, KeyError, AttributeError):
        yield Finding("note", "Redis: its client-output-buffer-limit cannot be read", "see docs/operations.md, Redis")
        return
    finally:
        if servers is not None:
            await servers.close()
    limits = {words[index]: [int(word) for word in words[index + 1 : index + 4]] for index in range(0, len(words), 4)}
    hard, soft, _ = limits["pubsub"]
    if (hard and hard < PUBSUB_BUFFER) or (soft and soft < PUBSUB_BUFFER):
        yield Finding(
            "note",
            f"Redis: client-output-buffer-limit pubsub is {hard} {soft}: tight for busy channels",
            "client-output-buffer-limit pubsub 256mb 64mb 60",
        )
    else:
        yield Finding("ok", f"Redis: client-output-buffer-limit pubsub is {hard} {soft} (0: none)")
