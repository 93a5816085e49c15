"""What of the user's back end clients may call: `calls`."""

from __future__ import annotations

import re
from typing import Annotated, Final

from msgspec import Meta

from server.core.config.channels import UserRate, check_rule
from server.core.config.targets import Target
from server.core.config.values import MAX_STORED, Count, Rate, Seconds
from server.core.errors import StartError
from server.core.rules import Rule, terms

_PATTERN: Final = re.compile(r"[^\s\x00-\x1f\x7f]{1,255}")


class Call(Target):
    timeout: Seconds = Seconds(5)
    """for the whole answer, from when it is asked"""
    allow: Rule = "user"
    """a rule, see below: who may call it. Nobody owns a method, so `owner` is none"""
    concurrency: Annotated[int, Meta(ge=1)] = 64
    """calls of the pattern that one instance asks at a time; 1,000 more wait for their turn, 10 s at most"""
    concurrency_per_user: Count = 8
    """calls of the pattern that one user may have under way at one instance; of guests: one address. API keys are not
    counted"""
    rate: Rate | UserRate = 0.0
    """calls a second, as `namespaces.*.rate`"""
    answer_bytes: Annotated[int, Meta(ge=1, le=MAX_STORED)] = 1048576
    """a longer answer is none"""

    def check(self, path: str) -> None:
        name = path.partition("calls.")[2]
        if not _PATTERN.fullmatch(name):
            raise StartError(f"{path}: a pattern has 1 to 255 characters, and no spaces")
        self.check_target(path)
        check_rule(f"{path}.allow", self.allow)
        if "owner" in terms(self.allow):
            raise StartError(f"{path}.allow: nobody owns a method")
        if not self.timeout:
            raise StartError(f"{path}.timeout: must be more than 0")
