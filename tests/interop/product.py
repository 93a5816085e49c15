"""The examples of docs/outbox.md in other languages, as they are, against a real server and a real MongoDB."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from tests.interop import fetched
from tests.interop.suites import Result
from tests.support.process import ROOT
from tests.support.processes import Mongod, Server
from tests.support.reader import blocks
from tests.support.waiting import until

DATABASE = "product"
SETTINGS: dict[str, Any] = {
    "mongodb.database": DATABASE,
    "mongodb.outbox": True,
    "namespaces.orders": {"subscribe": "anyone"},
}
EXAMPLES = {"js product": ("orders:18", {"item": "pot"}), "js mongosh": ("orders:19", {"item": "jug"})}
"""Kind of block → what is to be published by it."""


async def product(directory: Path) -> list[Result]:
    """A result for each example."""
    home = await asyncio.to_thread(fetched.mongodb)
    results = []
    async with Mongod(directory / "mongod") as mongod, Server(directory, mongod.uri, settings=SETTINGS) as server:
        for kind, (channel, data) in EXAMPLES.items():
            result = Result(f"docs/outbox.md, {kind}")
            results.append(result)
            try:
                await asyncio.to_thread(_run, kind, home, mongod.uri)

                async def published(channel: str = channel, data: Any = data) -> bool:
                    answer = await server.get(f"/v1/channels/{channel}/messages")
                    return [one["data"] for one in answer.body["messages"]] == [data]

                await until(published, 10, f"the message of {channel}")
                result.passed += 1
            except (fetched.Missing, TimeoutError) as error:
                result.failed[channel] = str(error)
    return results


def _run(kind: str, home: Path, uri: str) -> None:
    (block,) = blocks(ROOT / "docs" / "outbox.md", kind)
    text = block.text.replace('"waterspout"', f'"{DATABASE}"')
    program = home / f"{kind.replace(' ', '-')}.mjs"
    if kind == "js mongosh":
        program = program.with_suffix(".js")
    program.write_text(text.replace("mongodb://127.0.0.1:27017/?replicaSet=rs", uri))
    mongosh = [str(home / "node_modules" / ".bin" / "mongosh"), "--quiet", uri, "--file", str(program)]
    fetched.run(mongosh if kind == "js mongosh" else ["node", str(program)], home, within=60)
