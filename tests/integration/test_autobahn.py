"""RFC 6455 by the cases of the Autobahn testsuite, against the socket itself with an echo in the session's place."""

from __future__ import annotations

from typing import Any

import pytest
from kosoku import run_fuzzingclient

import handlers.websocket
from server.node import Node
from server.sessions.session import Session
from server.wire.frames import frame

# 9: the time that messages of up to 16 MiB take, beyond any `message_bytes`. 12, 13: compression, which would undo
# encode-once, and is not offered.
LEFT_OUT = ("9.*", "12.*", "13.*")
# Text in which no UTF-8 can come any more could be refused before its message has ended; we judge it whole.
LATE = {"6.4.1", "6.4.2", "6.4.3", "6.4.4"}


class Echo(Session):
    """Says what it hears."""

    def receive(self, opcode: int, payload: bytes) -> None:
        self.outbox.put(frame(opcode, payload))


@pytest.fixture
def settings() -> dict[str, object]:
    return {"limits.message_bytes": 1 << 20}


@pytest.mark.gen_test(timeout=120)
async def test_the_autobahn_cases(
    base_url: str, http_server: object, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handlers.websocket, "Session", Echo)
    url = base_url.replace("http", "ws") + "/v1/ws"
    results: list[Any] = await run_fuzzingclient(url, exclude_cases=list(LEFT_OUT), concurrency=8)
    failed = [f"{one.case_id}: {one.description} {one.result} {one.result_close}" for one in results if not one.passed]
    assert not failed, "\n".join(failed)
    assert len(results) > 200
    assert {one.case_id for one in results if one.behavior.value == "NON-STRICT"} <= LATE
