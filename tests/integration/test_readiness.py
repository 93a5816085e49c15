"""A part of the node that has ended is not overlooked."""

from __future__ import annotations

import asyncio

import pytest
from tornado.httpclient import AsyncHTTPClient

from server.core.principals import Principal
from server.node import Node
from server.wire.codec import JSON
from tests.support.waiting import until

OPERATOR = Principal("operator", server=True, admin=True)


async def readiness(base_url: str) -> tuple[int, list[str]]:
    response = await AsyncHTTPClient().fetch(f"{base_url}/readyz", raise_error=False)
    return response.code, JSON.decode(response.body).get("reasons", [])


@pytest.mark.gen_test
async def test_a_task_that_ended_is_a_reason(node: Node, http_server: object, base_url: str) -> None:
    """`/readyz` is down and names it, without its words, and is ready again when it runs again."""
    fine = asyncio.Event()

    async def work() -> None:
        if not fine.is_set():
            raise ValueError("what somebody has published")
        await asyncio.sleep(3600)

    await until(lambda: node.peers.unheard() is None, 5, "the node to hear itself")
    assert await readiness(base_url) == (200, [])
    node.keeper.keep("a part", work)
    await asyncio.sleep(0)
    status, reasons = await readiness(base_url)
    assert (status, len(reasons)) == (503, 1)
    assert reasons[0].startswith("a part: ")
    assert "published" not in reasons[0]
    assert node.directory.nodes(OPERATOR)["nodes"][0]["reasons"] == reasons
    fine.set()
    await until(lambda: node.keeper.problem() is None, 20, "the part to run again")
    assert await readiness(base_url) == (200, [])
