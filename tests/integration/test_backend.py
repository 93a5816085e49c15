"""Asking a back end of the user's own: what is sent and signed, and what each answer and each failure becomes."""

from __future__ import annotations

import asyncio
import sys
import time
import types
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from server.backend import backend as asking
from server.backend.answers import Busy, Failed, Refused, Reply
from server.backend.backend import BackEnd
from server.backend.http_client import HTTPClient
from server.backend.turns import Turns
from server.core import config
from server.core.clock import Clock
from server.core.config.targets import Target
from server.core.errors import StartError
from tests.support import back_end
from tests.support.back_end import RAW_SECRET, SECRET, Answer


@pytest.fixture
def theirs(io_loop: object) -> Iterator[back_end.BackEnd]:
    one = back_end.BackEnd()
    yield one
    one.stop()


@asynccontextmanager
async def made(**target: Any) -> AsyncIterator[BackEnd]:
    options = Target(**target)
    one = BackEnd("test.x", options, concurrency=8, clock=Clock())
    try:
        yield one
    finally:
        await one.close()


@pytest.mark.gen_test
async def test_what_is_sent_and_signed(theirs: back_end.BackEnd) -> None:
    """With either kind of secret; a question that is asked again has the same `webhook-id` and a new signature."""
    async with made(url=theirs.url, secret=SECRET) as one:
        await one.ask({"n": "ü"}, timeout=5, message_id="msg_1")
        await one.ask(b'{"n":"\xc3\xbc"}', timeout=5, message_id="msg_1")
        await one.ask({"n": "ü"}, timeout=5)
    async with made(url=theirs.url, secret=RAW_SECRET) as one:
        await one.ask({"n": "ü"}, timeout=5)
    assert [asked.question for asked in theirs.asked] == [{"n": "ü"}] * 4
    ids = [asked.headers.get("webhook-id") for asked in theirs.asked]
    assert ids[:2] == ["msg_1"] * 2
    assert ids[2] not in (None, "msg_1")
    assert ids[3] is None


@pytest.mark.gen_test
async def test_every_status_is_a_reply(theirs: back_end.BackEnd) -> None:
    """2xx, a redirect that nobody follows, 4xx, 410 and 503 come as they are; and when it wants to be asked again."""
    elsewhere = {"Location": theirs.url}
    later = formatdate(time.time() + 100, usegmt=True)
    answers = {
        204: Answer(204), 302: Answer(302, headers=elsewhere), 307: Answer(307, headers=elsewhere), 410: Answer(410),
        429: Answer(429, headers={"Retry-After": "7"}), 503: Answer(503, headers={"Retry-After": later}),
        500: Answer(500, headers={"Retry-After": "soon"}),
    }  # fmt: skip
    async with made(url=theirs.url, secret=SECRET) as one:
        replies: dict[int, Reply] = {}
        for status, answer in answers.items():
            theirs.rule = lambda asked, answer=answer: answer
            replies[status] = await one.ask({}, timeout=5)
    assert [reply.status for reply in replies.values()] == list(answers)
    assert [status for status, reply in replies.items() if reply.ok] == [204]
    assert replies[429].retry_after == 7
    assert 90 < (replies[503].retry_after or 0) <= 100
    assert replies[500].retry_after is None
    assert len(theirs.asked) == len(answers)


@pytest.mark.gen_test
async def test_a_problem_is_told_by_its_media_type(theirs: back_end.BackEnd) -> None:
    """Only what says of itself that it is problem+json, is an object, and comes with 400 to 499."""
    body = {"reason": "sold out"}
    media = {"Content-Type": "Application/Problem+JSON; charset=utf-8"}
    cases: list[tuple[Answer, object]] = [
        (Answer(409, body, media), body), (Answer(500, body, media), None), (Answer(409, body), None),
        (Answer(409, b"{", media), None), (Answer(409, [1], media), None), (Answer(200, body, media), None),
    ]  # fmt: skip
    async with made(url=theirs.url, secret=SECRET) as one:
        for answer, problem in cases:
            theirs.rule = lambda asked, answer=answer: answer
            assert (await one.ask({}, timeout=5)).problem() == problem


@pytest.mark.gen_test
async def test_an_answer_is_bounded(theirs: back_end.BackEnd) -> None:
    """Too much is a failure; where no answer is wanted it is not even read, and the connection goes on being used."""
    theirs.rule = lambda asked: Answer(200, b"x" * (3 << 20))
    async with made(url=theirs.url, secret=SECRET) as one:
        with pytest.raises(Failed, match="answered more than 1048576 bytes"):
            await one.ask({}, timeout=5)
        assert (await one.ask({}, timeout=5, most=None)).status == 200
        assert (await one.ask({}, timeout=5, most=None)).body == b""
        with pytest.raises(Failed, match="answered more than 10 bytes"):
            await one.ask({}, timeout=5, most=10)
        theirs.rule = lambda asked: Answer(200, b'{"a":1}')
        assert (await one.ask({}, timeout=5)).value() == {"a": 1}
        theirs.rule = lambda asked: Answer(200, b"{'a'")
        with pytest.raises(Failed, match="its answer is not JSON"):
            (await one.ask({}, timeout=5)).value()


@pytest.mark.gen_test
async def test_failures(theirs: back_end.BackEnd, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody there, no TLS, and no answer in time: the back end's. A loop that stood still: nobody's."""
    gone = back_end.BackEnd()
    gone.stop()
    async with made(url=gone.url, secret=SECRET) as one:
        with pytest.raises(Failed, match=r"^failed: ECONNREFUSED$"):
            await one.ask({}, timeout=5)

    async def plain(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with (
        await asyncio.start_server(plain, "127.0.0.1", 0) as server,
        made(url=f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/", secret=SECRET) as one,
    ):
        with pytest.raises(Failed, match=r"^failed: \w*SSL\w*$"):
            await one.ask({}, timeout=5)

    silent = asyncio.Event()

    async def late(asked: back_end.Asked) -> None:
        await silent.wait()

    theirs.rule = late
    async with made(url=theirs.url, secret=SECRET) as one:
        with pytest.raises(Failed, match="does not answer in time"):
            await one.ask({}, timeout=0.1)
        monkeypatch.setattr(asking, "LATE", -1.0)
        with pytest.raises(Busy):
            await one.ask({}, timeout=0.1)
        silent.set()
        theirs.rule = lambda asked: {}
        assert (await one.ask({}, timeout=5)).status == 200


@pytest.mark.gen_test
async def test_what_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its proxies are used where that is wanted, but for those of NO_PROXY; passwords of ~/.netrc never, by nobody."""
    heads: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\nSet-Cookie: a=b\r\n\r\n{}")
        writer.close()

    (tmp_path / "netrc").write_text("default login ann password hunter2\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("HTTP_PROXY", "NO_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        here = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for proxies, proxy, direct, url, begins in (
            (True, f"http://bob:secret@{here}", "", "http://keys.test/a", "GET http://keys.test/a "),
            (True, here, "", "http://keys.test/a", "GET http://keys.test/a "),
            (True, "http://127.0.0.1:1", "127.0.0.1", f"http://{here}/a", "GET /a "),
            (False, "http://127.0.0.1:1", "", f"http://{here}/a", "GET /a "),
        ):
            monkeypatch.setenv("http_proxy", proxy)
            monkeypatch.setenv("no_proxy", direct)
            client = HTTPClient(proxies=proxies)
            for _ in range(2):
                assert (await client.ask("GET", url, {}, most=10)).body == b"{}"
                head = heads.pop()
                assert head.startswith(begins)
                assert "\nauthorization:" not in head.lower()
                assert "\ncookie:" not in head.lower()
                assert ("\nproxy-authorization:" in head.lower()) == ("bob" in proxy)
            await client.close()


@pytest.mark.gen_test
async def test_a_cancelled_question_lets_go(theirs: back_end.BackEnd) -> None:
    """The back end sees its connection closed."""
    asked, over = asyncio.Event(), asyncio.Event()

    async def rule(_: back_end.Asked) -> None:
        asked.set()
        await over.wait()

    theirs.rule = rule
    async with made(url=theirs.url, secret=SECRET) as one:
        asking = asyncio.ensure_future(one.ask({}, timeout=5))
        await asked.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        over.set()
        theirs.rule = lambda _: {}
        assert (await one.ask({}, timeout=5)).status == 200


async def _cancels(question: Any) -> None:
    raise asyncio.CancelledError


class _Callable:
    async def __call__(self, question: Any) -> Any:
        return {"asked": question}


def _raising(error: BaseException) -> Callable[[Any], None]:
    def function(question: Any) -> None:
        raise error

    return function


def _refuses(question: Any) -> None:
    raise Refused("sold out", {"left": 0}, 409)


async def _exits(question: Any) -> None:
    raise SystemExit(1)


FUNCTIONS = {
    "exits": _raising(SystemExit(1)), "exits_async": _exits, "stops": _raising(StopIteration()), "cancels": _cancels,
    "interrupts": _raising(KeyboardInterrupt()), "odd": lambda question: object(), "echo": _Callable(),
    "refuses": _refuses, "nothing": lambda question: None, "crashes": _raising(ValueError("the payload is 4711")),
}  # fmt: skip


@pytest.fixture
def functions() -> Iterator[str]:
    module = types.ModuleType("functions_of_this_test")
    for name, function in FUNCTIONS.items():
        setattr(module, name, function)
    sys.modules[module.__name__] = module
    yield module.__name__
    del sys.modules[module.__name__]


@pytest.mark.gen_test
async def test_functions(functions: str) -> None:
    """What it returns and refuses is as a URL's answer; whatever else it raises ends neither thread nor server, and
    nothing of its words is told."""
    for name in ("exits", "exits_async", "stops", "cancels", "interrupts", "odd", "crashes"):
        async with made(function=f"{functions}:{name}") as one:
            with pytest.raises(Failed) as failed:
                await one.ask({"n": 1}, timeout=5)
            assert "4711" not in str(failed.value)
    async with made(function=f"{functions}:echo") as one:
        assert (await one.ask({"n": 1}, timeout=5)).value() == {"asked": {"n": 1}}
    async with made(function=f"{functions}:nothing") as one:
        assert (await one.ask({"n": 1}, timeout=5)).value() is None
    async with made(function=f"{functions}:refuses") as one:
        reply = await one.ask({"n": 1}, timeout=5)
        assert (reply.status, reply.problem()) == (409, {"reason": "sold out", "details": {"left": 0}})


@pytest.mark.gen_test
async def test_turns() -> None:
    """So many at a time; too many before, or too long: `Busy`, and nothing is left taken."""
    turns = Turns(1)
    async with turns.take(1, 5):
        waiting = asyncio.ensure_future(turns.take(1, 5).__aenter__())
        await asyncio.sleep(0)
        with pytest.raises(Busy):
            await turns.take(1, 5).__aenter__()
        waiting.cancel()
        await asyncio.wait([waiting])
        with pytest.raises(Busy):
            await turns.take(1, 0.01).__aenter__()
    async with turns.take(1, 5):
        pass
    assert turns.waiting == 0


@pytest.mark.parametrize("secret", ["whsec_", "whsec_c2hvcnQ=", "whsec_no base64 at all", "whsec_" + "A" * 200])
def test_a_bad_secret_of_the_specification(secret: str) -> None:
    """It is the Base64 of 24 to 64 bytes."""
    with pytest.raises(StartError, match=r"hooks\.x\.secret: expected whsec_"):
        config.load(None, {}, [("hooks.x", {"url": "http://h/", "secret": secret})])
