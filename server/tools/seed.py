"""`run.py seed`: an example shop (products, stock, orders) and a market (instruments, trades) for the declared
collections, and with `--simulate` a back end that keeps them moving.

It writes straight to MongoDB, as any other program might: whoever watches sees it all the same. It is meant to run
beside a server; without one it starts the embedded MongoDB itself and only fills it. Where accounts are on, in
development, it makes a few users as well, whom one click signs in as.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import sys
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from pymongo import ReplaceOne
from pymongo.errors import PyMongoError

from server.core.clock import now_ms
from server.core.config import Config
from server.core.errors import Error, StartError
from server.documents.store import Documents
from server.mongo.client import brief, connect
from server.mongo.databases import Database
from server.mongo.embedded import EmbeddedMongoDB
from server.tools.development import USERS, add_users

Document = dict[str, Any]

_PRODUCTS: Final = {
    "light": ["Desk lamp", "Floor lamp", "Lantern", "Candle"],
    "kitchen": ["Kettle", "Teapot", "Mug", "Bread knife", "Pan"],
    "desk": ["Notebook", "Fountain pen", "Ruler", "Paper clips"],
    "garden": ["Watering can", "Rake", "Flower pot", "Bird house"],
}
_INSTRUMENTS: Final = {"EUR-USD": 1.09, "GBP-USD": 1.27, "USD-JPY": 151.2, "BTC-USD": 64_000.0, "XAU-USD": 2_330.0,
                       "OIL": 81.4, "WHEAT": 5.9, "COFFEE": 2.2}  # fmt: skip
_CUSTOMERS: Final = ("ann", "bob", "carol", "dave", "erin", "frank")
_STEPS: Final = ("placed", "paid", "packed", "shipped")
COLLECTIONS: Final = ("products", "stock", "orders", "instruments", "trades")
_DECLARE: Final = ": copy them from config.yaml into the configuration, under `collections`, and start the server again"
_PLACE: Final = "shop.place"
"""What places an order, where there is such a call."""
_KEPT: Final = 200
"""Orders and trades; older ones are deleted, so that a demonstration may run for days."""


def run(options: Config, simulate: bool) -> int:
    """1 if collections of the example are not declared: the others are filled, and the pages lack these."""
    missing = [name for name in COLLECTIONS if name not in options.collections]
    if len(missing) == len(COLLECTIONS):
        raise StartError(f"seed: none of the collections {', '.join(missing)} is declared{_DECLARE}")
    if missing:
        print(f"not declared, so left out: {', '.join(missing)}{_DECLARE}", file=sys.stderr, flush=True)
    try:
        asyncio.run(_run(options, simulate))
    except KeyboardInterrupt:
        pass
    except (PyMongoError, Error) as error:
        raise StartError(brief(error) if isinstance(error, PyMongoError) else error.reason) from None
    return 1 if missing else 0


async def _run(options: Config, simulate: bool) -> None:
    embedded: EmbeddedMongoDB | None = None
    uri = options.mongodb.uri
    if uri == "embedded":
        uri, embedded = await _embedded(Path(options.server.data_dir))
    if simulate and embedded is not None:
        await embedded.stop()
        raise StartError("seed --simulate: no server runs here; start one first (`make run`)")
    database = connect(options.mongodb, uri)
    try:
        await Documents(database, options.collections, options.mongodb, 0).open()
        # The shop of examples/shop has a back end of its own, which sells.
        url = f"http://127.0.0.1:{options.server.port}/v1/call/{_PLACE}" if _PLACE in options.calls else None
        shop = Example(database, frozenset(options.collections), random.Random(), url)
        for name, count in (await shop.fill()).items():
            print(f"{name}: {count} documents", flush=True)
        if options.auth.accounts and options.auth.development:
            await add_users(database)
            print(f"accounts: {', '.join(USERS)}, to sign in to by one click", flush=True)
        if simulate:
            print("orders flow and prices move; Ctrl-C ends it", flush=True)
            await shop.simulate()
    finally:
        database.client.close()
        if embedded is not None:
            await embedded.stop()


async def _embedded(data_dir: Path) -> tuple[str, EmbeddedMongoDB | None]:
    """The one of the server that runs, or one of our own."""
    embedded = EmbeddedMongoDB(data_dir)
    try:
        return await embedded.start(), embedded
    except StartError as error:
        running = embedded.running()
        if running is None:
            raise error from None
        return running, None


class Example:
    """Only what is declared is written."""

    def __init__(
        self, database: Database, declared: frozenset[str], chance: random.Random, place: str | None = None
    ) -> None:
        """`place`: the URL of the call that places an order; None: it is written."""
        self._place = place
        self._database = database
        self._declared = declared
        self._chance = chance
        self._number = 0
        self._written: Counter[str] = Counter()

    async def fill(self) -> dict[str, int]:
        """Put everything as it is at the beginning; what else is there stays."""
        counts: dict[str, int] = {}
        for name, documents in self._beginning().items():
            if name in self._declared:
                counts[name] = len(documents)
                await self._database[name].bulk_write([ReplaceOne({"_id": one["_id"]}, one, True) for one in documents])
        return counts

    async def simulate(self) -> None:
        """Until cancelled; a MongoDB that is away for a moment is waited for."""
        await asyncio.gather(
            self._forever(0.02, 0.06, self.trade),
            self._forever(0.1, 0.5, self.order, self.advance),
        )

    async def _forever(self, least: float, most: float, *steps: Callable[[], Awaitable[None]]) -> None:
        """So many seconds apart."""
        while True:
            for step in steps:
                with contextlib.suppress(PyMongoError):
                    await step()
                await asyncio.sleep(self._chance.uniform(least, most))

    def _beginning(self) -> dict[str, list[Document]]:
        products: list[Document] = []
        for category, names in _PRODUCTS.items():
            for name in names:
                price = self._chance.randrange(300, 15_000) / 100
                products.append({"_id": _slug(name), "name": name, "category": category, "price": price})
        stock = [{"_id": one["_id"], "left": self._chance.randrange(5, 60)} for one in products]
        instruments = [
            {"_id": name, "price": price, "open": price, "high": price, "low": price, "volume": 0}
            for name, price in _INSTRUMENTS.items()
        ]
        return {
            "products": products,
            "stock": stock,
            "orders": [self._new_order(products) for _ in range(20)],
            "instruments": instruments,
            "trades": [self._new_trade(name, price) for name, price in _INSTRUMENTS.items()],
        }

    def _new_order(self, products: list[Document]) -> Document:
        self._number += 1
        lines = [
            {"product": one["_id"], "quantity": self._chance.randint(1, 3), "price": one["price"]}
            for one in self._chance.sample(products, min(len(products), self._chance.randint(1, 3)))
        ]
        total = round(sum(line["quantity"] * line["price"] for line in lines), 2)
        customer = self._chance.choice(_CUSTOMERS)
        return {"_id": f"order-{now_ms()}-{self._number}", "customer": customer, "status": _STEPS[0], "lines": lines,
                "total": total, "created": now_ms()}  # fmt: skip

    def _new_trade(self, instrument: str, price: float) -> Document:
        self._number += 1
        return {"_id": f"trade-{now_ms()}-{self._number}", "instrument": instrument, "price": price,
                "quantity": self._chance.randint(1, 100), "side": self._chance.choice(["buy", "sell"]),
                "time": now_ms()}  # fmt: skip

    async def order(self) -> None:
        """One order, and what it takes out of the stock."""
        if "orders" not in self._declared or "products" not in self._declared:
            return
        products = await self._database["products"].find().to_list(None)
        order = self._new_order(products)
        if self._place is not None:
            refused = await asyncio.to_thread(_call, self._place, order)
            if refused is not None:  # what is sold out is delivered anew
                refill = {"$set": {"left": self._chance.randrange(20, 60)}}
                await self._database["stock"].update_one({"_id": refused}, refill)
            await self._forget("orders", "created")
            return
        await self._database["orders"].insert_one(order)
        if "stock" in self._declared:
            for line in order["lines"]:
                left = {"$max": [0, {"$subtract": ["$left", line["quantity"]]}]}
                # What is sold out is delivered anew.
                refilled = {"$cond": [{"$eq": ["$left", 0]}, self._chance.randrange(20, 60), left]}
                await self._database["stock"].update_one({"_id": line["product"]}, [{"$set": {"left": refilled}}])
        await self._forget("orders", "created")

    async def advance(self) -> None:
        """Orders on their way: paid, packed, shipped. A few wait at each step."""
        if "orders" not in self._declared:
            return
        orders = self._database["orders"]
        steps = itertools.pairwise(_STEPS) if self._place is None else [("packed", "shipped")]
        for status, following in steps:
            waiting = await orders.count_documents({"status": status})
            for _ in range(min(2, waiting - self._chance.randint(1, 3))):
                await orders.update_one({"status": status}, {"$set": {"status": following}})

    async def trade(self) -> None:
        """One trade, at a price near the last one."""
        if "instruments" not in self._declared:
            return
        name = self._chance.choice(list(_INSTRUMENTS))
        found = await self._database["instruments"].find_one({"_id": name})
        if found is None:
            return
        # Back towards the opening price, so that a market of days does not end at nothing.
        drift = (found["open"] - found["price"]) / found["open"] * 0.01
        price = float(f"{found['price'] * (1 + self._chance.gauss(drift, 0.0008)):.6g}")
        trade = self._new_trade(name, price)
        await self._database["instruments"].update_one(
            {"_id": name},
            {"$set": {"price": price}, "$max": {"high": price}, "$min": {"low": price},
             "$inc": {"volume": trade["quantity"]}},
        )  # fmt: skip
        if "trades" in self._declared:
            await self._database["trades"].insert_one(trade)
            await self._forget("trades", "time")

    async def _forget(self, name: str, field: str) -> None:
        self._written[name] += 1
        if self._written[name] % 50 == 0:
            old = await self._database[name].find({}, {"_id": 1}).sort(field, -1).skip(_KEPT).to_list(1000)
            await self._database[name].delete_many({"_id": {"$in": [one["_id"] for one in old]}})


def _call(url: str, order: Document) -> str | None:
    """Place an order as a page would: the product that is sold out; None: it is placed, or the server is away."""
    lines = [{"product": line["product"], "quantity": line["quantity"]} for line in order["lines"]]
    body = {"data": {"lines": lines, "customer": order["customer"]}, "key": order["_id"]}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode()), timeout=10):
            return None
    except urllib.error.HTTPError as error:
        details = json.loads(error.read()).get("details")
        error.close()
        return details.get("product") if isinstance(details, dict) else None
    except OSError:
        return None


def _slug(name: str) -> str:
    return name.lower().replace(" ", "-")
