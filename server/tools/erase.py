"""`run.py erase`: a person is forgotten. The servers that are running do it; this asks them, and tells how far it is.

It may be stopped: they go on, and whoever asks again hears of it.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from server.core.clock import Clock
from server.core.config import Config
from server.core.errors import Error, StartError
from server.erasure.erasure import check
from server.erasure.jobs import Jobs
from server.mongo.client import connect
from server.mongo.embedded import EmbeddedMongoDB

LOOK_EVERY: Final = 0.5
NOBODY_SECONDS: Final = 30.0
"""After which it is clear that no server takes it up."""


def run(user: str, options: Config) -> int:
    try:
        check(user, options.auth.api_keys)
        asyncio.run(_run(user, options))
    except Error as error:
        raise StartError(f"erase: {error.reason}") from None
    return 0


async def _run(user: str, options: Config) -> None:
    uri = options.mongodb.uri
    if uri == "embedded":
        running = EmbeddedMongoDB(Path(options.server.data_dir)).running()
        if running is None:
            raise StartError("erase: no server runs here; start one first (`make run`)")
        uri = running
    database = connect(options.mongodb, uri)
    jobs = Jobs(database, "run.py", Clock())
    try:
        await jobs.begin(user, "run.py")
        waited, told = 0.0, ""
        while (job := await jobs.get(user)) is not None:
            counts = ", ".join(f"{number} {name}" for name, number in job.erased.items() if number) or "nothing"
            text = f"{user}: {'erased' if job.done else 'erasing'}: {counts}"
            if text != told and (job.done or job.stage):
                print(text, flush=True)
                told = text
            if job.done:
                return
            waited = waited + LOOK_EVERY if not (job.stage or job.held) else 0.0
            if waited > NOBODY_SECONDS:
                raise StartError("erase: no server has taken it up yet; it is done as soon as one runs")
            await asyncio.sleep(LOOK_EVERY)
    finally:
        database.client.close()
