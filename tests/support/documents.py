"""What a careful client makes of the changes of documents: a copy of the collection."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.support.client import Client, Push, Subscription


class Copy:
    """A snapshot and the changes behind it; `take` gets every push of the subscription."""

    def __init__(self) -> None:
        self.documents: dict[str, Any] = {}
        self.whole = asyncio.Event()
        self.pushes: list[Push] = []
        self.snapshots = 0
        self.offset = 0
        self.errors: list[str] = []
        """What no server may send: an offset twice or out of order."""

    def take(self, push: Push) -> None:
        self.pushes.append(push)
        if push["type"] == "snapshot":
            if push.get("start"):
                self.documents.clear()
                self.whole.clear()
                self.snapshots += 1
                self.offset = 0
            self.documents.update({one["_id"]: one for one in push["documents"]})
            if not push["more"]:
                self.whole.set()
        elif push["type"] == "message":
            if push["offset"] <= self.offset:
                self.errors.append(f"offset {push['offset']} after {self.offset}")
            self.offset = push["offset"]
            data = push["data"]
            if data["op"] == "put":
                self.documents[data["id"]] = data["document"]
            else:
                self.documents.pop(data["id"], None)
        elif push["type"] == "gap":
            self.offset = 0

    @property
    def changes(self) -> list[tuple[str, str]]:
        return [(push["data"]["op"], push["data"]["id"]) for push in self.pushes if push["type"] == "message"]


async def watch(client: Client, channel: str, **options: Any) -> tuple[Copy, Subscription]:
    """Subscribe with a snapshot, and wait until it is whole."""
    copy = Copy()
    subscription = await client.subscribe(channel, on_push=copy.take, snapshot=True, **options)
    async with asyncio.timeout(20):
        await copy.whole.wait()
    return copy, subscription
