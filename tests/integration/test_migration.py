"""A database of a version whose collections had plain names: they get the prefix, once, whatever comes in between."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from bson import Int64
from pymongo import MongoClient

from server.access.accounts.families import Visit
from server.core import config
from server.core.config import MongoDB
from server.core.errors import Error, StartError
from server.core.principals import GUEST
from server.mongo.client import connect_apart
from server.mongo.databases import DatabaseApart
from server.mongo.migration import QUIET, Migration
from server.node import Node
from tests.integration.conftest import SETTINGS
from tests.support.logs import fresh
from tests.support.processes import Mongod
from tests.support.waiting import until

NAMES = ("messages", "channels", "creations", "accounts", "refresh_tokens", "revocations", "seen", "meta")
NOW = datetime.now(UTC).replace(microsecond=0)
"""Not long ago: MongoDB itself removes what has expired, once a minute."""
QUICK = 0.05


@pytest.fixture
def options() -> MongoDB:
    return fresh()


@pytest.fixture
def direct(mongod: Mongod, options: MongoDB) -> Iterator[Any]:
    with MongoClient[dict[str, Any]](mongod.uri) as client:
        yield client[options.database]
        client.drop_database(options.database)


@asynccontextmanager
async def migration(uri: str, options: MongoDB, quiet: float = QUICK) -> AsyncIterator[Migration]:
    database: DatabaseApart = connect_apart(options, uri)
    try:
        yield Migration(database, quiet)
    finally:
        await database.client.close()


def make_older(direct: Any) -> dict[str, list[Any]]:
    """What the older version has stored, and its indexes; answers it all."""
    direct.messages.create_index([("_id.c", 1), ("u", 1), ("k", 1)], name="key", unique=True)
    direct.messages.create_index([("_id.c", 1), ("_id.o", -1)], name="head")
    direct.creations.create_index("t", expireAfterSeconds=604800)
    direct.refresh_tokens.create_index("expires", expireAfterSeconds=0)
    direct.refresh_tokens.create_index("user")
    direct.seen.create_index("t", expireAfterSeconds=2592000)
    direct.seen.create_index([("_id.c", 1), ("t", -1)])
    row = {"e": "old", "u": None, "t": Int64(1772323200000)}
    direct.messages.insert_many(
        [{"_id": {"c": "chat:a", "o": n}, **row, "k": str(n), "d": {"n": n}} for n in range(3, 6)]
        + [{"_id": {"c": "docs:x", "o": 1}, **row, "k": "k", "j": "{}", "x": {"k": "82", "i": "[null,null]"}}]
    )
    direct.channels.insert_many([{"_id": "chat:a", "floor": 2}, {"_id": "docs:x", "floor": 0, "epoch": "own"}])
    direct.creations.insert_many([
        {"_id": {"c": "x", "u": None, "k": "k"}, "id": "1", "digest": "d", "t": NOW, "tries": 1, "done": True},
        {"_id": {"page": "p"}, "k": {"a": 1}, "t": NOW},
    ])  # fmt: skip
    account = {"user": "Ann", "password": "$argon2id$v=19$…", "info": "null", "created": 1772323200000}
    direct.accounts.insert_one({"_id": "ann", **account})
    expires = datetime(2099, 1, 1, tzinfo=UTC)
    direct.refresh_tokens.insert_one({"_id": "family", "user": "ann", "current": "digest", "expires": expires})
    direct.revocations.insert_one({"_id": 1, "kind": "revoke", "user": "bob", "at": 1772323200.5})
    direct.seen.insert_one({"_id": {"c": "chat:a", "u": "ann"}, "t": NOW})
    of = next(one["info"]["uuid"] for one in direct.list_collections() if one["name"] == "messages")
    direct.meta.insert_many([
        {"_id": "epoch", "epoch": "old", "of": of, "n": 17},
        {"_id": "tailer", "token": "82", "names": ["x"], "known": ["x"], "holder": "n1"},
        {"_id": "mark", "n": 1}, {"_id": "secret", "secret": "s"}, {"_id": "tickets", "key": "k"},
    ])  # fmt: skip
    stored = {name: list(direct[name].find()) for name in NAMES}
    stored["meta"][1]["known"] = sorted({"x", *NAMES})
    return stored


def moved(direct: Any) -> dict[str, list[Any]]:
    """What the server would find under the new names."""
    stored = {name: list(direct["waterspout." + name].find()) for name in NAMES}
    stored["meta"] = [one for one in stored["meta"] if one["_id"] != "names"]
    for one in stored["meta"]:
        if "known" in one:
            one["known"] = sorted(one["known"])
    return stored


def plain(direct: Any) -> set[str]:
    return {name for name in direct.list_collection_names() if not name.startswith("waterspout.")}


@pytest.mark.gen_test
async def test_all_that_an_older_version_made_is_renamed(mongod: Mongod, options: MongoDB, direct: Any) -> None:
    """Documents, indexes, the collection that the epoch belongs to, and views of it; then the plain names are free."""
    stored = make_older(direct)
    indexes = {name: direct[name].index_information() for name in NAMES}
    direct.command({"create": "report", "viewOn": "messages", "pipeline": [{"$match": {"_id.c": "chat:a"}}]})
    async with migration(mongod.uri, options) as one:
        await one.run()
        assert direct.meta.count_documents({"_id": "epoch"}) == 0
        await one.run()
    assert moved(direct) == stored
    assert {name: direct["waterspout." + name].index_information() for name in NAMES} == indexes
    found = next(one for one in direct.list_collections() if one["name"] == "waterspout.messages")
    assert found["info"]["uuid"] == stored["meta"][0]["of"]
    assert plain(direct) == {"report", "system.views"}
    assert direct.report.count_documents({}) == 3


@pytest.mark.gen_test(timeout=30)
@pytest.mark.parametrize("done", range(len(NAMES) + 1))
async def test_it_goes_on_where_it_was_broken_off(mongod: Mongod, options: MongoDB, direct: Any, done: int) -> None:
    """After a kill behind each of its steps: some collections have their names already, the marker is not written."""
    stored = make_older(direct)
    direct.meta.update_one({"_id": "tailer"}, {"$set": {"known": ["x", *NAMES]}})
    for name in NAMES[:done]:
        direct[name].rename("waterspout." + name)
    async with migration(mongod.uri, options) as one:
        await one.run()
    assert moved(direct) == stored
    assert plain(direct) == set()
    assert direct["waterspout.meta"].count_documents({"_id": "names"}) == 1


@pytest.mark.gen_test(timeout=30)
async def test_nodes_that_start_at_once_do_it_together(mongod: Mongod, options: MongoDB, direct: Any) -> None:
    """Each finds all of it done when it is through, also where the answers of MongoDB are lost."""
    stored = make_older(direct)
    lost = {"failCommands": ["renameCollection"], "closeConnection": True, "appName": "waterspout"}
    await mongod.fail_command(lost, {"times": 3})

    reasons: list[str] = []

    async def node() -> None:
        async with migration(mongod.uri, options) as one:
            for _ in range(10):
                try:
                    await one.run()
                except Error as error:
                    reasons.append(error.reason)
                    continue
                assert plain(direct) == set()
                return
            raise AssertionError("it does not come to an end")

    try:
        await asyncio.gather(*(node() for _ in range(5)))
    finally:
        await mongod.disarm()
    assert moved(direct) == stored
    assert len(reasons) == 3


@pytest.mark.gen_test
async def test_what_a_product_has_under_these_names_is_not_touched(
    mongod: Mongod, options: MongoDB, direct: Any
) -> None:
    """Where no server has been before, and where one has: a collection with no document of ours in it, or empty and
    without our indexes, is the product's."""
    direct.messages.insert_one({"_id": "m1", "text": "hello"})
    direct.meta.insert_one({"_id": "epoch", "of": "something else"})
    direct.create_collection("channels")
    async with migration(mongod.uri, options) as one:
        await one.run()
    assert plain(direct) == {"messages", "meta", "channels"}
    direct.client.drop_database(options.database)
    stored = make_older(direct)
    for name in ("accounts", "refresh_tokens", "channels"):
        direct[name].drop()
    direct.accounts.insert_one({"_id": "4711", "user": "a customer", "balance": 12})
    direct.create_collection("channels")
    async with migration(mongod.uri, options) as one:
        await one.run()
    assert moved(direct)["messages"] == stored["messages"]
    assert plain(direct) == {"accounts", "channels"}
    assert direct.accounts.find_one() == {"_id": "4711", "user": "a customer", "balance": 12}


@pytest.mark.gen_test
async def test_a_collection_with_documents_of_both_stays_and_ours_are_copied(
    mongod: Mongod, options: MongoDB, direct: Any
) -> None:
    """The product's documents are neither moved nor taken over; what is ours works on."""
    stored = make_older(direct)
    theirs = {"_id": "general", "title": "General", "floor": 3}
    direct.channels.insert_one(theirs)
    direct.meta.insert_one({"_id": "schema", "version": 7})
    async with migration(mongod.uri, options) as one:
        await one.run()
        assert direct.meta.count_documents({"_id": "epoch"}) == 0
    assert moved(direct) == stored
    assert plain(direct) == {"channels", "meta"}
    assert direct.channels.find_one({"_id": "general"}) == theirs
    assert direct.meta.find_one({"_id": "schema"}) == {"_id": "schema", "version": 7}


@pytest.mark.gen_test
async def test_foreign_documents_among_the_messages_end_the_start(
    mongod: Mongod, options: MongoDB, direct: Any
) -> None:
    """Of them it would not be known what they are; one line says what to do, and nothing of them is lost."""
    stored = make_older(direct)
    direct.messages.insert_one({"text": "hello"})
    async with migration(mongod.uri, options) as one:
        with pytest.raises(StartError, match=r"not the server's: move them elsewhere"):
            await one.run()
        direct.messages.delete_one({"text": "hello"})
        await one.run()
    assert moved(direct) == stored


@pytest.mark.gen_test(timeout=30)
async def test_it_waits_for_nodes_of_the_older_version(mongod: Mongod, options: MongoDB, direct: Any) -> None:
    """They look at the epoch once a second, which counts; while one does, nothing gets another name."""
    stored = make_older(direct)
    async with migration(mongod.uri, options, quiet=0.3) as one:

        async def older() -> None:
            while True:
                direct.meta.update_one({"_id": "epoch"}, {"$inc": {"n": 1}})
                await asyncio.sleep(0.05)

        running = asyncio.ensure_future(older())
        with pytest.raises(Error, match=r"an older version runs on .*: it has to stop"):
            await one.run()
        running.cancel()
        assert plain(direct) == set(NAMES)
        await one.run()
    stored["meta"][0]["n"] = direct["waterspout.meta"].find_one({"_id": "epoch"})["n"]
    assert moved(direct) == stored
    assert QUIET > 3.5  # what a node of that version takes at most between two looks: 1 s, and 2.5 s for a slow one


@pytest.mark.gen_test
async def test_an_older_version_that_ran_afterwards_is_told_of(
    mongod: Mongod, options: MongoDB, direct: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """It has made its collections anew. Ours stay what they are; what it has stored is there, and the log says so."""
    stored = make_older(direct)
    async with migration(mongod.uri, options) as one:
        await one.run()
        assert "an older version has run" not in caplog.text
        make_older(direct)
        with caplog.at_level(logging.ERROR):
            await one.run()
    assert "an older version has run" in caplog.text
    assert moved(direct) == stored
    assert plain(direct) == set(NAMES)


@pytest.mark.gen_test
async def test_two_collections_that_are_both_ours_end_the_start(mongod: Mongod, options: MongoDB, direct: Any) -> None:
    """Broken off, then the older version again, then this one: it does not choose between two histories."""
    make_older(direct)
    direct.messages.rename("waterspout.messages")
    direct.messages.insert_one({"_id": {"c": "chat:b", "o": 1}, "k": "k", "t": 1, "d": 1})
    async with migration(mongod.uri, options) as one:
        with pytest.raises(StartError, match=r"messages and waterspout\.messages of .* Drop one of them"):
            await one.run()
    assert direct["waterspout.messages"].count_documents({}) == 4


@pytest.mark.gen_test(timeout=120)
async def test_without_the_right_to_rename_one_line_says_what_to_do(
    tmp_path_factory: pytest.TempPathFactory, options: MongoDB
) -> None:
    """The documented role, readWrite, has it. With less, an administrator does by hand what the line says."""
    guarded = Mongod(tmp_path_factory.mktemp("guarded"), auth=True)
    await guarded.start()
    try:
        resource = {"db": options.database, "collection": ""}
        actions = ["find", "insert", "update", "remove", "createIndex", "createCollection", "listIndexes"]
        await guarded.admin("createRole", "narrow", roles=[], privileges=[{"resource": resource, "actions": actions}])
        narrow = await guarded.add_user("narrow", "admin", "narrow")
        full = await guarded.add_user("full", options.database, "readWrite")
        with MongoClient[dict[str, Any]](full) as client:
            direct = client[options.database]
            stored = make_older(direct)
            async with migration(narrow, options) as one:
                with pytest.raises(StartError) as refused:
                    await one.run()
                assert f"{[*NAMES]}.forEach(name => db[name].renameCollection('waterspout.' + name))" in str(
                    refused.value
                )
                for name in NAMES:
                    direct[name].rename("waterspout." + name)
                await one.run()
            assert moved(direct) == stored
            for name in direct.list_collection_names():
                direct[name].drop()
            stored = make_older(direct)
            async with migration(full, options) as one:
                await one.run()
            assert moved(direct) == stored
    finally:
        await guarded.__aexit__(None, None, None)


@pytest.mark.gen_test(timeout=60)
async def test_a_node_goes_on_where_the_older_version_left(mongod: Mongod, options: MongoDB, direct: Any) -> None:
    """Cursors, keys, accounts, revocations and the secret of tokens are the same as before. A collection that is
    declared under a plain name now is the product's: nothing that was the server's is seen in it, though changes are
    followed from where the older version had stopped."""
    declared: dict[str, Any] = {name: {"read": "anyone", "write": "anyone"} for name in ("notes", "accounts")}
    settings = SETTINGS | {"mongodb.database": options.database, "auth.accounts": True, "auth.secret": None}
    before = config.load(None, {}, (settings | {"collections": {"notes": declared["notes"]}}).items())
    node = Node(before, mongod.uri)
    await node.start()
    assert node.accounts is not None
    first = await node.publisher.publish(GUEST, "chat:a", 1, "one")
    ann = await node.accounts.register("ann", "correct horse battery", None, None, Visit("127.0.0.1"))
    await until(lambda: node.tailer.holds)
    await node.tailer.position()
    epoch = node.log.epoch
    direct["waterspout.meta"].delete_one({"_id": "names"})
    await node.close()
    for name, fields in {"accounts": "user password info created", "refresh_tokens": "user current expires"}.items():
        direct[f"waterspout.{name}"].update_many({}, [{"$project": dict.fromkeys(fields.split(), 1)}])
    for name in NAMES:
        if f"waterspout.{name}" in direct.list_collection_names():
            direct[f"waterspout.{name}"].rename(name)
    for name in direct.list_collection_names():
        if name.startswith("waterspout."):  # which the older version did not have
            direct.drop_collection(name)
    # The last that the older version did, behind its last checkpoint: more than comes in one batch.
    direct.accounts.insert_many([{**direct.accounts.find_one(), "_id": str(number)} for number in range(600)])

    after = config.load(None, {}, (settings | {"collections": declared}).items())
    node = Node(after, mongod.uri)
    await node.start()
    try:
        assert node.log.epoch == epoch
        assert plain(direct) == {"notes", "accounts"}
        again = await node.publisher.publish(GUEST, "chat:a", 1, "one")
        assert (again.duplicate, again.position) == (True, first.position)
        assert (await node.publisher.publish(GUEST, "chat:a", 2)).position.offset == 2
        assert node.accounts is not None
        assert (await node.accounts.refresh(ann["refresh_token"], Visit("127.0.0.1")))["user"] == "ann"
        assert node.authenticator.authenticate(ann["token"]).user == "ann"
        direct.accounts.insert_one({"_id": "m", "text": "the product's"})
        await node.tailer.position("accounts")
        page = await node.history.page(GUEST, "docs:accounts", after="0", before=None, limit=500)
        assert [one.data["id"] for one in page["messages"]] == ["m"]
        assert "argon2" not in str(list(direct["waterspout.messages"].find()))
    finally:
        await node.close()


@pytest.mark.gen_test
async def test_nobody_finds_a_prefix_of_their_own_twice(mongod: Mongod) -> None:
    """Two names of one database with prefixes of their own do not see each other's marker."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    for prefix in ("waterspout.", "ws_"):
        async with migration(mongod.uri, MongoDB(database=name, prefix=prefix)) as one:
            await one.run()
    with MongoClient[dict[str, Any]](mongod.uri) as client:
        assert set(client[name].list_collection_names()) == {"waterspout.meta", "ws_meta"}
        client.drop_database(name)
