"""The typed configuration: defaults < file < environment < flags.

Each section is a struct whose fields are the options. What stands below an option is its description in
docs/configuration.md, which `make docs` writes. An unknown key is refused by name. Durations are written `30s`,
`100ms`, `10m`, `2h`, `30d`, or as a number of seconds. A number of 0 means no limit.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

import msgspec
import yaml
from msgspec import Meta, Struct, field

from server.core.errors import StartError
from server.core.names import is_pattern
from server.core.rules import Rule, problem

ENVIRONMENT_PREFIX: Final = "WATERSPOUT__"
_UNITS: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")
_DATABASE: Final = re.compile(r'[^/\\. "$\0]{1,63}')
_HOST: Final = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?")
_NAMESPACE: Final = re.compile(r"[a-z][a-z0-9_-]*")
_COLLECTION: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_FIELD: Final = re.compile(r"[^$._\0][^.\0]*")
_PATH: Final = re.compile(r"-?[^$.,\0-][^$,\0]*")

Count = Annotated[int, Meta(ge=0)]
MAX_STORED: Final = 15 << 20
"""Bytes of JSON that are sure to fit into a document of MongoDB (16 MiB), whatever is stored with them."""
Stored = Annotated[int, Meta(ge=0, le=MAX_STORED)]
Rate = Annotated[float, Meta(ge=0)]
Port = Annotated[int, Meta(ge=0, le=65535)]


class Seconds(float):
    """A duration; in the file `30s`, `100ms`, `10m`, `2h`, `30d` or a number of seconds."""


class Section(Struct, forbid_unknown_fields=True, kw_only=True):
    pass


class Server(Section):
    host: str = "127.0.0.1"
    """loopback until you say otherwise. A public address with guests needs `auth.public_guests`"""
    port: Port = 8888
    """0: any that is free; the log says which"""
    data_dir: str = "data"
    """where the embedded MongoDB keeps its data"""
    reuse_port: bool = False
    """several instances on one port of one machine share its connections"""
    shutdown_timeout: Seconds = Seconds(30)
    """how long accepted work and clients may take after SIGTERM"""
    hosts: list[str] = field(default_factory=list)
    """names that the server answers to in `Host`, without a port: `[rt.example.com]`. Addresses and `localhost` are
    always answered. Without a list, other names are refused where `server.host` is loopback and guests or accounts are
    on, since any page could have its own name point there (DNS rebinding)"""
    trusted_proxies: list[str] = field(default_factory=list)
    """addresses whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed, to the letter (no ranges). Without it
    everybody behind a proxy shares one `connections_per_ip`"""
    uvloop: bool = True
    """the faster event loop, where it is installed"""


class MongoDB(Section):
    uri: str = "embedded"
    """or `mongodb://…` of a replica set (one node will do; a standalone server is refused)"""
    database: str = "waterspout"
    """several Waterspouts may share a replica set, each with a database of its own"""
    publish_timeout: Seconds = Seconds(10)
    """then a publish is answered `unavailable` or `outcome_unknown`"""
    dedupe_window: Seconds = Seconds(600)
    """younger messages are never trimmed, so that a retry finds the first one"""
    trim_interval: Seconds = Seconds(60)
    """how often retention is enforced on the channels written to, and again when what was too young no longer is; all
    channels are gone through once an hour"""
    shards: Annotated[int, Meta(ge=1, le=64)] = 2
    """batches in flight at a time; a channel stays in one, so its order is kept. Up to 64"""


class Redis(Section):
    url: str | None = None
    """null: the memory broker, one instance. `redis://`, `rediss://`, `unix://`,
    `redis+sentinel://host:port,host:port/service`, `redis+cluster://host:port`"""
    prefix: str = "waterspout"
    """several Waterspouts may share a Redis. All instances of one must agree"""
    sharded: bool = False
    """`SPUBLISH`/`SSUBSCRIBE`, for a Redis 7 cluster"""
    hmac_key: str | None = None
    """signs what goes through Redis, for one that others can publish to. All instances must agree. It does not
    encrypt"""


class ApiKey(Section):
    sha256: str
    """hex SHA-256 of the key, so that the configuration holds no key: `printf %s KEY | sha256sum`"""
    channels: dict[str, list[str]] = field(default_factory=dict)
    """rights beyond the namespaces' rules: `{"chat:*": [publish, subscribe]}`"""
    admin: bool = False
    """for operators: disconnecting, unsubscribing and revoking users, `/metrics`, `/v1/nodes`, `/v1/channels`, the
    `$sys:` channels and the console. No right to other channels"""


class Auth(Section):
    secret: str | None = None
    """the shared key of JSON Web Tokens, 32 bytes at least. Null: such tokens are refused; guests, API keys and the
    keys below remain"""
    previous_secret: str | None = None
    """accepted as well, never signed with: the old secret, until the last token it has signed is expired"""
    public_key: str | None = None
    """for tokens that others sign: a PEM (`-----BEGIN PUBLIC KEY-----`), as text or as the path of a file. May hold
    several keys; all are accepted"""
    jwks_url: str | None = None
    """where such keys are published (JSON Web Key Set). `https`, or `http` on loopback; redirects are not followed.
    Fetched with the first token, every 5 minutes, and for a key id nobody knows (every 10 s at most). While the URL
    is away, the keys last seen are used"""
    algorithms: list[str] = field(default_factory=lambda: ["HS256"])
    """the only ones accepted, of HS256/384/512 (with `secret`) and RS256/384/512, PS256/384/512, ES256/384/512,
    ES256K, EdDSA (with `public_key` or `jwks_url`). A key is only used with algorithms of its own kind"""
    issuer: str | None = None
    """the `iss` a token must have, if set"""
    audience: str | None = None
    """the `aud` a token must have, if set"""
    max_token_ttl: Seconds = Seconds(0)
    """the longest that `exp` may be after `iat`, which tokens must have then. Revocations are kept for as long,
    without it for ever"""
    guests: bool = True
    """clients without a token are let in, as user null"""
    public_guests: bool = False
    """the second word that is needed for guests on a public address"""
    accounts: bool = False
    """accounts kept in MongoDB, at [`/v1/auth/…`](protocol.md). Tokens are signed with `auth.secret`; if that is null,
    with one that is made at the first start and kept in MongoDB"""
    ticket_ttl: Seconds = Seconds(60)
    """how long a [ticket](rest.md#tickets) opens an event stream"""
    api_keys: dict[str, ApiKey] = field(default_factory=dict)
    """keys for back ends, by name; the name is the `user` of what they publish"""


class Limits(Section):
    message_bytes: Stored = 65536
    """of a message's data, encoded as JSON; 15 MiB at most, and that is what 0 means. A WebSocket frame may have twice
    that. REST bodies end at 1 MiB in any case"""
    document_bytes: Stored = 1048576
    """of a document's fields, encoded as JSON; 15 MiB at most, and that is what 0 means. REST bodies end at 1 MiB in
    any case, WebSocket frames at twice `message_bytes`"""
    messages_per_second: Count = 50
    """per WebSocket connection: publishes and history reads"""
    burst: Count = 100
    """how many may be saved up"""
    key_messages_per_second: Rate = 0.0
    """the same for WebSockets of API keys"""
    key_burst: Count = 0
    """0: a second's worth"""
    cost_per_second: Count = 1000
    """per WebSocket connection: what all that it sends may cost ([protocol](protocol.md#limits)), publishes and reads
    apart; a chat needs 1 or 2. API keys are not counted"""
    cost_burst: Count = 20000
    """how much may be saved up"""
    channels_per_connection: Count = 128
    """subscriptions of one WebSocket at a time, of one event stream or poll likewise"""
    presence_users: Count = 1000
    """in a channel with more of them only their number is told: no names, no joins, no leaves. 0: names always"""
    queue_bytes: Count = 1048576
    """waiting for one client; beyond it is served from the log, at its pace"""
    connections: Count = 10000
    """WebSockets, event streams and waiting polls of one instance"""
    connections_per_user: Count = 20
    """connections of one user to one instance; guests and API keys are not counted"""
    connections_per_ip: Count = 50
    """of one address to one instance, likewise"""
    user_messages_per_second: Rate = 0.0
    """the same of a user over all its connections to one instance, and over REST; of guests per address. API keys are
    not counted"""
    user_burst: Count = 0
    """0: a second's worth"""
    requests_per_second: Rate = 0.0
    """REST requests of a user to one instance; of guests per address. API keys are not counted"""
    requests_burst: Count = 0
    """0: a second's worth"""


class Metrics(Section):
    host: str = "127.0.0.1"
    """where `metrics.port` listens; whoever reaches it may read"""
    port: Port | None = None
    """a port of its own for `/metrics`, `/healthz` and `/readyz`, without a key. Null: only on `server.port`, with an
    API key that is `admin`"""


class Log(Section):
    level: Literal["debug", "info", "warning", "error"] = "info"
    """`debug`, `info`, `warning` or `error`"""
    format: Literal["text", "json"] | None = None
    """`text` or `json`, also `--log-format`; null: text on a terminal, JSON otherwise"""


class Retention(Section):
    size: Count = 10000
    """how many messages (of a collection: changes) are retained to resume from; 0: no bound"""
    ttl: Seconds = Seconds(30 * 86400)
    """for how long; whichever bound is reached first. 0: no bound"""


class UserRate(Section):
    per_user: Rate
    burst: Count = 0


class Namespace(Section):
    durable: bool = True
    """false: nothing is stored, nothing is promised"""
    history: Retention = field(default_factory=Retention)
    presence: bool = False
    """who is there can be asked for. Costs a row per user and channel in the memory of every instance"""
    join_leave: bool = True
    """with `presence`: subscribers are told who comes and goes. False: they have to ask"""
    ephemeral: bool = False
    """durable channels: a publish may say `"ephemeral": true` and is passed on without being stored"""
    conflate: Seconds = Seconds(0)
    """ephemeral messages: the newest per `tag` in each such interval. Refused for durable channels that allow none"""
    publish: Rule = "nobody"
    """a rule, see below"""
    subscribe: Rule = "nobody"
    """the same; it is also the right to history and resume"""
    rate: Rate | UserRate = 0.0
    """messages a second that one user may publish in the namespace (to one instance; of guests: one address);
    `{per_user: 5, burst: 20}` to choose the burst, which is a second's worth else. API keys are not counted"""
    hook: str | None = None
    """one of `hooks`: asked before what the rule allows happens"""


class Collection(Section):
    read: Rule = "nobody"
    """who may read, list and watch: a [rule](#rules); `owner` is any user, where `owner` names a field"""
    write: Rule = "nobody"
    """who may write, the same"""
    hook: str | None = None
    """one of `hooks`: asked before a write (`action`: `write`, with `collection`, `op`, `document_id`, `document`,
    which `data` in the answer replaces), and before documents are read or watched (`subscribe`)"""
    owner: str | None = None
    """a field at top level: users see and write only the documents in which it is their name (or a list with their
    name in it). Servers see all, guests none"""
    schema: dict[str, Any] | None = None
    """a JSON Schema for the fields of a document, without `_id` and `_rev`. `$ref` may point inside it only. Writes
    made directly to MongoDB are not checked"""
    indexes: list[str] = field(default_factory=list)
    """indexes made at start, as fields with `-` for descending: `[status, "customer,-created"]`. Removed ones stay"""
    unique: list[str] = field(default_factory=list)
    """unique indexes, among the documents that have the field"""
    history: Retention = field(default_factory=Retention)


class Hook(Section):
    url: str | None = None
    """asked with `POST`, or"""
    function: str | None = None
    """`module:function`, imported at the start"""
    secret: str | None = None
    """signs the requests; needed with a URL, 32 bytes at least"""
    timeout: Seconds = Seconds(1)
    """for the whole answer, from when it is asked: a hook has 64 questions at a time, and the others wait for their
    turn"""
    on_failure: Literal["deny", "allow"] = "deny"
    """`allow`: what the hook does not answer is accepted. Else it is refused with `unavailable`. What could not be
    asked because of too many other questions (5,000 waiting, or 10 s) is refused in either case"""
    actions: list[Literal["publish", "subscribe", "write"]] = field(
        default_factory=lambda: ["publish", "subscribe", "write"]
    )
    """what it is asked about"""


class Config(Section):
    server: Server = field(default_factory=Server)
    mongodb: MongoDB = field(default_factory=MongoDB)
    redis: Redis = field(default_factory=Redis)
    auth: Auth = field(default_factory=Auth)
    limits: Limits = field(default_factory=Limits)
    log: Log = field(default_factory=Log)
    metrics: Metrics = field(default_factory=Metrics)
    origins: list[str] = field(default_factory=list)
    """browser origins that may open a WebSocket and use REST (CORS), besides the server's own; exact:
    `https://app.example.com`"""
    namespaces: dict[str, Namespace] = field(default_factory=dict)
    """what channels there are; `config.yaml` declares `chat`, `feed` and `dash`"""
    collections: dict[str, Collection] = field(default_factory=dict)
    """live documents ([documents](documents.md)): MongoDB collections of these names, made at start. A name is
    `[A-Za-z][A-Za-z0-9_-]*`, and none of the server's own (`messages`, `channels`, `meta`, `creations`, `accounts`,
    `refresh_tokens`, `revocations`, `tickets`, `seen`). Needs MongoDB 6.0, for the images of changed documents"""
    hooks: dict[str, Hook] = field(default_factory=dict)
    """your own rules, by name, see below"""


def load(file: Path | None, environment: Mapping[str, str], flags: Iterable[tuple[str, Any]]) -> Config:
    """Merge the sources, later ones over earlier ones; `StartError` names the key that is wrong.

    `flags` are (dotted path, value); the environment's names are paths too: WATERSPOUT__SERVER__PORT=8889.
    """
    tree: dict[str, Any] = {}
    if file is not None:
        tree = _read(file)
    for name, text in sorted(environment.items()):
        if name.startswith(ENVIRONMENT_PREFIX):
            path = name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
            _put(tree, path, parse_value(text, name))
    for dotted, value in flags:
        _put(tree, dotted.split("."), value)
    try:
        config: Config = msgspec.convert(tree, Config, dec_hook=_duration)
    except msgspec.ValidationError as error:
        raise StartError(f"configuration: {_where(str(error), tree)}") from None
    _check(config)
    return config


def parse_value(text: str, name: str) -> Any:
    """A value of a flag or an environment variable, which is YAML."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise StartError(f"configuration: {name}: not YAML") from None


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


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


def _put(tree: dict[str, Any], path: list[str], value: Any) -> None:
    for part in path[:-1]:
        below = tree.get(part)
        if not isinstance(below, dict):
            below = tree[part] = {}
        tree = below
    tree[path[-1]] = value


def _duration(kind: type, value: Any) -> Any:
    if kind is not Seconds:
        raise NotImplementedError
    return parse_duration(value)


def parse_duration(value: Any) -> Seconds:
    """Of `30s`, `100ms`, `10m`, `2h`, `30d` or a number of seconds; ValueError otherwise."""
    if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
        return Seconds(value)
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("expected a duration such as 30s, 100ms, 10m, 2h or 30d")
    return Seconds(float(match[1]) * _UNITS[match[2]])


def _where(message: str, tree: dict[str, Any]) -> str:
    text, _, path = message.partition(" - at `")
    place = path.rstrip("`").removeprefix("$").lstrip(".")
    for section, kind in _NAMED.items():
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
            msgspec.convert(entry, kind, dec_hook=_duration)
        except msgspec.ValidationError:
            return name
    return ""


_NAMED: Final = {"namespaces": Namespace, "collections": Collection, "hooks": Hook, "auth.api_keys": ApiKey}


def _check(config: Config) -> None:
    auth = config.auth
    if not is_loopback(config.server.host) and auth.guests and not auth.public_guests:
        raise StartError(
            f"server.host {config.server.host} is public while auth.guests lets anybody in; "
            "set auth.guests=false, or say auth.public_guests=true as well if that is meant"
        )
    for host in config.server.hosts:
        if not _HOST.fullmatch(host):
            raise StartError(f"configuration: server.hosts: {host!r}: expected a name alone, such as rt.example.com")
    if not _DATABASE.fullmatch(config.mongodb.database):
        raise StartError('configuration: mongodb.database: 1 to 63 characters, none of them / \\ . $ " or a space')
    for name, collection in config.collections.items():
        _check_collection(name, collection)
    for name, api_key in auth.api_keys.items():
        if not re.fullmatch(r"[0-9a-fA-F]{64}", api_key.sha256):
            raise StartError(f"configuration: auth.api_keys.{name}.sha256: expected 64 hexadecimal digits")
        for pattern in api_key.channels:
            if not is_pattern(pattern):
                raise StartError(f"configuration: auth.api_keys.{name}.channels: {pattern!r} has no namespace: chat:*")
    key = config.redis.hmac_key
    if key is not None and len(key.encode()) < 32:
        raise StartError("configuration: redis.hmac_key must have at least 32 bytes")
    _check_tokens(auth)
    for name, namespace in config.namespaces.items():
        if not _NAMESPACE.fullmatch(name):
            raise StartError(f"configuration: namespaces.{name}: a name is [a-z][a-z0-9_-]*")
        if name == "docs":
            raise StartError("configuration: namespaces.docs is built in")
        if namespace.durable and namespace.conflate and not namespace.ephemeral:
            raise StartError(
                f"configuration: namespaces.{name}: a durable channel shows every message, so only ephemeral ones can "
                "conflate, and it allows none"
            )
        _check_access(config, f"namespaces.{name}", namespace, "publish", "subscribe")
    for name, collection in config.collections.items():
        _check_access(config, f"collections.{name}", collection, "read", "write")
    for name, hook in config.hooks.items():
        _check_hook(f"configuration: hooks.{name}", hook)


def _check_tokens(auth: Auth) -> None:
    for name, secret in (("secret", auth.secret), ("previous_secret", auth.previous_secret)):
        if secret is not None and len(secret.encode()) < 32:
            raise StartError(f"configuration: auth.{name} must have at least 32 bytes")
        if secret is not None and "-----BEGIN" in secret:
            raise StartError(f"configuration: auth.{name} is a shared secret; a PEM belongs in auth.public_key")
    if auth.previous_secret is not None and auth.secret is None:
        raise StartError("configuration: auth.previous_secret is of use beside auth.secret only")
    unknown = set(auth.algorithms) - SHARED - ASYMMETRIC
    if unknown or not auth.algorithms:
        names = ", ".join(sorted(SHARED | ASYMMETRIC))
        raise StartError(f"configuration: auth.algorithms: some of {names}; not {', '.join(sorted(unknown)) or 'none'}")
    asymmetric = ASYMMETRIC.intersection(auth.algorithms)
    if asymmetric and not (auth.public_key or auth.jwks_url):
        raise StartError(f"configuration: auth.algorithms: {min(asymmetric)} needs auth.public_key or auth.jwks_url")
    if (auth.public_key or auth.jwks_url) and not asymmetric:
        raise StartError("configuration: auth.public_key, auth.jwks_url: name their algorithm in auth.algorithms")
    if auth.accounts and not SHARED.intersection(auth.algorithms):
        raise StartError("configuration: auth.accounts signs its tokens: auth.algorithms must have HS256 as well")
    if auth.jwks_url is not None:
        url = urlsplit(auth.jwks_url)
        if url.scheme != "https" and not (url.scheme == "http" and is_loopback(url.hostname or "")):
            raise StartError("configuration: auth.jwks_url: https, or http on loopback")


def _check_access(config: Config, path: str, options: Namespace | Collection, *rights: str) -> None:
    for right in rights:
        wrong = problem(getattr(options, right))
        if wrong:
            raise StartError(f"configuration: {path}.{right}: {wrong}")
    if options.hook is not None and options.hook not in config.hooks:
        raise StartError(f"configuration: {path}.hook: {options.hook} is not under hooks")


def _check_hook(path: str, hook: Hook) -> None:
    if (hook.url is None) == (hook.function is None):
        raise StartError(f"{path}: one of url and function")
    if hook.function is not None and not re.fullmatch(r"[\w.]+:\w+", hook.function):
        raise StartError(f"{path}.function: expected module:function")
    if hook.url is not None and not re.match(r"https?://[^/\s]", hook.url):
        raise StartError(f"{path}.url: expected http:// or https://")
    if hook.url is not None and len((hook.secret or "").encode()) < 32:
        raise StartError(f"{path}.secret: at least 32 bytes, for the signature")
    if not hook.timeout:
        raise StartError(f"{path}.timeout: must be more than 0")


SHARED: Final = frozenset(("HS256", "HS384", "HS512"))
ASYMMETRIC: Final = frozenset(
    ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "ES256K", "EdDSA")
)


def _check_collection(name: str, collection: Collection) -> None:
    where = f"configuration: collections.{name}"
    if not _COLLECTION.fullmatch(name):
        raise StartError(f"{where}: a name is [A-Za-z][A-Za-z0-9_-]*, 64 characters at most")
    if name in OWN_COLLECTIONS:
        raise StartError(f"{where}: the server itself has a collection of this name")
    if collection.owner is not None and not _FIELD.fullmatch(collection.owner):
        raise StartError(f"{where}.owner: expected the name of a field at top level")
    for option in ("indexes", "unique"):
        for index in getattr(collection, option):
            if not all(_PATH.fullmatch(path.strip()) for path in index.split(",")):
                raise StartError(f"{where}.{option}: {index!r} is no list of fields, such as `status,-created`")


OWN_COLLECTIONS: Final = frozenset(
    ("messages", "channels", "meta", "creations", "accounts", "refresh_tokens", "revocations", "tickets", "seen")
)
