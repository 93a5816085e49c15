"""The house stays as docs/design says: imports point only downwards, and nodes share nothing. Read from the source."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


class Sources(Mapping[str, ast.Module]):
    """Dotted name below `folder` → source: `log.shard`; of a package's `__init__.py` that is the package's name. It is
    read when it is asked for."""

    def __init__(self, folder: str) -> None:
        self._paths: dict[str, Path] = {}
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            self._paths[".".join(parts[:-1] if parts[-1] == "__init__" else parts) or folder] = path
        self._trees: dict[str, ast.Module] = {}

    def __getitem__(self, module: str) -> ast.Module:
        if module not in self._trees:
            self._trees[module] = ast.parse(self._paths[module].read_text())
        return self._trees[module]

    def __contains__(self, module: object) -> bool:
        return module in self._paths

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)


SERVER = Sources("server")
HANDLERS = Sources("handlers")


def in_each(modules: Iterable[str]) -> Callable[[Callable[[str], None]], Callable[[], None]]:
    """One test of all of them, which tells every one that is wrong: a test for each would take longer to be collected
    and handed out than to be run."""

    def decorate(test: Callable[[str], None]) -> Callable[[], None]:
        def run() -> None:
            wrong = []
            for module in modules:
                try:
                    test(module)
                except AssertionError as error:
                    wrong.append(f"{module}: {error}")
            assert not wrong, "\n".join(wrong)

        run.__doc__ = test.__doc__
        return run

    return decorate


# The plan of the house, from the top down: whatever stands on a line may import what stands on the lines below it.
# Within a package imports are free, but never in a circle.
FLOORS = [
    "tools",
    "metrics",
    "centrifugo",
    "sessions",
    "node",
    "erasure",
    "search",
    "consumers",
    "rooms",
    "reactions",
    "calls",
    "outbox",
    "channels",
    "cluster",
    "delivery",
    "presence",
    "documents",
    "access",
    "log",
    "brokers",
    "backend",
    "wire",
    "mongo",
    "core",
]
FLOOR = {package: -height for height, package in enumerate(FLOORS)}

# Third-party libraries, and the modules they stay behind; None: pure ones, for everybody.
LIBRARIES = {
    "msgspec": None,
    "prometheus_client": {"metrics"},
    "msgpack": {"wire.codec"},
    "yaml": {"core.config.sources"},
    "motor": {
        *("mongo", "log", "documents", "presence.last_seen"),
    },
    "pymongo": {
        *("mongo", "log", "documents", "consumers", "rooms", "reactions", "outbox", "presence.last_seen", "tools.seed"),
        *("tools.doctor", "calls.kept", "erasure.jobs", "search.indexing"),
        *("access.accounts", "access.revocations"),
    },
    "bson": {"log", "documents", "rooms", "reactions", "mongo", "outbox"},
    "jsonschema_rs": {"documents.schemas"},
    "redis": {"brokers", "tools.doctor"},
    "jwt": {"access.auth", "access.keys"},
    "cryptography": {"access.keys", "access.tickets"},
    "argon2": {"access.accounts"},
    "aiohttp": {"backend"},
    "authlib": {"access.accounts.openid"},
    "joserfc": {"access.accounts.openid"},
    "webauthn": {"access.accounts.passkeys"},
    "google": {"centrifugo.protobuf", "centrifugo.client_pb2"},
}
# What only waits for nobody and looks at nothing: no network, no clock, no chance, no other processes.
PURE = {
    *("core.errors", "core.config", "core.names", "core.cursors", "core.principals", "core.rules", "core.histogram"),
    *("core.addresses", "core.rates", "core.seats", "documents.where", "documents.views", "documents.document_json"),
    *("centrifugo.names", "centrifugo.codes"),
}
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
PURE_CACHES = {("core.rules", "_split"), ("core.names", "namespace_of"), ("core.names", "owners_of")}
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
            if node.module.partition(".")[0] == "server":
                yield from (_module(f"{node.module}.{alias.name}") for alias in node.names)
            else:
                yield node.module


def _module(name: str) -> str:
    """The module that `server.a.b.C` lies in: the longest beginning of it that is one."""
    parts = name.split(".")
    while len(parts) > 1 and ".".join(parts[1:]) not in SERVER:
        parts.pop()
    return ".".join(parts)


def test_the_python_client_stands_alone() -> None:
    """It is installed without the server; and what it needs besides is one library, and another for MessagePack."""
    own = {"waterspout_client", "websockets", "msgpack"}
    for path in (ROOT / "clients" / "python" / "waterspout_client").glob("*.py"):
        foreign = {name.split(".")[0] for name in imports(ast.parse(path.read_text()))} - own
        assert foreign <= sys.stdlib_module_names, path.name


def _package(module: str) -> str:
    return module.partition(".")[0]


@in_each(SERVER)
def test_every_module_is_on_a_floor(module: str) -> None:
    """A folder of server/ that the plan does not name has no place in the house."""
    assert module == "server" or _package(module) in FLOOR


@in_each(SERVER)
def test_imports_point_downwards(module: str) -> None:
    """A module imports from lower floors and from its own package, never from above."""
    for name in imports(SERVER[module]):
        package, _, other = name.partition(".")
        if package == "server" and other:
            own, below = _package(module), _package(other)
            assert own == below or FLOOR[below] < FLOOR[own], f"{module} imports {other}"


def test_no_imports_in_a_circle() -> None:
    """Whoever reads a module can read what it stands on first."""
    graph = {module: {name.partition(".")[2] for name in imports(SERVER[module])} - {module} for module in SERVER}
    graph = {module: {name for name in names if name in SERVER} for module, names in graph.items()}
    while leaves := {module for module, names in graph.items() if not names}:
        graph = {module: names - leaves for module, names in graph.items() if module not in leaves}
    assert not graph, f"circles among {sorted(graph)}"


def _allowed(module: str, places: set[str]) -> bool:
    """Whether it is one of these modules, or lies in one of these packages."""
    return any(module == place or module.startswith(f"{place}.") for place in places)


@in_each(SERVER)
def test_third_party_libraries_stay_behind_their_modules(module: str) -> None:
    """Nothing in server/ knows Tornado or handlers; MongoDB, Redis and the formats each have their places."""
    for name in imports(SERVER[module]):
        package = name.partition(".")[0]
        if package != "server" and package not in sys.stdlib_module_names:
            assert package in LIBRARIES, f"{module} imports {package}"
            places = LIBRARIES[package]
            assert places is None or _allowed(module, places), f"{module} imports {package}"


@in_each([name for name in SERVER if _allowed(name, PURE | {"wire"})])
def test_what_is_pure_stays_pure(module: str) -> None:
    """It neither waits nor looks at a clock: no asyncio, socket, time or chance in it."""
    assert not IMPURE & {name.partition(".")[0] for name in imports(SERVER[module])}


def test_the_servers_own_collections_have_the_prefix() -> None:
    """A collection without it may be the product's, or be declared: whoever reads documents must not read messages,
    accounts or secrets. So names are written down only for `Database.own`."""
    for module, tree in SERVER.items():
        for node in ast.walk(tree):
            name: ast.expr | None = None
            if isinstance(node, ast.Subscript) and ast.unparse(node.value).endswith("database"):
                name = node.slice
            elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".get_collection"):
                name = node.args[0]
            if module not in ("tools.seed", "mongo.migration"):  # which writes documents; which renames what is older
                assert not isinstance(name, ast.Constant), f"{module}: {ast.unparse(node)}"


@in_each(HANDLERS)
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


@in_each(SERVER)
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


STARTERS = {"create_task", "ensure_future", "run_coroutine_threadsafe"}


@in_each(SERVER)
def test_no_task_without_a_keeper(module: str) -> None:
    """A task that nobody looks after may end without anybody noticing: only core/tasks.py starts any."""
    called = {
        node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        for node in ast.walk(SERVER[module])
        if isinstance(node, ast.Call)
    }
    assert module == "core.tasks" or not called & STARTERS


def _private_names(tree: ast.AST) -> Iterator[str]:
    """Names with an underscore that belong to somebody else: of objects other than `self`, imported, or patched. What
    a named tuple has under such names is public."""
    for node in ast.walk(tree):
        name, of = "", ""
        if isinstance(node, ast.Attribute):
            name, of = node.attr, ast.unparse(node.value)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names if alias.name.startswith("_"))
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("setattr") and len(node.args) > 1:
            patched = node.args[1]
            name, of = str(patched.value) if isinstance(patched, ast.Constant) else "", ast.unparse(node.args[0])
        private = name.startswith("_") and not name.startswith("__") and name not in ("_replace", "_asdict", "_fields")
        if private and of not in ("self", "cls"):
            yield f"{of}.{name}"


def test_tests_speak_to_public_names() -> None:
    """What is private can be changed without asking anybody, so no test may depend on it."""
    found = {path: set(_private_names(tree)) for path, tree in Sources("tests").items()}
    assert not {path: names for path, names in found.items() if names}


def test_no_room_is_too_large() -> None:
    """A file of Python has fewer than 500 lines, a class fewer than 400, a file of the clients fewer than 400; what is
    generated is not counted."""
    large: list[str] = []
    for path in [*(ROOT / "server").rglob("*.py"), *(ROOT / "handlers").rglob("*.py"), ROOT / "run.py"]:
        if path.name.endswith("_pb2.py"):
            continue
        text = path.read_text()
        if text.count("\n") >= 500:
            large.append(str(path.relative_to(ROOT)))
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef) and (node.end_lineno or 0) - node.lineno + 1 >= 400:
                large.append(f"{path.relative_to(ROOT)}: {node.name}")
    clients = [*(ROOT / "static").rglob("*.js"), *(ROOT / "clients").rglob("*.py")]
    large += [str(path.relative_to(ROOT)) for path in clients if path.read_text().count("\n") >= 400]
    assert large == []
