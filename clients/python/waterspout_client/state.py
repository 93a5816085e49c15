"""How a client is connected."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["connecting", "open", "waiting", "closed"]


@dataclass(frozen=True, slots=True)
class StateChange:
    """`connecting` → `open` → `waiting` (for the next attempt) → `connecting` …, until `closed`."""

    state: State
    reason: str = ""
    code: int | None = None
    """The close code, with `waiting` and `closed`."""
    delay: float | None = None
    """Seconds until the next attempt, with `waiting`."""
