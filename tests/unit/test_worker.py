"""Work that goes aside leaves the loop its turns."""

from __future__ import annotations

import asyncio
import sys
import threading

from server.core.worker import SMALL, Worker


def test_only_what_is_large_goes_to_the_thread() -> None:
    """In one thread, one after the other; what is small is done at once."""

    async def run() -> None:
        worker = Worker("test")
        here = threading.get_ident()
        assert await worker.run(SMALL, threading.get_ident) == here
        aside = await asyncio.gather(*(worker.run(SMALL + 1, threading.get_ident) for _ in range(3)))
        assert len(set(aside)) == 1
        assert aside[0] != here

    asyncio.run(run())


def test_the_loop_is_let_in_more_often_while_something_is_aside() -> None:
    """And as usual afterwards, however the work has ended."""

    async def run() -> None:
        worker = Worker("test")
        usual = sys.getswitchinterval()
        assert await worker.run(SMALL + 1, sys.getswitchinterval) < usual

        def fail() -> None:
            raise ValueError

        (result,) = await asyncio.gather(worker.run(SMALL + 1, fail), return_exceptions=True)
        assert isinstance(result, ValueError)
        assert sys.getswitchinterval() == usual

    asyncio.run(run())
