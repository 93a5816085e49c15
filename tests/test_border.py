"""Exceptions of foreign libraries end at the border: nobody behind it passes on what they say. Read from the source.

What they say may quote a document, a command, a token or a path. At the border it becomes names, codes and words of our
own; a traceback may go to the log as `exc_info`, where it loses its words (server/core/logs.py)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILES = [path for folder in ("server", "handlers") for path in sorted((ROOT / folder).rglob("*.py"))] + [
    ROOT / "run.py"
]

BORDER = {
    "server/mongo/client.py",
    "server/brokers/links.py",
    # What msgspec and PyYAML say of bytes and types: places and kinds, never values.
    "server/wire/codec.py",
    "server/wire/commands.py",
    "server/documents/schemas.py",  # which masks them
    "server/core/config/__init__.py",
    "server/core/config/sources.py",
    # What PyJWT and cryptography say of tokens and keys: fixed words.
    "server/access/auth.py",
    "server/access/keys.py",
    "server/centrifugo/tokens.py",  # what msgspec says of their claims
}
TELLING = {"str", "repr", "ascii", "format", "print", "bad_request"}
"""Calls that put it into words; so do those of a logger, and the making of an exception of ours."""
AT_START = {"_load", "_validator", "run_token"}
"""Functions that speak to the operator only, of what stands in the configuration and in the flags."""
FORBIDDEN_ATTRIBUTES = {"args", "message", "details", "errmsg", "doc", "object"}


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def _ours() -> frozenset[str]:
    """The names of all exceptions that the project defines."""
    found = {"WaterspoutError"}
    classes = [node for path in FILES for node in ast.walk(_tree(path)) if isinstance(node, ast.ClassDef)]
    for node in classes:
        bases = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
        if bases & {"Exception", "ConnectionError", "WaterspoutError"} or any(base.endswith("Error") for base in bases):
            found.add(node.name)
    return frozenset(found)


def _caught(handler: ast.ExceptHandler) -> set[str]:
    kinds = handler.type
    if kinds is None:
        return {"BaseException"}
    return {ast.unparse(one).rpartition(".")[2] for one in (kinds.elts if isinstance(kinds, ast.Tuple) else [kinds])}


def _tells(called: str) -> bool:
    return called.startswith(("logger.", "logging.")) or called.rpartition(".")[2] in TELLING | _ours()


def _told(handler: ast.ExceptHandler) -> Iterator[ast.AST]:
    """Where the body of the handler uses the exception for more than looking at it."""
    parents = {child: node for node in ast.walk(handler) for child in ast.iter_child_nodes(node)}
    for node in ast.walk(handler):
        if not (isinstance(node, ast.Name) and node.id == handler.name and isinstance(node.ctx, ast.Load)):
            continue
        parent = parents[node]
        match parent:
            case ast.Attribute(attr=attribute) if attribute not in FORBIDDEN_ATTRIBUTES:
                continue
            case ast.Call(func=called) if not _tells(ast.unparse(called)):
                continue
            case ast.keyword(arg="exc_info") | ast.Raise() | ast.Compare() | ast.BoolOp():
                continue
        yield parent


def _words(path: Path) -> Iterator[str]:
    """Where the words of exceptions that are not ours are told."""
    tree = _tree(path)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name in AT_START]
    excepted = {node for function in functions for node in ast.walk(function)}
    for node in ast.walk(tree):
        if node not in excepted and isinstance(node, ast.ExceptHandler) and node.name and _caught(node) - _ours():
            for told in _told(node):
                yield f"{path.relative_to(ROOT)}:{getattr(told, 'lineno', '?')}: {ast.unparse(told)}"


def test_no_words_of_foreign_exceptions() -> None:
    """No `str(error)`, no `{error}` and no `%s` of an exception that is not ours, outside the border."""
    told = [words for path in FILES if str(path.relative_to(ROOT)) not in BORDER for words in _words(path)]
    assert not told, "\n".join(told)
