"""Reactions, as they are asked for and answered."""

from __future__ import annotations

from typing import Annotated, TypedDict

from msgspec import Meta

from server.wire.rest import Channel


class ReactionSet(TypedDict):
    """How it is now."""

    channel: Channel
    of: Annotated[int, Meta(description="The message's offset")]
    kind: Annotated[str, Meta(examples=["👍"])]
    on: bool
    at: Annotated[int, Meta(description="What is told of the message with this `at`, or a higher one, has it counted")]
