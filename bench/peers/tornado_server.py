"""Plain Tornado, the way its own chat demo does it: a loop of `write_message`."""

import asyncio
import os
from collections import defaultdict

import tornado.web
import tornado.websocket

channels: defaultdict[str, set["Client"]] = defaultdict(set)


class Client(tornado.websocket.WebSocketHandler):
    def open(self) -> None:
        self.subscribed: set[str] = set()

    def on_message(self, message: str | bytes) -> None:
        verb, channel, *rest = str(message).split(":", 2)
        if verb == "sub":
            self.subscribed.add(channel)
            channels[channel].add(self)
            self.write_message("ok")
        elif verb == "pub":
            for client in channels[channel]:
                client.write_message(rest[0])

    def on_close(self) -> None:
        for channel in self.subscribed:
            channels[channel].discard(self)


async def main() -> None:
    application = tornado.web.Application([("/ws", Client)], log_function=lambda handler: None)
    application.listen(int(os.environ["PORT"]), "127.0.0.1")
    await asyncio.Event().wait()


asyncio.run(main())
