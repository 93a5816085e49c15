"""`run.py erase`: a person is forgotten. The servers that are running do it; this asks them, and tells how far it is.

It may be stopped: they go on, and whoever asks again hears of it.
"""

from __future__ import annotations

from server.core.clock import Clock
from server.core.config import Config
from server.erasure.erasure import check
from server.erasure.jobs import Jobs
from server.mongo.client import connect
from server.tools.terminal import Waiting, carry_out, running_mongodb


def run(user: str, options: Config) -> int:
    return carry_out("erase", _run(user, options))


async def _run(user: str, options: Config) -> None:
    check(user, options.auth.api_keys)
    database = connect(options.mongodb, running_mongodb(options, "erase"))
    jobs = Jobs(database, "run.py", Clock())
    try:
        await jobs.begin(user, "run.py")
        waiting, told = Waiting("erase"), ""
        while (job := await jobs.get(user)) is not None:
            counts = ", ".join(f"{number} {name}" for name, number in job.erased.items() if number) or "nothing"
            text = f"{user}: {'erased' if job.done else 'erasing'}: {counts}"
            if text != told and (job.done or job.stage):
                print(text, flush=True)
                told = text
            if job.done:
                return
            await waiting.look_again(bool(job.stage) or job.held)
    finally:
        database.client.close()
