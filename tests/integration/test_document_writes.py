"""What a write of a document promises: no answer is overtaken, no id is there twice, no owner is lost."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import pytest
from bson import ObjectId
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient

from server.core.errors import Error
from server.core.principals import Principal
from server.core.tasks import Keeper
from server.documents.commands import Commands, Result, encode
from server.documents.store import Written
from server.mongo.deadlines import Deadlines
from server.node import Node
from server.wire.commands import Find, Write
from tests.support.processes import Mongod
from tests.support.waiting import until

ANN, BOB, EVE = (Principal(user=name) for name in ("ann", "bob", "eve"))
SHOP = Principal(user="shop", server=True)


@pytest.fixture
def settings() -> dict[str, object]:
    return {
        "collections.things": {"read": "anyone", "write": "anyone"},
        "collections.notes": {"read": "user", "write": "user", "owner": "owner"},
        "mongodb.publish_timeout": "2s",
    }


@pytest.fixture
def direct(mongod: Mongod, node: Node) -> Any:
    """The database, as another program sees it."""
    with MongoClient[Any](mongod.uri) as client:
        yield client[node.config.mongodb.database]


async def write(node: Node, who: Principal, collection: str, op: Any, identifier: str | None = None,
                document: Any = None, **more: Any) -> Written:  # fmt: skip
    about = Write(op=op, document_id=identifier, document=document, **more)
    return await node.documents.write(who, collection, about)


async def refused(node: Node, who: Principal, *args: Any, **more: Any) -> str:
    with pytest.raises(Error) as refusal:
        await write(node, who, *args, **more)
    return refusal.value.code


# --- what was answered is over ----------------------------------------------------------------------------------------


async def hold_updates(mongod: Mongod, direct: Any, times: int) -> None:
    """mongod gets the next updates of things at once, and begins with them 3 s later."""
    data = {"failCommands": ["update"], "namespace": f"{direct.name}.things", "blockConnection": True,
            "blockTimeMS": 3000}  # fmt: skip
    await mongod.fail_command(data, {"times": times})


async def all_over(direct: Any) -> None:
    """No update is under way in mongod."""
    busy = {"ns": f"{direct.name}.things", "active": True}
    await until(lambda: not direct.client.admin.command({"currentOp": 1, **busy})["inprog"], 10)


@pytest.mark.gen_test(timeout=60)
@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("how", [{}, {"if_absent": True}, {"key": "k"}])
async def test_a_write_whose_outcome_is_unknown_is_not_carried_out_later(
    node: Node, mongod: Mongod, direct: Any, there: bool, how: dict[str, Any]
) -> None:
    """Whoever writes after `outcome_unknown` was answered has the last word: also whoever deletes."""
    if there and how:
        return
    if there:
        await write(node, ANN, "things", "put", "x", {"v": "old"})
    else:
        await write(node, ANN, "things", "put", "y", {})  # the connection is there
    await hold_updates(mongod, direct, 1)
    content = {"v": "late", **({"_id": "x"} if "key" in how else {})}
    assert await refused(node, ANN, "things", "put", None if "key" in how else "x", content, **how) == "outcome_unknown"
    if there:
        await write(node, BOB, "things", "patch", "x", {"v": "new"})
        await all_over(direct)
        assert direct.things.find_one({"_id": "x"})["v"] == "new"
    else:
        assert await refused(node, BOB, "things", "delete", "x") == "not_found"
        await all_over(direct)
        assert direct.things.find_one({"_id": "x"}) is None


@pytest.mark.gen_test(timeout=60)
async def test_puts_that_wait_are_out_of_the_queue_once_they_are_answered(
    node: Node, mongod: Mongod, direct: Any
) -> None:
    """Those that were not sent are told that nothing is stored, and nothing is."""
    await write(node, ANN, "things", "put", "x", {"v": "old"})
    await hold_updates(mongod, direct, 1)
    results = await asyncio.gather(
        *(write(node, ANN, "things", "put", "x", {"v": n}) for n in range(400)), return_exceptions=True
    )
    assert all(isinstance(one, Error) for one in results)
    codes = [one.code for one in results if isinstance(one, Error)]
    assert codes.count("outcome_unknown") <= 1
    assert set(codes) <= {"outcome_unknown", "unavailable"}
    await all_over(direct)
    assert (await write(node, BOB, "things", "patch", "x", {"by": "bob"})).document["v"] == "old"  # type: ignore[index]
    await write(node, ANN, "things", "put", "y", {})
    assert direct.things.find_one({"_id": "x"}) == {"_id": "x", "v": "old", "by": "bob"}


@pytest.mark.gen_test(timeout=60)
async def test_puts_of_one_document_keep_their_order(node: Node, direct: Any) -> None:
    """Of many at once the last one said is the last one done, whether the document is there, comes or goes."""
    for _ in range(5):
        writes = [write(node, ANN, "things", "put", f"k{n % 3}", {"n": n}) for n in range(60)]
        written = await asyncio.gather(*writes)
        assert [one["n"] for one in direct.things.find().sort("_id")] == [57, 58, 59]
        assert sum(one.created for one in written) == 3
        direct.things.delete_many({})


@pytest.mark.gen_test(timeout=60)
async def test_puts_while_others_delete_are_all_stored(node: Node, direct: Any) -> None:
    """A document that goes in the moment in which it is replaced is made anew."""
    stop = False

    def delete() -> None:
        while not stop:
            direct.things.delete_many({})

    deleting = asyncio.create_task(asyncio.to_thread(delete))
    try:
        for n in range(30):
            await asyncio.gather(*(write(node, ANN, "things", "put", f"k{i}", {"n": n}) for i in range(20)))
    finally:
        stop = True
        await deleting
    await asyncio.gather(*(write(node, ANN, "things", "put", f"k{i}", {"n": 30}) for i in range(20)))
    assert [one["n"] for one in direct.things.find()] == [30] * 20


@pytest.mark.gen_test(timeout=60)
async def test_the_trouble_of_one_write_is_not_that_of_another(node: Node, mongod: Mongod, direct: Any) -> None:
    """MongoDB's clock is in doubt after a write that failed, or met a deletion: a write that waits for something else
    meanwhile asks for it again."""
    await write(node, ANN, "things", "put", "x", {"v": 0})
    keeper = Keeper()
    deadlines = Deadlines(node.database, keeper)
    commands = Commands(node.database, deadlines)
    slow = {"failCommands": ["find"], "namespace": f"{direct.name}.things", "blockConnection": True, "blockTimeMS": 200}
    await mongod.fail_command(slow, {"times": 1})
    deadline = asyncio.get_running_loop().time() + 2
    putting = asyncio.ensure_future(
        commands.put_many("things", [encode({"_id": "x", "v": 1})], [lambda: None], deadline)
    )
    reading = {"currentOp": 1, "command.find": "things", "command.$db": direct.name}
    await until(lambda: direct.client.admin.command(reading)["inprog"], 10)
    deadlines.doubt()
    assert await putting == [Result(False)]
    both = [commands.delete("things", "none", deadline, owned={}) for _ in range(2)]
    deadlines.doubt()
    doubting = asyncio.ensure_future(deadlines.ready())
    doubting.add_done_callback(lambda _: deadlines.doubt())  # before those who wait with it go on
    assert await asyncio.gather(*both) == [False, False]
    await keeper.close()
    assert [one["v"] for one in direct.things.find()] == [1]


# --- ids --------------------------------------------------------------------------------------------------------------


@pytest.mark.gen_test
async def test_the_digits_of_an_object_id_are_taken_by_it(node: Node, direct: Any) -> None:
    """Over there another type, here one id: who creates it gets `conflict`, who puts it means the one that is there."""
    twin = ObjectId()
    direct.things.insert_one({"_id": twin, "n": 1})
    for key in (None, "k", "k"):
        assert await refused(node, ANN, "things", "put", None, {"_id": str(twin)}, key=key) == "conflict"
    assert await refused(node, ANN, "things", "put", str(twin), {}, if_absent=True) == "conflict"
    batch = [
        Write(op="put", document={"_id": str(twin)}),
        Write(op="put", document_id=str(twin), document={}),
    ]
    made, put = await node.documents.write_many(ANN, "things", batch)
    assert isinstance(made, Error)
    assert made.code == "conflict"
    assert isinstance(put, Written)
    assert not put.created
    assert [one["_id"] for one in direct.things.find()] == [twin]


@pytest.mark.gen_test(timeout=30)
async def test_a_batch_is_in_order_wherever_the_id_stands(node: Node, direct: Any) -> None:
    """The `_id` of a create counts like a `document_id`, with a key as without."""
    for n in range(20):
        writes = [
            Write(op="put", document={"_id": f"x{n}", "n": "n" * 50_000}, key=f"k{n}" if n % 2 else None),
            Write(op="patch", document_id=f"x{n}", document={"m": 1}),
            Write(op="delete", document_id=f"x{n}"),
            Write(op="put", document={"_id": f"y{n}"}),
            Write(op="put", document_id=f"y{n}", document={"n": n}),
        ]
        results = await node.documents.write_many(ANN, "things", writes)
        assert [one.reason for one in results if isinstance(one, Error)] == []
        assert direct.things.find_one({"_id": f"y{n}"}) == {"_id": f"y{n}", "n": n}
    assert direct.things.count_documents({"_id": {"$regex": "^x"}}) == 0


# --- owners -----------------------------------------------------------------------------------------------------------


@pytest.mark.gen_test
async def test_who_owns_a_document_stays_as_it_is(node: Node, direct: Any) -> None:
    """Several owners: each sends back what was read, or leaves the field out, and the others keep it."""
    both = ["ann", "bob"]
    await write(node, SHOP, "notes", "put", "1", {"t": 1, "owner": both})
    for who in (ANN, BOB):
        read = await node.documents.get(who, "notes", "1")
        for op, document in (("put", {**read, "t": 2}), ("put", {"t": 3}), ("put", {"t": 4, "owner": None}),
                             ("patch", {"t": 5}), ("patch", {"t": 6, "owner": both})):  # fmt: skip
            written = await write(node, who, "notes", op, "1", document)
            assert written.document is not None
            assert written.document["owner"] == both
        for owner in ("ann", "bob", ["bob", "ann"], ["ann"], [*both, "eve"], "eve", [], 5):
            for op in ("put", "patch"):
                assert await refused(node, who, "notes", op, "1", {"owner": owner}) == "permission_denied", owner
        assert await refused(node, who, "notes", "patch", "1", {"owner": None}) == "permission_denied"
    assert await refused(node, EVE, "notes", "put", "1", {}) == "not_found"
    assert direct.notes.find_one() == {"_id": "1", "t": 6, "owner": both}
    batch = await node.documents.write_many(BOB, "notes", [Write(op="put", document_id="1", document={"t": 7})])
    assert isinstance(batch[0], Written)
    assert direct.notes.find_one() == {"_id": "1", "t": 7, "owner": both}


@pytest.mark.gen_test
async def test_a_new_document_is_its_makers(node: Node, direct: Any) -> None:
    """Nobody makes documents that others then seem to have made."""
    for identifier, owner in (("1", "ann"), ("2", None)):
        await write(node, ANN, "notes", "put", identifier, {"owner": owner})
    made = await write(node, ANN, "notes", "put", None, {}, key="k")
    assert made.document is not None
    for owner in (["ann", "bob"], ["ann"], "bob"):
        assert await refused(node, ANN, "notes", "put", "3", {"owner": owner}) == "permission_denied"
        assert await refused(node, ANN, "notes", "put", None, {"owner": owner}) == "permission_denied"
    assert [one["owner"] for one in direct.notes.find()] == ["ann"] * 3


# --- what other programs have stored ----------------------------------------------------------------------------------


def element(kind: int, name: bytes, payload: bytes) -> bytes:
    return bytes([kind]) + name + b"\0" + payload


def raw(*elements: bytes) -> bytes:
    body = b"".join(elements) + b"\0"
    return struct.pack("<i", len(body) + 4) + body


def text(value: bytes) -> bytes:
    return struct.pack("<i", len(value) + 1) + value + b"\0"


TWICE = (element(16, b"n", struct.pack("<i", 1)), element(16, b"n", struct.pack("<i", 2)))


@pytest.mark.gen_test(timeout=60)
@pytest.mark.parametrize("place", ["top", "nested", "list"])
async def test_a_name_stored_twice_ends_nothing(node: Node, direct: Any, place: str) -> None:
    """What compares the document with its new content is refused; it can be read, put anew and deleted."""
    inside = {
        "top": TWICE,
        "nested": (element(3, b"a", raw(*TWICE)),),
        "list": (element(4, b"a", raw(element(3, b"0", raw(*TWICE)))),),
    }[place]

    def store() -> None:
        document = RawBSONDocument(raw(element(2, b"_id", text(b"x")), *inside))
        direct.command("insert", "things", documents=[document])

    store()
    found = await node.documents.find(ANN, Find(id=1, collection="things", sort="n,-a"))
    rev = found["documents"][0]["_rev"]
    for changes in ({"added": 1}, {"n": 5}, {"n": None}, {"a": {"n": 3}}):
        assert await refused(node, ANN, "things", "patch", "x", changes) == "conflict"
    assert await refused(node, ANN, "things", "put", "x", {"n": 7}, if_rev=rev) == "conflict"
    assert await refused(node, ANN, "things", "delete", "x", if_rev=rev) == "conflict"
    await write(node, ANN, "things", "put", "x", {"n": 7, "a": {"n": 1, "m": 2}})
    await write(node, ANN, "things", "patch", "x", {"n": 8})
    await write(node, ANN, "things", "delete", "x")
    store()
    await write(node, ANN, "things", "delete", "x")
    assert direct.things.find_one() is None


@pytest.mark.gen_test
async def test_what_was_not_touched_is_written_back_as_it_was(node: Node, direct: Any) -> None:
    """A patch of one field leaves every byte of the others."""
    odd = (element(6, b"u", b""), element(14, b"s", text(b"symbol")), element(18, b"l", struct.pack("<q", 5)))
    direct.command("insert", "things", documents=[RawBSONDocument(raw(element(2, b"_id", text(b"x")), *odd))])
    await write(node, ANN, "things", "patch", "x", {"added": True})
    options = direct.codec_options.with_options(document_class=RawBSONDocument)
    stored = direct.get_collection("things", codec_options=options).find_one()
    assert stored["added"] is True
    assert odd[2] in stored.raw


@pytest.mark.gen_test
async def test_no_document_is_patched_together_that_could_not_be_put(node: Node, direct: Any) -> None:
    """A document has as many values as a message may have, however it came about; a patch that is too much changes
    nothing, and one that makes it smaller is carried out."""
    await write(node, SHOP, "notes", "put", "1", {"first": list(range(9000))})
    assert await refused(node, SHOP, "notes", "patch", "1", {"second": list(range(2000))}) == "too_large"
    with pytest.raises(Error, match=r"document: 10000 values at most"):
        await write(node, SHOP, "notes", "patch", "1", {"second": list(range(2000))})
    assert direct.notes.find_one() == {"_id": "1", "first": list(range(9000))}
    direct.notes.update_one({"_id": "1"}, {"$set": {"second": list(range(2000))}})  # as another program may
    assert await refused(node, SHOP, "notes", "patch", "1", {"t": 1}) == "too_large"
    await write(node, SHOP, "notes", "patch", "1", {"first": None, "t": 1})
    assert direct.notes.find_one() == {"_id": "1", "second": list(range(2000)), "t": 1}
