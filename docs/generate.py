"""Writes what documents the code from the code: the tables of docs/configuration.md, from server/core/config/.

`make docs`. A test fails while the page is not what this makes of it.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

PAGE = Path(__file__).with_name("configuration.md")
sys.path.insert(0, str(PAGE.parents[1]))

from server.core import config  # noqa: E402
from server.core.config.values import UNITS  # noqa: E402


class Option(NamedTuple):
    """`path` has a `*` where a name of the user's own stands."""

    path: str
    default: str
    """As YAML."""
    description: str


def options(struct: type[msgspec.Struct] = config.Config, path: str = "") -> Iterator[Option]:
    """Every option below `path`, in the order of the code."""
    described = descriptions(struct)
    kinds = typing.get_type_hints(struct)
    for field in msgspec.structs.fields(struct):
        below = f"{path}.{field.encode_name}".lstrip(".")
        kind = kinds[field.name]
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            yield from options(kind, below)
            continue
        yield Option(below, default(field), described.get(field.name, ""))
        members = typing.get_args(kind)
        if typing.get_origin(kind) is dict and isinstance(members[1], type) and issubclass(members[1], msgspec.Struct):
            yield from options(members[1], f"{below}.*")


def descriptions(struct: type[msgspec.Struct]) -> dict[str, str]:
    """The string below each field, its own and those of what it extends."""
    found: dict[str, str] = {}
    for part in struct.__mro__:
        if not issubclass(part, msgspec.Struct) or part is msgspec.Struct:
            continue
        (tree,) = ast.parse(inspect.getsource(part)).body
        assert isinstance(tree, ast.ClassDef)
        for field, below in zip(tree.body, tree.body[1:], strict=False):
            text = below.value if isinstance(below, ast.Expr) else None
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Constant):
                assert isinstance(field.target, ast.Name)
                found.setdefault(field.target.id, " ".join(str(text.value).split()))
    return found


def default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "required"
    value: Any = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
    if isinstance(value, config.Seconds):
        units = reversed(UNITS.items())  # the largest first
        return next((f"{value / size:g}{unit}" for unit, size in units if value and value % size == 0), f"{value:g}")
    if isinstance(value, list):
        return f"[{', '.join(value)}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def table(section: str, rows: list[Option]) -> str:
    lines = [f"| `{one.path}` | `{one.default}` | {one.description.replace('|', chr(92) + '|')} |" for one in rows]
    return "\n".join(
        [f"<!-- options: {section} -->", "| option | default | |", "|---|---|---|", *lines, "<!-- end -->"]
    )


def page(text: str) -> str:
    """The page with its tables as they have to be: `<!-- options: SECTION -->` … `<!-- end -->`."""
    sections: dict[str, list[Option]] = {}
    for option in options():
        sections.setdefault(option.path.partition(".")[0], []).append(option)
    marked = re.compile(r"<!-- options: (\w+) -->.*?<!-- end -->", re.DOTALL)
    missing = sections.keys() - set(marked.findall(text))
    if missing:
        raise SystemExit(f"{PAGE.name} has no place for {', '.join(sorted(missing))}")
    return marked.sub(lambda match: table(match[1], sections[match[1]]), text)


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
