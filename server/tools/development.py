"""`run.py --development`: what there is to try, on one's own machine. Accounts with example users to sign in as by one
click, and rooms with members in which they have talked already.

The users have no passwords, so they are of no use but in development (`auth.development`, which the server refuses on a
public address). What is there is left as it is: a room that has messages is not touched.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from server.access.accounts.store import Account, AccountStore
from server.core.clock import now_ms
from server.core.errors import Error
from server.core.principals import Principal
from server.mongo.databases import Database
from server.node import Node
from server.rooms.members import Seat

logger = logging.getLogger(__name__)

SETTINGS: Final[dict[str, Any]] = {
    "auth.accounts": True,
    "auth.development": True,
    "auth.operators": "claim:roles=operator",
    "namespaces.team": {
        "members": True,
        "join": "anyone",
        "subscribe": "user",
        "publish": "member",
        "amend": ["own", "member:moderator"],
        "reactions": True,
        "receipts": True,
        "search": True,
        "threads": True,
        "presence": True,
        "ephemeral": True,
    },
    "namespaces.dm": {
        "direct": True,
        "amend": "own",
        "reactions": True,
        "receipts": True,
        "search": True,
        "presence": True,
        "ephemeral": True,
    },
}
"""Above what the file says, below what flags say."""
USERS: Final[dict[str, list[str]]] = {"ann": [], "bob": [], "carol": [], "sam": ["agent"], "olga": ["operator"]}
_BACK_END: Final = Principal(user="development", server=True, admin=True)
_ROOMS: Final[dict[str, tuple[dict[str, str], list[tuple[str, str]]]]] = {
    "team:welcome": (
        {"olga": "owner", "ann": "member", "bob": "member", "carol": "member", "sam": "member"},
        [
            ("olga", "Welcome! This room has members, so it counts what each of you has not read, on every device."),
            (
                "olga",
                "Everybody may join it. Try it as two people: sign in as ann here, and as bob in a private window.",
            ),
        ],
    ),
    "team:garden": (
        {"ann": "owner", "bob": "moderator", "carol": "member"},
        [
            ("bob", "The beans are up. All of them, overnight."),
            ("carol", "Then the slugs will be as well. I have copper tape left, shall I bring it?"),
            ("bob", "Please do. And somebody has to water on Saturday, I am away."),
            ("carol", "I can, if the key is in the usual place."),
        ],
    ),
}
"""Channel → who its members are, and what they have said."""


async def add_users(database: Database) -> None:
    """A name that is taken is left alone."""
    accounts = AccountStore(database)
    for user, roles in USERS.items():
        await accounts.insert_if_absent(
            Account(id=user, user=user, roles=roles, created=now_ms(), example=True, info='{"example":true}')
        )


async def fill(node: Node) -> None:
    """What cannot be written now is not: it is an example."""
    try:
        await add_users(node.database)
        for channel, (members, talk) in _ROOMS.items():
            if not (await node.log.head(channel)).position.offset:
                await _fill_room(node, channel, members, talk)
    except Error as error:
        logger.warning("the examples are not all there: %s", error.reason)


async def _fill_room(node: Node, channel: str, members: dict[str, str], talk: list[tuple[str, str]]) -> None:
    await node.rooms.members.set_roles(_BACK_END, channel, [Seat(user, role) for user, role in members.items()])
    for number, (user, text) in enumerate(talk):
        data = {"name": user, "text": text}
        publishing = node.publisher.publish(Principal(user=user), channel, data, f"example-{number}")
        if publishing is not None:
            await publishing
