"""Whatever gets as far as the log, one message cannot stop a shard."""

from __future__ import annotations

import asyncio

import pytest

from server.core.errors import Error
from server.node import Node


@pytest.mark.gen_test(timeout=30)
async def test_data_that_cannot_be_stored_fails_alone_and_the_shard_goes_on(node: Node) -> None:
    """A message that becomes no document is `internal` for its sender; its channel and its shard serve the next."""
    poison = node.log.append("chat:a", None, "k1", {b"not text": 1}, 20)
    with pytest.raises(Error, match="internal"):
        await asyncio.wait_for(poison, 5)
    receipts = [node.log.append(f"chat:{name}", None, "k2", 1, 1) for name in "abcdefgh"]
    for receipt in receipts:
        assert (await asyncio.wait_for(receipt, 5)).position.offset == 1
