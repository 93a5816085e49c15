"""What all sessions of Centrifugo's clients on a node have in common."""

from __future__ import annotations

from typing import NamedTuple

from server.access.seals import Seals
from server.centrifugo.names import Names
from server.centrifugo.publishers import Publishers
from server.centrifugo.tokens import Tokens


class Common(NamedTuple):
    names: Names
    tokens: Tokens
    publishers: Publishers
    boxes: Seals
    """Of the secrets of those that are sent commands by requests of their own."""
