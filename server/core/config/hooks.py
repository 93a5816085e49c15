"""The user's own rules: `hooks`."""

from __future__ import annotations

from typing import Literal

from msgspec import field

from server.core.config.targets import Target
from server.core.config.values import Seconds
from server.core.errors import StartError


class Hook(Target):
    timeout: Seconds = Seconds(1)
    """for the whole answer, from when it is asked: a hook has 64 questions at a time, and the others wait for their
    turn"""
    on_failure: Literal["deny", "allow"] = "deny"
    """`allow`: what the hook does not answer is accepted. Else it is refused with `unavailable`. What could not be
    asked because of too many other questions (5,000 waiting, or 10 s) is refused in either case"""
    actions: list[Literal["publish", "subscribe", "write", "amend", "connect"]] = field(
        default_factory=lambda: ["publish", "subscribe", "write", "amend"]
    )
    """what it is asked about. Edits of messages are asked about as `publish`, erasing and pinning as `amend`. One hook
    may say `connect`: it is asked about all who connect"""

    def check(self, path: str) -> None:
        self.check_target(path)
        if not self.timeout:
            raise StartError(f"{path}.timeout: must be more than 0")
