"""The page of figures: every case of the chaos tests prints its line and appends it here."""

from __future__ import annotations

import os
from pathlib import Path

from tests.support.ledger import Verdict


class Report:
    """A text file with a table, begun anew by every run. Its path: WATERSPOUT_CHAOS_REPORT, else in `fallback`."""

    def __init__(self, fallback: Path, length: str) -> None:
        self.path = Path(os.environ.get("WATERSPOUT_CHAOS_REPORT") or fallback / "chaos.txt")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(f"Faults survived ({length} run)\n\n{Verdict.header()}\n")

    def add(self, verdict: Verdict, *remarks: str) -> None:
        """`remarks` are figures of one case alone, such as how soon a fault was noticed."""
        lines = [verdict.line(), *(f"    {text}" for text in [*remarks, *verdict.problems])]
        with self.path.open("a") as page:
            page.write("\n".join(lines) + "\n")
        print("\n".join(["", Verdict.header(), *lines]))
