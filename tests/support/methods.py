"""Methods of a back end, which servers of the tests call: `calls: {echo: {function: tests.support.methods:echo}}`."""

from __future__ import annotations

import asyncio
from typing import Any

from server.backend import Refused

METHODS = {
    name: {"function": f"tests.support.methods:{name}", "allow": "anyone"} for name in ("echo", "refuse", "sleep")
}
"""As the configuration has them."""


def echo(question: dict[str, Any]) -> dict[str, Any]:
    return {"data": question["data"]}


def refuse(question: dict[str, Any]) -> None:
    raise Refused("sold out", {"left": 0}, 409)


async def sleep(question: dict[str, Any]) -> dict[str, Any]:
    """`data`: seconds."""
    await asyncio.sleep(question["data"])
    return {"data": "awake"}
