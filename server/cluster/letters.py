"""Letters: what one node has to say to somebody on another one. Like all that goes through the broker they may be lost,
and nobody is told."""

from __future__ import annotations

from collections.abc import Callable

from server.brokers.base import Letter
from server.cluster.announcer import Announcer

Take = Callable[[bytes], None]
"""What is done with a letter. It must not raise."""


class Letters:
    """`knows(node)`: whether a node is within hearing."""

    def __init__(self, node: str, *, announcer: Announcer, knows: Callable[[str], bool]) -> None:
        self._node = node
        self._announcer = announcer
        self._knows = knows
        self._boxes: dict[str, Take] = {}

    def open(self, box: str, take: Take) -> None:
        """`box`: a name that nobody can guess; whoever knows it may write to it."""
        self._boxes[box] = take

    def close(self, box: str) -> None:
        self._boxes.pop(box, None)

    def post(self, letter: Letter) -> bool:
        """False: there is no such node or, if it is this one, no such box."""
        if letter.node == self._node:
            return self.hear(letter)
        if not self._knows(letter.node):
            return False
        self._announcer.announce(letter=letter)
        return True

    def hear(self, letter: Letter) -> bool:
        """Of this node or another; whether it was for somebody here."""
        take = self._boxes.get(letter.box) if letter.node == self._node else None
        if take is None:
            return False
        take(letter.body)
        return True
