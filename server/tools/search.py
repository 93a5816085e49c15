"""`run.py search index`: messages that were stored before they were searched get their words.

The servers that are running do it; this asks them, and tells how far it is. It may be stopped: they go on.
"""

from __future__ import annotations

from server.core.config import Config
from server.core.errors import StartError
from server.mongo.client import connect
from server.search.indexing import Progress, begin, progress
from server.tools.terminal import Waiting, carry_out, running_mongodb


def run(namespace: str | None, options: Config) -> int:
    return carry_out("search", _run(namespace, options))


async def _run(namespace: str | None, options: Config) -> None:
    wanted = [name for name, one in options.namespaces.items() if one.search and namespace in (None, name)]
    if not wanted:
        raise StartError(f"search: {'no namespace' if namespace is None else namespace} has search: true")
    database = connect(options.mongodb, running_mongodb(options, "search"))
    try:
        for name in wanted:
            await begin(database, name)
        waiting, told = Waiting("search"), dict[str, str]()
        while wanted:
            jobs = [job for job in await progress(database) if job.namespace in wanted]
            for job in jobs:
                if (job.done or job.looked) and (text := _told(job)) != told.get(job.namespace):
                    print(text, flush=True)
                    told[job.namespace] = text
            wanted = [job.namespace for job in jobs if not job.done]
            if wanted:
                await waiting.look_again(any(job.until for job in jobs))
    finally:
        database.client.close()


def _told(job: Progress) -> str:
    where = "done" if job.done else f"at {job.channel}"
    return f"{job.namespace}: {where}: {job.indexed} of {job.looked} entries had no words"
