"""MongoDB's cluster time, as a number that JSON can hold: it grows with every write to the replica set."""

from __future__ import annotations

from typing import Final

from bson import Timestamp

_STEP: Final = 20
"""Bits for the writes within a second; the seconds stand above them, and both fit into the 53 bits of a double."""


def number_of(time: Timestamp) -> int:
    return time.time << _STEP | min(time.inc, (1 << _STEP) - 1)
