"""`websockets`, with the `broadcast()` of its documentation. Without compression, which no server here uses."""

import asyncio
import os
from collections import defaultdict

from websockets.asyncio.server import ServerConnection, broadcast, serve

channels: defaultdict[str, set[ServerConnection]] = defaultdict(set)


async def client(connection: ServerConnection) -> None:
    subscribed: set[str] = set()
    try:
        async for message in connection:
            verb, channel, *rest = str(message).split(":", 2)
            if verb == "sub":
                subscribed.add(channel)
                channels[channel].add(connection)
                await connection.send("ok")
            elif verb == "pub":
                broadcast(channels[channel], rest[0])
    finally:
        for channel in subscribed:
            channels[channel].discard(connection)


async def main() -> None:
    async with serve(client, "127.0.0.1", int(os.environ["PORT"]), compression=None) as server:
        await server.serve_forever()


asyncio.run(main())
