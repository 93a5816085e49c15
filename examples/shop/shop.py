"""A shop's own back end, in three functions: an order is placed by a call, and packed by a consumer.

    make run ARGS="--config examples/shop/shop.yaml"
    python run.py seed --simulate --config examples/shop/shop.yaml        customers, and a look at /feed/

`place` runs in a transaction of MongoDB: what is taken out of the stock, the order, and the message that tells of it
are all there, or none of it is. The message is an entry of the outbox, which the server publishes once the transaction
is committed; `pack` is handed it, at least once.
"""

from __future__ import annotations

import os
import time
import uuid
from functools import cache
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.client_session import ClientSession
from pymongo.database import Database

from server.backend import Refused
from server.mongo.embedded import EmbeddedMongoDB

Document = dict[str, Any]
MOST = 20


@cache
def shop() -> Database[Document]:
    """The server's own database, where the outbox is: in the embedded MongoDB, or where SHOP_MONGODB says."""
    folder = Path(os.environ.get("WATERSPOUT__SERVER__DATA_DIR", "data"))
    uri = os.environ.get("SHOP_MONGODB") or EmbeddedMongoDB(folder).running()
    return MongoClient[Document](uri)[os.environ.get("SHOP_DATABASE", "waterspout")]


def place(question: Document) -> Document:
    """The call `shop.place {"lines": [{"product", "quantity"}]}`: the order. Asked again with the same key, because the
    answer was lost, it finds the order that is there."""
    data = question["data"] if isinstance(question["data"], dict) else {}
    lines = _checked(data.get("lines"))
    customer = question["user"] or str(data.get("customer") or "a guest")[:50]  # a guest may call itself what it likes
    identifier = f"order-{question['user'] or ''}-{question['key'] or uuid.uuid4().hex}"
    with shop().client.start_session() as session:
        order = session.with_transaction(lambda session: _place(session, identifier, customer, lines))
    return {"data": order}


def _checked(lines: Any) -> list[tuple[str, int]]:
    """Whatever comes from a client is looked at first."""
    if not isinstance(lines, list) or not 0 < len(lines) <= MOST:
        raise Refused(f"lines: 1 to {MOST} of them")
    checked = []
    for line in lines:
        product, quantity = (line.get("product"), line.get("quantity")) if isinstance(line, dict) else (None, None)
        if not isinstance(product, str) or type(quantity) is not int or not 0 < quantity <= MOST:
            raise Refused(f"lines: each has a product, and a quantity of 1 to {MOST}")
        checked.append((product, quantity))
    return checked


def _place(session: ClientSession, identifier: str, customer: str, lines: list[tuple[str, int]]) -> Document:
    """In the transaction. What is raised here takes all of it back."""
    known = shop().orders.find_one({"_id": identifier}, session=session)
    if known is not None:
        return known
    bought = []
    for product, quantity in sorted(lines):  # in one order, so that no two orders wait for each other
        enough = {"_id": product, "left": {"$gte": quantity}}
        taken = shop().stock.find_one_and_update(enough, {"$inc": {"left": -quantity}}, session=session)
        offered = shop().products.find_one({"_id": product}, session=session)
        if taken is None or offered is None:
            raise Refused("sold out", {"product": product}, 409)
        bought.append({"product": product, "quantity": quantity, "price": offered["price"]})
    order = {
        "_id": identifier,
        "customer": customer,
        "status": "placed",
        "lines": bought,
        "total": round(sum(line["quantity"] * line["price"] for line in bought), 2),
        "created": int(time.time() * 1000),
    }
    shop().orders.insert_one(order, session=session)
    message = {"channel": "shop:orders", "data": {"order": identifier, "lines": bought}}
    shop().waterspout_outbox.insert_one(message, session=session)
    return order


def pack(batch: Document) -> None:
    """The consumer `packing`. A batch may come twice, so what is done already is left alone."""
    for message in batch["messages"]:
        waiting = {"_id": message["data"]["order"], "status": "placed"}
        shop().orders.update_one(waiting, {"$set": {"status": "packed"}})
