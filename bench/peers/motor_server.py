"""Acknowledged publishes the obvious way: Tornado, and Motor's `insert_one` awaited for each message. The MongoDB, the
durability and the words are Waterspout's."""

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import tornado.web
import tornado.websocket
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import WriteConcern

from server.mongo.embedded import EmbeddedMongoDB


class Publisher(tornado.websocket.WebSocketHandler):
    def initialize(self, messages: Any) -> None:
        self.messages = messages

    async def on_message(self, message: str | bytes) -> None:
        publish = json.loads(message)
        await self.messages.insert_one({"channel": publish["channel"], "data": publish["data"]})
        await self.write_message({"type": "reply", "id": publish["id"]})


async def main() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    mongodb = EmbeddedMongoDB(Path(os.environ["DATA"]))
    try:
        database = AsyncIOMotorClient(await mongodb.start()).bench
        messages = database.get_collection("messages", write_concern=WriteConcern("majority", j=True))
        application = tornado.web.Application([("/v1/ws", Publisher, {"messages": messages})])
        application.listen(int(os.environ["PORT"]), "127.0.0.1")
        await stop.wait()
    finally:
        await mongodb.stop()


asyncio.run(main())
