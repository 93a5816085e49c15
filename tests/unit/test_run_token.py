"""`run.py token`: a token for development, from the configuration's own secret."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

import run
from server.access.auth import Authenticator
from server.core.config import Auth, Config
from server.core.errors import StartError
from server.core.principals import Principal
from tests.support.processes import ROOT

AUTH = Auth(secret="a secret of at least thirty-two bytes", issuer="us", audience="them")


def made(capsys: pytest.CaptureFixture[str], *arguments: str) -> Principal:
    """The principal of the token that is printed, which is all that is."""
    flags = run.parse_flags(["token", "--user", "ann", *arguments])
    assert flags.run(flags, Config(auth=AUTH)) == 0
    return Authenticator(AUTH).authenticate(capsys.readouterr().out.removesuffix("\n"))


def test_the_token_says_what_was_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    """User, rights, end and info."""
    ann = made(
        capsys, "--channels", "chat:*=publish,subscribe", "--channels", "docs:x=subscribe,write", "--channels",
        "*=subscribe", "--ttl", "2h", "--info", '{"name": "Ann"}',
    )  # fmt: skip
    assert (ann.user, ann.info) == ("ann", {"name": "Ann"})
    assert ann.channels == {
        "chat:*": ["publish", "subscribe"],
        "docs:x": ["subscribe", "write"],
        "*": ["subscribe"],
    }
    assert ann.expires is not None
    assert abs(ann.expires - time.time() - 7200) < 60


def test_an_hour_is_the_default_and_seconds_are_a_number(capsys: pytest.CaptureFixture[str]) -> None:
    """Without rights and info, and with `--ttl 90`."""
    ann = made(capsys)
    assert (ann.channels, ann.info) == ({}, None)
    assert ann.expires is not None
    assert abs(ann.expires - time.time() - 3600) < 60
    brief = made(capsys, "--ttl", "90")
    assert brief.expires is not None
    assert abs(brief.expires - time.time() - 90) < 60


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--ttl", "soon"], "--ttl"),
        (["--ttl", "0"], "--ttl"),
        (["--channels", "chat=publish"], "--channels"),
        (["--channels", "chat:*"], "--channels"),
        (["--channels", "=publish"], "--channels"),
        (["--channels", "chat:*=fly"], "--channels"),
        (["--info", "{"], "--info"),
        (["--info", '"' + "x" * 9000 + '"'], "token: "),
        (["--user", "a\nb"], "sub: "),
    ],
)
def test_what_makes_no_good_token_is_refused(arguments: list[str], named: str) -> None:
    """Nothing is printed that the server would not take."""
    flags = run.parse_flags(["token", "--user", "ann", *arguments])
    with pytest.raises(StartError) as caught:
        flags.run(flags, Config(auth=AUTH))
    assert named in str(caught.value)


def test_without_a_secret_it_says_so() -> None:
    """One line, exit code 1."""
    done = subprocess.run(
        [sys.executable, "run.py", "token", "--user", "ann"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("waterspout: auth.secret is null")
    assert done.stderr.count("\n") == 1


def test_a_command_loads_what_it_is_made_of() -> None:
    """A mistake in a flag, or a token, is told before the server's own modules are loaded."""
    code = "import run, sys; run.main(['--check-config']); print({'pymongo', 'tornado', 'jwt'} & {*sys.modules})"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True).stdout
    assert told.splitlines() == ["the configuration is good", "set()"]
