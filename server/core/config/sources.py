"""Where options come from: a file, the environment, flags; and where a wrong one stands in them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

from server.core.config.values import Seconds, parse_duration
from server.core.errors import StartError

ENVIRONMENT_PREFIX: Final = "WATERSPOUT__"
_RELATIVE: Final = (("server", "pages"),)
"""Options that are paths, relative to the file they stand in."""


def merged(file: Path | None, environment: Mapping[str, str], flags: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """The sources as one tree, later ones over earlier ones.

    `flags` are (dotted path, value); the environment's names are paths too: WATERSPOUT__SERVER__PORT=8889.
    """
    tree: dict[str, Any] = {}
    if file is not None:
        tree = _read(file)
        for relative in _RELATIVE:
            _relate(tree, relative, file.parent)
    for name, text in sorted(environment.items()):
        if name.startswith(ENVIRONMENT_PREFIX):
            path = name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
            _put(tree, path, parse_value(text, name))
    for dotted, value in flags:
        _put(tree, dotted.split("."), value)
    return tree


def parse_value(text: str, name: str) -> Any:
    """A value of a flag or an environment variable, which is YAML."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise StartError(f"configuration: {name}: not YAML") from None


def written(tree: Mapping[str, Any]) -> str:
    """A configuration as a file would give it."""
    return yaml.safe_dump(dict(tree), sort_keys=False, allow_unicode=True, width=120)


def _read(file: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(file.read_text())
    except OSError as error:
        raise StartError(f"configuration: {file}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        # Not the error's own text: it quotes the file, which may hold secrets.
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        raise StartError(f"configuration: {file}: not YAML{where}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise StartError(f"configuration: {file}: expected sections, got {type(tree).__name__}")
    return tree


def _relate(tree: dict[str, Any], path: tuple[str, ...], folder: Path) -> None:
    section, name = tree.get(path[0]), path[1]
    if isinstance(section, dict) and isinstance(section.get(name), str):
        section[name] = str(folder / section[name])


def _put(tree: dict[str, Any], path: list[str], value: Any) -> None:
    for part in path[:-1]:
        below = tree.get(part)
        if not isinstance(below, dict):
            below = tree[part] = {}
        tree = below
    tree[path[-1]] = value


def duration(kind: type, value: Any) -> Any:
    """What msgspec calls for a type that it does not know."""
    if kind is not Seconds:
        raise NotImplementedError
    return parse_duration(value)


def where(message: str, tree: dict[str, Any], named: Mapping[str, Any]) -> str:
    """msgspec's message, as one that begins with the option's path. `named`: paths of sections whose entries have names
    of the user's own → their type."""
    text, _, path = message.partition(" - at `")
    place = path.rstrip("`").removeprefix("$").lstrip(".")
    for section, kind in named.items():
        if place.startswith(f"{section}[...]"):  # msgspec does not say which one
            place = place.replace("[...]", f".{_first_wrong(_get(tree, section), kind)}", 1)
    place = place.replace("[...]", "")
    unknown = re.fullmatch(r"Object contains unknown field `(.*)`", text)
    if unknown:
        return f"unknown key {'.'.join(filter(None, (place, unknown[1])))}"
    return f"{place}: {text[:1].lower()}{text[1:]}" if place else text


def _get(tree: dict[str, Any], path: str) -> dict[str, Any]:
    for part in path.split("."):
        tree = tree[part]
    return tree


def _first_wrong(entries: dict[str, Any], kind: Any) -> str:
    for name, entry in entries.items():
        try:
            msgspec.convert(entry, kind, dec_hook=duration)
        except msgspec.ValidationError:
            return name
    return ""
