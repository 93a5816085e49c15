"""Plain Tornado: a handler that decodes JSON and answers with JSON, and one that opens a WebSocket."""

import asyncio
import json
import os

import tornado.web
import tornado.websocket


class Echo(tornado.web.RequestHandler):
    def post(self) -> None:
        self.set_status(201)
        self.write(json.loads(self.request.body))


class Socket(tornado.websocket.WebSocketHandler):
    def on_message(self, message: str | bytes) -> None:
        pass


async def main() -> None:
    routes = [("/echo", Echo), ("/v1/ws", Socket)]
    tornado.web.Application(routes, log_function=lambda handler: None).listen(int(os.environ["PORT"]), "127.0.0.1")
    await asyncio.Event().wait()


asyncio.run(main())
