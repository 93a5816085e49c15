"""`run.py users`: accounts, looked after from the command line, beside the servers that are running.

It writes to MongoDB as they do; what is taken (an account that is disabled, a role) they act on within a second.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from server.access.accounts.administration import Administration
from server.access.accounts.service import Accounts
from server.access.accounts.store import Account
from server.access.auth import Authenticator
from server.access.revocations import Revocations
from server.core.clock import Clock
from server.core.config import Config
from server.core.errors import StartError
from server.core.tasks import Keeper
from server.mongo.client import connect, connect_apart
from server.tools.terminal import OPERATOR, carry_out, print_table, running_mongodb
from server.wire.accounts import Invitation

PAGE: Final = 500

Command = Callable[[Administration, argparse.Namespace], Awaitable[None]]


def run(flags: argparse.Namespace, options: Config) -> int:
    if not options.auth.accounts:
        raise StartError("users: auth.accounts is off; beside `make run`, say --development as it does")
    return carry_out("users", _run(flags, options))


async def _run(flags: argparse.Namespace, options: Config) -> None:
    uri = running_mongodb(options, "users")
    clock, keeper = Clock(), Keeper()
    database, apart = connect(options.mongodb, uri), connect_apart(options.mongodb, uri)
    revocations = Revocations(
        apart, options.auth.max_token_ttl, on_revocation=lambda _: None, on_confirmed=lambda _: None, clock=clock
    )
    accounts = Accounts(
        options.auth,
        options.server.public_url,
        options.origins,
        database,
        Authenticator(options.auth, clock),
        revocations,
        take_back=revocations.add,
        keeper=keeper,
        clock=clock,
    )
    try:
        await accounts.store.open()
        await _COMMANDS[flags.action](accounts.administration, flags)
    finally:
        await keeper.close()
        await accounts.close()
        await revocations.close()
        database.client.close()
        await apart.client.close()


async def _list(administration: Administration, flags: argparse.Namespace) -> None:
    rows: list[Account] = []
    after: str | None = ""
    while after is not None:
        found, after = await administration.page(
            OPERATOR,
            prefix=flags.prefix,
            after=after,
            limit=PAGE,
            role=flags.role,
            disabled=True if flags.disabled else None,
        )
        rows += found
    print_table(
        ("user", "e-mail", "roles", "made", "signed in", ""),
        [
            (
                one.user,
                (one.email or "") + ("" if one.verified or not one.email else " (not verified)"),
                ", ".join(one.roles),
                _day(one.created),
                _day(one.signed_in),
                "disabled" if one.disabled else "example" if one.example else "",
            )
            for one in rows
        ],
    )


async def _create(administration: Administration, flags: argparse.Namespace) -> None:
    password = sys.stdin.readline().rstrip("\r\n") if flags.password_stdin else None
    account, invitation = await administration.create(
        OPERATOR,
        flags.user,
        password=password,
        email=flags.email,
        verified=flags.email is not None,
        roles=flags.roles,
    )
    print(f"{account.user}: made")
    if invitation is not None:
        _hand_over(account.user, invitation)


async def _reset(administration: Administration, flags: argparse.Namespace) -> None:
    _hand_over(flags.user, await administration.reset(OPERATOR, flags.user))


def _hand_over(user: str, invitation: Invitation) -> None:
    print(f"for {user} alone, once, until {_day(invitation['expires'])}: {invitation['link']}")


async def _disable(administration: Administration, flags: argparse.Namespace) -> None:
    account = await administration.change(OPERATOR, flags.user, disabled=flags.action == "disable")
    print(f"{account.user}: {flags.action}d")


async def _roles(administration: Administration, flags: argparse.Namespace) -> None:
    account = await administration.change(OPERATOR, flags.user, roles=flags.roles)
    print(f"{account.user}: {', '.join(account.roles) or 'no roles'}")


async def _delete(administration: Administration, flags: argparse.Namespace) -> None:
    await administration.delete(OPERATOR, flags.user)
    print(f"{flags.user}: deleted")


async def _sessions(administration: Administration, flags: argparse.Namespace) -> None:
    sessions = await administration.sessions(OPERATOR, flags.user)
    print_table(
        ("session", "by", "address", "begun", "used", "browser"),
        [
            (one["session"], one["way"], one["address"], _day(one["created"]), _day(one["used"]), one["agent"][:60])
            for one in sessions
        ],
    )


async def _passkeys(administration: Administration, flags: argparse.Namespace) -> None:
    print_table(
        ("name", "made", "used", "passkey"),
        [
            (one.name, _day(one.created), _day(one.used), one.id)
            for one in await administration.passkeys(OPERATOR, flags.user)
        ],
    )


async def _remove_passkey(administration: Administration, flags: argparse.Namespace) -> None:
    await administration.remove_passkey(OPERATOR, flags.user, flags.passkey)
    print(f"{flags.user}: the passkey is removed, and what it had signed in has ended")


async def _sign_out(administration: Administration, flags: argparse.Namespace) -> None:
    await administration.end_sessions(OPERATOR, flags.user)
    print(f"{flags.user}: signed out everywhere")


_COMMANDS: Final[Mapping[str, Command]] = {
    "list": _list,
    "create": _create,
    "disable": _disable,
    "enable": _disable,
    "reset": _reset,
    "roles": _roles,
    "delete": _delete,
    "sessions": _sessions,
    "sign-out": _sign_out,
    "passkeys": _passkeys,
    "remove-passkey": _remove_passkey,
}


def _day(ms: int | None) -> str:
    return "" if ms is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(ms / 1000))
