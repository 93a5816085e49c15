"""The house stays as docs/design says: imports point only downwards, and nodes share nothing. Read from the source."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from server import config

ROOT = Path(__file__).resolve().parents[1]
SERVER = {path.stem: ast.parse(path.read_text()) for path in sorted((ROOT / "server").glob("*.py"))}
HANDLERS = {path.stem: ast.parse(path.read_text()) for path in sorted((ROOT / "handlers").glob("*.py"))}

# The table. A module may import what lies on a lower level, and what EXCEPTIONS names; those of level 0 one another.
LEVELS = {
    0: "__init__ protocol codec frames channels errors config messages principals histogram rules where views rendered",
    1: "mongodb clock tasks hub sequencer log documents tailer broker broker_memory broker_redis presence auth keys "
    "accounts permissions limits hooks revocations seen stats embedded preflight logs tickets",
    2: "subscription node doctor seed",
    3: "outbox session events metrics",
}
LEVEL = {module: level for level, modules in LEVELS.items() for module in modules.split()}
EXCEPTIONS = {
    ("accounts", "clock"),
    ("accounts", "mongodb"),
    ("auth", "keys"),
    ("broker_memory", "broker"),
    ("broker_redis", "broker"),
    ("broker_redis", "tasks"),
    ("log", "clock"),
    ("log", "mongodb"),
    ("log", "tasks"),
    ("revocations", "tasks"),
    ("tailer", "tasks"),
    ("revocations", "mongodb"),
    ("documents", "mongodb"),
    ("tailer", "mongodb"),
    ("preflight", "embedded"),
    ("presence", "broker"),
    ("presence", "clock"),
    ("seen", "mongodb"),
    ("node", "subscription"),
    ("session", "outbox"),
    ("events", "outbox"),
    ("tickets", "mongodb"),
}

# Third-party libraries, and the modules they stay behind; None: pure ones, for everybody.
LIBRARIES = {
    "msgspec": None,
    "prometheus_client": {"metrics"},
    "msgpack": {"codec"},
    "yaml": {"config"},
    "motor": {
        *("mongodb", "log", "documents", "tailer", "accounts", "revocations", "embedded", "seen", "tickets", "seed"),
    },
    "pymongo": {
        *("mongodb", "log", "documents", "tailer", "accounts", "revocations", "embedded", "doctor", "seen", "seed"),
    },
    "bson": {"log", "documents", "tailer", "rendered"},
    "jsonschema": {"documents"},
    "referencing": {"documents"},
    "redis": {"broker_redis", "doctor"},
    "jwt": {"auth", "keys", "tickets"},
    "cryptography": {"keys"},
    "argon2": {"accounts"},
    "httpx": {"hooks"},
}
# What L0 is free of: waiting, the network, the clock, chance, and other processes.
IMPURE = {
    "asyncio",
    "concurrent",
    "datetime",
    "logging",
    "os",
    "random",
    "secrets",
    "select",
    "selectors",
    "signal",
    "socket",
    "ssl",
    "subprocess",
    "threading",
    "time",
    "uuid",
}

# Functions with a cache of their own are pure: two nodes may share what they return.
PURE_CACHES = {("rules", "_split"), ("channels", "namespace_of"), ("channels", "owners_of")}
MUTABLE = {
    "list",
    "dict",
    "set",
    "bytearray",
    "defaultdict",
    "deque",
    "OrderedDict",
    "Counter",
    "WeakSet",
    "WeakValueDictionary",
    "Event",
    "Lock",
    "Semaphore",
    "Queue",
    "Condition",
    "Future",
    "ContextVar",
}
MUTATING = {
    "append",
    "appendleft",
    "add",
    "update",
    "extend",
    "insert",
    "pop",
    "popitem",
    "remove",
    "clear",
    "setdefault",
    "discard",
}


def imports(tree: ast.AST) -> Iterator[str]:
    """The dotted names of all modules imported anywhere, in functions and under `if TYPE_CHECKING` too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            assert node.module is not None
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from names if node.module == "server" else [node.module]


def test_the_python_client_stands_alone() -> None:
    """It is installed without the server; and what it needs besides is one library, and another for MessagePack."""
    own = {"waterspout_client", "websockets", "msgpack"}
    for path in (ROOT / "clients" / "python" / "waterspout_client").glob("*.py"):
        foreign = {name.split(".")[0] for name in imports(ast.parse(path.read_text()))} - own
        assert foreign <= sys.stdlib_module_names, path.name


@pytest.mark.parametrize("module", SERVER)
def test_every_module_is_in_the_table(module: str) -> None:
    """A module of server/ that the table does not name has no place in the house."""
    assert module in LEVEL


@pytest.mark.parametrize("module", SERVER)
def test_imports_point_downwards(module: str) -> None:
    """A module imports only from lower levels, never from its own, but for the exceptions spelled out."""
    for name in imports(SERVER[module]):
        package, _, other = name.partition(".")
        if package == "server":
            other = other.partition(".")[0]
            other = other if other in SERVER else "__init__"  # a name of the package itself
            downwards = LEVEL[other] < LEVEL[module] or LEVEL[other] == 0
            assert downwards or (module, other) in EXCEPTIONS, f"{module} imports {other}"


@pytest.mark.parametrize("module", SERVER)
def test_third_party_libraries_stay_behind_their_modules(module: str) -> None:
    """Nothing in server/ knows Tornado or handlers; MongoDB, Redis and the formats each have their modules."""
    for name in imports(SERVER[module]):
        package = name.partition(".")[0]
        if package != "server" and package not in sys.stdlib_module_names:
            assert package in LIBRARIES, f"{module} imports {package}"
            allowed = LIBRARIES[package]
            assert allowed is None or module in allowed, f"{module} imports {package}"


@pytest.mark.parametrize("module", LEVELS[0].split())
def test_the_lowest_level_is_pure(module: str) -> None:
    """L0 neither waits nor looks at a clock: no asyncio, socket, time or chance in it."""
    assert not IMPURE & {name.partition(".")[0] for name in imports(SERVER[module])}


def test_the_servers_own_collections_cannot_be_declared() -> None:
    """Whoever reads documents must not read messages, accounts or secrets."""
    named = set()
    for module, tree in SERVER.items():
        for node in ast.walk(tree):
            name: ast.expr | None = None
            if isinstance(node, ast.Subscript) and ast.unparse(node.value).endswith("database"):
                name = node.slice
            elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".get_collection"):
                name = node.args[0]
            if isinstance(name, ast.Constant) and module != "seed":  # which writes documents
                named.add(name.value)
    assert {"messages", "meta", "accounts", "seen"} <= named
    assert named <= config.OWN_COLLECTIONS


@pytest.mark.parametrize("module", HANDLERS)
def test_handlers_know_no_back_end(module: str) -> None:
    """Handlers reach MongoDB and Redis only through the node."""
    packages = {name.partition(".")[0] for name in imports(HANDLERS[module])}
    assert not packages & {"motor", "pymongo", "bson", "redis"}


def _names(target: ast.expr) -> list[str]:
    return [node.id for node in ast.walk(target) if isinstance(node, ast.Name)]


def _is_mutable(value: ast.expr | None) -> bool:
    if isinstance(value, ast.Call):
        called = value.func
        return (called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")) in MUTABLE
    return isinstance(value, ast.List | ast.Dict | ast.Set | ast.ListComp | ast.DictComp | ast.SetComp)


def _mutables(body: list[ast.stmt]) -> Iterator[tuple[str, bool]]:
    """(name, whether it is declared Final) of what a module's or a class's body assigns and somebody could change."""
    for statement in body:
        if isinstance(statement, ast.Assign | ast.AnnAssign) and _is_mutable(statement.value):
            final = isinstance(statement, ast.AnnAssign) and "Final" in ast.unparse(statement.annotation)
            for target in statement.targets if isinstance(statement, ast.Assign) else [statement.target]:
                yield from ((name, final) for name in _names(target) if name not in ("__slots__", "__all__"))
        elif isinstance(statement, ast.ClassDef):
            yield from _mutables(statement.body)


def _changed_in_functions(tree: ast.AST) -> Iterator[str]:
    """Names that code in functions changes in place: `X[…] = …`, `del X[…]`, `X.append(…)`, `module.X.append(…)`."""
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        for node in ast.walk(function):
            changed: ast.expr | None = None
            if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del):
                changed = node.value
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in MUTATING:
                changed = node.func.value
            if isinstance(changed, ast.Name):
                yield changed.id


@pytest.mark.parametrize("module", SERVER)
def test_state_belongs_to_a_node(module: str) -> None:
    """No module or class of server/ holds anything that two nodes in one process would share and could change."""
    tree = SERVER[module]
    changed = set(_changed_in_functions(tree))
    for name, final in _mutables(tree.body):
        assert final, f"{module}.{name} is mutable and not Final"
        assert name not in changed, f"{module}.{name} is changed by a function"
    for node in ast.walk(tree):
        assert not isinstance(node, ast.Global), f"{module}: global {', '.join(node.names)}"
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            cached = any("cache" in ast.unparse(decorator) for decorator in node.decorator_list)
            assert not cached or (module, node.name) in PURE_CACHES, f"{module}.{node.name} has a cache"
