"""Measure Waterspout against its peers on this machine: `make bench`, or with options `python bench/run.py --help`."""

from __future__ import annotations

import argparse
import os
import resource
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import report
from bench.clients import BenchError
from bench.scenarios import PEERS, Effort, Scenario, scenarios
from bench.servers import CONTESTANTS, GENERATOR_CORE, ROOT, SERVER_CORE, Contestant, Ours, Server, Unavailable

RESULTS = ROOT / "bench" / "results"
PAGE = ROOT / "docs" / "benchmarks.md"


def arguments(names: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", metavar="A,B", help=f"scenarios: {', '.join(names)}")
    parser.add_argument("--peers", metavar="A,B", help=f"peers: {', '.join(PEERS)}; or none")
    parser.add_argument("--table", action="store_true", help="measure nothing: the table of the results there are")
    parser.add_argument("--reps", type=int, metavar="N", help="repetitions; the medians are reported")
    parser.add_argument("--seconds", type=float, metavar="S", help="about how long a measured run takes")
    parser.add_argument("--quick", action="store_true", help="once, short, and written nowhere unless --out is given")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the results go (default: bench/results)")
    return parser.parse_args()


def chosen(option: str | None, names: Sequence[str]) -> list[str]:
    wanted = list(names) if option is None else [name for name in option.split(",") if name and name != "none"]
    if unknown := set(wanted) - set(names):
        sys.exit(f"unknown: {', '.join(sorted(unknown))} (there are {', '.join(names)})")
    return wanted


def install(contestants: Sequence[Contestant]) -> dict[str, str]:
    """The contestants that cannot be installed here, with the reasons."""
    missing: dict[str, str] = {}
    for contestant in contestants:
        try:
            contestant.install()
        except Unavailable as reason:
            missing[contestant.name] = str(reason)
            report.progress(f"skipped {contestant.name}: {reason}")
    return missing


def measure(
    scenario: Scenario, contestants: Sequence[Contestant], effort: Effort
) -> tuple[dict[str, list[dict[str, float] | None]], dict[str, str]]:
    """Every contestant once, then every one again: what slows the machine down for a while slows all of them."""
    runs: dict[str, list[dict[str, float] | None]] = {contestant.name: [] for contestant in contestants}
    failed: dict[str, str] = {}
    repetitions = 1 if scenario.once else effort.repetitions
    for repetition in range(repetitions):
        for contestant in contestants:
            report.progress(f"{scenario.name} {repetition + 1}/{repetitions}: {contestant.name}")
            try:
                with Server(contestant) as server:
                    try:
                        runs[contestant.name].append(scenario.measure(scenario, server, effort))
                    except BenchError as error:
                        raise BenchError(f"{error}; the server's log ends with: {server.last_words()}") from error
            except (Unavailable, BenchError, OSError) as error:
                runs[contestant.name].append(None)
                failed[contestant.name] = str(error)
                report.progress(f"  failed: {error}")
    return runs, failed


def prepare(effort: Effort) -> Effort:
    """Take a core and the files this system allows; less effort if those are too few."""
    if not {SERVER_CORE, GENERATOR_CORE} <= os.sched_getaffinity(0):
        sys.exit("two cores are needed: one for the server, one for the load")
    os.sched_setaffinity(0, {GENERATOR_CORE})
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    room = files - 500
    if room < max(effort.channels * 5, effort.connections):
        report.progress(f"only {files} open files are allowed here (ulimit -n): fewer connections")
        effort = replace(effort, channels=min(effort.channels, room // 5), connections=min(effort.connections, room))
    return effort


def main() -> None:
    # As an exception it passes the `with` of the server that is running, which stops it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    every = scenarios()
    options = arguments([scenario.name for scenario in every])
    if options.table:
        print(report.aligned(report.overview(report.saved(options.out or RESULTS, every))))
        return
    only = chosen(options.only, [scenario.name for scenario in every])
    peers = chosen(options.peers, PEERS)
    effort = Effort.quick() if options.quick else Effort()
    effort = replace(effort, repetitions=options.reps or effort.repetitions, seconds=options.seconds or effort.seconds)
    results = options.out or (None if options.quick else RESULTS)

    effort = prepare(effort)
    by_name = {contestant.name: contestant for contestant in CONTESTANTS}
    selected = {
        scenario.name: [by_name[name] for name in scenario.contestants if name in peers or name not in PEERS]
        for scenario in every
        if scenario.name in only
    }
    missing = install([contestant for contestant in CONTESTANTS if any(contestant in row for row in selected.values())])
    measured: list[tuple[Scenario, Mapping[str, Any]]] = []
    broken: list[str] = []
    for scenario in every:
        if scenario.name not in selected:
            continue
        there = [contestant for contestant in selected[scenario.name] if contestant.name not in missing]
        runs, failed = measure(scenario, there, effort)
        found = report.document(scenario, effort, runs, by_name, missing | failed)
        measured.append((scenario, found))
        if any(isinstance(one, Ours) and one.name not in found["medians"] for one in selected[scenario.name]):
            broken.append(scenario.name)
        report.progress(
            f"\n{scenario.name}: {found['title']}\n{report.table(scenario, found['medians'], found['labels'])}\n"
        )
        if results:
            report.save(results, found)
    print(report.aligned(report.overview(measured)))
    if results:
        report.chart(results)
    if results == RESULTS:
        report.write_into(PAGE, report.overview(report.saved(RESULTS, every)))
    if broken:
        sys.exit("Waterspout itself could not be measured in: " + ", ".join(broken))


if __name__ == "__main__":
    main()
