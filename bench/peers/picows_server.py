"""picows on uvloop, as its README recommends."""

import os
from collections import defaultdict

import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server

channels: defaultdict[str, set[WSTransport]] = defaultdict(set)


class Client(WSListener):
    def __init__(self) -> None:
        self.subscribed: set[str] = set()

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code())
            transport.disconnect()
            return
        if frame.msg_type != WSMsgType.TEXT:
            return
        verb, channel, *rest = frame.get_payload_as_utf8_text().split(":", 2)
        if verb == "sub":
            self.subscribed.add(channel)
            channels[channel].add(transport)
            transport.send(WSMsgType.TEXT, b"ok")
        elif verb == "pub":
            payload = rest[0].encode()
            for client in channels[channel]:
                client.send(WSMsgType.TEXT, payload)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        for channel in self.subscribed:
            channels[channel].discard(transport)


def accept(request: WSUpgradeRequest) -> WSListener:
    return Client()


async def main() -> None:
    server = await ws_create_server(accept, "127.0.0.1", int(os.environ["PORT"]))
    await server.serve_forever()


uvloop.run(main())
