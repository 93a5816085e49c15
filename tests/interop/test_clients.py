"""Centrifugo's own clients, unmodified, in a short form; `make interop` is the long one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.interop import suites
from tests.interop.fetched import Missing
from tests.interop.programs import PROGRAMS
from tests.interop.storm import storm
from tests.support.processes import Mongod

COUNT = 200


@pytest.mark.parametrize("name", ["centrifuge (npm)", "centrifuge-python"])
def test_every_message_arrives_once_through_a_storm(name: str, tmp_path: Path, mongod: Mongod) -> None:
    """In both encodings: all steps, and then the messages in order, through a `kill -9` of the server and a loss of
    Redis."""
    try:
        programs = [(program, program.command()) for program in PROGRAMS if program.name == name]
    except Missing as missing:
        pytest.skip(str(missing))
    outcome = asyncio.run(storm(programs, tmp_path, mongod.uri, COUNT))
    assert {str(program): dict(why) for program, why in outcome.items()} == {str(one): {} for one, _ in programs}


def test_the_npm_client_behaves_over_every_transport(tmp_path: Path, mongod: Mongod) -> None:
    """What tests/interop/js/behaviours.test.mjs lists."""

    async def run() -> suites.Result:
        async with suites.server(tmp_path, mongod.uri, port=None) as server:
            return await suites.behaviours(server.base)

    try:
        result = asyncio.run(run())
    except Missing as missing:
        pytest.skip(str(missing))
    assert result.failed == {}
    assert result.passed >= 48
