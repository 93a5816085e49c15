"""Waterspout's client for asyncio.

    async with Client("http://127.0.0.1:8888") as client:
        async with client.subscribe("chat:lobby", last=50) as events:
            await client.publish("chat:lobby", {"text": "Hello"})  # returns once the message is stored for good
            async for event in events:
                match event:
                    case Message():
                        print(event.offset, event.data)
                    case Gap():
                        print("no longer retained:", event.first, "to", event.last)

It comes back by itself after every loss and continues each channel at its cursor. The server promises every message
once and in order, so nothing is filtered here: resuming from a cursor is exact. A publish keeps its key through all its
attempts, so trying again never stores it twice.
"""

from waterspout_client.client import Client, Token
from waterspout_client.cursors import Cursors, FileCursors
from waterspout_client.documents import Change, Collection, Found, Replaced, Watch
from waterspout_client.errors import Unsubscribed, WaterspoutError
from waterspout_client.events import (
    Amend,
    Deleted,
    Dropped,
    Event,
    Gap,
    Join,
    Leave,
    Live,
    Message,
    Occupancy,
    Page,
    Presence,
    Published,
    Reacted,
    Reaction,
    Receipt,
    Replies,
    Results,
    User,
)
from waterspout_client.jobs import Job
from waterspout_client.pace import Limited
from waterspout_client.rooms import Member, Membership, Room, Rooms, ThreadOf, direct_name
from waterspout_client.state import State, StateChange
from waterspout_client.subscription import Subscription
from waterspout_client.timeline import Shown, Timeline
from waterspout_client.writing import Writer

__all__ = [
    "Amend",
    "Change",
    "Client",
    "Collection",
    "Cursors",
    "Deleted",
    "Dropped",
    "Event",
    "FileCursors",
    "Found",
    "Gap",
    "Job",
    "Join",
    "Leave",
    "Limited",
    "Live",
    "Member",
    "Membership",
    "Message",
    "Occupancy",
    "Page",
    "Presence",
    "Published",
    "Reacted",
    "Reaction",
    "Receipt",
    "Replaced",
    "Replies",
    "Results",
    "Room",
    "Rooms",
    "Shown",
    "State",
    "StateChange",
    "Subscription",
    "ThreadOf",
    "Timeline",
    "Token",
    "Unsubscribed",
    "User",
    "Watch",
    "WaterspoutError",
    "Writer",
    "direct_name",
]
