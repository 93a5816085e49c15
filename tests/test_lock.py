"""requirements.lock is what a fresh machine installs, and pip takes nothing that is not in it: whatever its Python."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LOCK = Path(__file__).parent.parent / "requirements.lock"


def _locked() -> list[Requirement]:
    lines = LOCK.read_text().splitlines()
    return [Requirement(line.rstrip("\\ ")) for line in lines if line[:1].isalnum()]


@pytest.mark.parametrize("version", ["3.11.0", "3.11.2", "3.11.9", "3.12.1", "3.13.0"])
def test_it_has_what_its_packages_need(version: str) -> None:
    python = {
        "python_full_version": version,
        "python_version": version.rpartition(".")[0],
        "implementation_version": version,
    }
    locked = [one for one in _locked() if one.marker is None or one.marker.evaluate(python)]
    names = {canonicalize_name(one.name) for one in locked}
    missing = []
    for one in locked:
        try:
            needed = requires(one.name) or []
        except PackageNotFoundError:  # not for the Python that this runs on
            continue
        for need in map(Requirement, needed):
            wanted = need.marker is None or any(
                need.marker.evaluate(python | {"extra": extra}) for extra in ("", *one.extras)
            )
            if wanted and canonicalize_name(need.name) not in names:
                missing.append(f"{one.name} needs {need}")
    assert missing == []


def test_it_names_hashes_and_no_place() -> None:
    text = LOCK.read_text()
    assert all("==" in str(one.specifier) for one in _locked())
    assert text.count("--hash=sha256:") >= len(_locked())
    assert "://" not in text
    assert "--index" not in text
