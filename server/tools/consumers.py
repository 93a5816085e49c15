"""`run.py consumers`: how far consumers are, and their states and cursors, beside the servers that are running.

It writes to MongoDB as they do, and they act on it within two seconds.
"""

from __future__ import annotations

import argparse
from typing import Any

from server.consumers.operators import ConsumerOperators
from server.consumers.service import Consumers
from server.core.clock import Clock
from server.core.config import Config
from server.core.errors import StartError
from server.core.lifecycle import Lifecycle
from server.log.log import Log
from server.mongo.client import connect, connect_apart
from server.mongo.clock import compare
from server.tools.terminal import OPERATOR, carry_out, print_table, running_mongodb


def run(flags: argparse.Namespace, options: Config) -> int:
    if not options.consumers:
        raise StartError("consumers: there are none in the configuration")
    return carry_out("consumers", _run(flags, options))


async def _run(flags: argparse.Namespace, options: Config) -> None:
    uri = running_mongodb(options, "consumers")
    clock, lifecycle = Clock(), Lifecycle()
    database, apart = connect(options.mongodb, uri), connect_apart(options.mongodb, uri)
    log = Log(
        database, apart, options.mongodb, node="run.py", clock=clock,
        on_commit=lambda _: None, on_head=lambda *_: None, on_contention=lambda _: None,
    )  # fmt: skip
    consumers = Consumers(options, database, apart, node="run.py", log=log, clock=clock, announce=lambda _: None)
    try:
        await compare(apart, clock)
        await log.open()
        await consumers.states.load()
        lifecycle.opened = True
        await _act(ConsumerOperators(consumers, log, lifecycle, clock), flags)
    finally:
        await consumers.close()
        await log.close()
        database.client.close()
        await apart.client.close()


async def _act(operators: ConsumerOperators, flags: argparse.Namespace) -> None:
    if flags.action == "list":
        rows = (await operators.every(OPERATOR))["consumers"]
        head = ("consumer", "state", "by", "messages", "seconds", "channels", "failing", "error")
        print_table(head, [_row(one) for one in rows])
    elif flags.action == "reset":
        done = await operators.reset(OPERATOR, flags.consumer, flags.channel, flags.to)
        print(f"{flags.consumer}: goes on from {done['cursor'] or flags.to} in {done['channel'] or 'all channels'}")
    else:
        await operators.pause(OPERATOR, flags.consumer, flags.action == "pause")
        print(f"{flags.consumer}: {flags.action}d")


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    lag = one["lag"]
    figures = (lag["messages"], round(lag["seconds"]), lag["channels"], one["failing"])
    return one["name"], one["state"], one["target"], *map(str, figures), one["why"] or one["error"] or ""
