"""`run.py import-centrifugo config.json`: a configuration of ours made from Centrifugo's, and what could not be turned.

What is written is no wider than what was read: where the two have no common word, nobody gets the right, and a note
says so.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

import msgspec

from server.core.config import written
from server.core.config.values import UNITS
from server.core.errors import StartError
from server.core.names import DOCUMENTS
from server.tools.centrifugo_shapes import CHANNEL, Options, Tree, namespace_options, normal, seconds

Note = Callable[[str, str], None]
"""(option of theirs, what becomes of it)"""

SECRET_BYTES: Final = 32
LARGEST_MESSAGE: Final = 15 << 20
_NAME: Final = re.compile(r"[a-z][a-z0-9_-]*")
_ORIGIN: Final = re.compile(r"https?://[^/*\s]+")
_LEVELS: Final = {"trace": "debug", "debug": "debug", "info": "info", "warn": "warning", "error": "error"}

ABSENT: Final = {
    "admin": "the console (/console.html) takes an API key that is `admin`",
    "broker": "one Redis carries what there is between instances (redis.url); MongoDB keeps it",
    "channel.max_length": "255 bytes, always",
    "channel.namespace_boundary": "`:`, always",
    "channel.private_prefix": "there is none: a namespace that nobody may subscribe to takes a subscription token",
    "channel.proxy": "asked by no namespace, or there is no such hook",
    "channel.user_boundary": "there is none: see the rule `owner`",
    "client.proxy": "no back end is asked about connecting: sign tokens, or use jwks_url",
    "client.ping_interval": "pings go out every 25 s",
    "client.pong_timeout": "8 s, always",
    "client.subscribe_to_user_personal_channel": "name the channel in the token (`channels`), or subscribe to it",
    "client.subscription_token": "subscription tokens are signed as the others are",
    "client.token": "only by secret, public key or JWKS, with one issuer and one audience to the letter",
    "consumers": "there are no consumers: publish through the API",
    "controller": "instances hear each other through Redis (redis.url)",
    "debug": "absent",
    "emulation": "absent",
    "engine": "memory or one Redis; messages are in MongoDB in any case",
    "graphite": "Prometheus only (metrics.port)",
    "grpc_api": "HTTP only",
    "health": "/healthz and /readyz are always there",
    "http3": "absent",
    "http_server": "TLS and the rest belong to a proxy in front",
    "map_broker": "there are no map subscriptions; see live documents",
    "opentelemetry": "absent",
    "prometheus": "set metrics.port, or read /metrics with an API key that is `admin`",
    "rpc": "declare it under calls: it is asked in another form",
    "shared_poll": "there is no shared poll",
    "swagger": "/docs is always there",
    "uni_grpc": "absent",
    "uni_websocket": "absent; uni_sse and uni_http_stream are there",
    "webtransport": "absent",
}
"""Sections and options that have no counterpart → what there is instead."""
_HARMLESS: Final = (
    *("node.name", "usage_stats", "pid_file", "client.concurrency", "channel.history_meta_ttl", "uni_sse.enabled"),
    *("uni_http_stream.enabled", "proxy_static_http_headers", "granular_proxy_mode", "engine.type"),
)
"""Whoever moves misses nothing without these."""


def run(file: Path) -> int:
    """The configuration on standard output, the notes in front of it as comments, and on standard error."""
    try:
        tree = msgspec.json.decode(file.read_bytes())
    except OSError as error:
        raise StartError(f"{file}: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise StartError(f"{file}: not JSON") from None
    if not isinstance(tree, dict):
        raise StartError(f"{file}: expected an object")
    converted, notes = convert(tree)
    lines = [" ".join(f"{option}: {what}".split()) for option, what in notes]  # names of theirs may have any characters
    print("# Made from Centrifugo's configuration. Not the same as there:")
    print("".join(f"#   {line}\n" for line in lines), end="")
    print(written(converted), end="")
    for line in lines:
        print(line, file=sys.stderr)
    return 0


def convert(tree: Tree) -> tuple[Tree, list[tuple[str, str]]]:
    """Our configuration, and (option, what becomes of it) for each of theirs that is not the same here."""
    options = Options(normal(tree))
    notes: list[tuple[str, str]] = []

    def note(option: str, what: str) -> None:
        notes.append((option, what))

    ours: Tree = {
        "server": _server(options, note),
        "redis": _redis(options, note),
        "auth": _auth(options, note),
        "limits": _limits(options, note),
        "log": _log(options, note),
        "origins": _origins(options, note),
    }
    namespaces, hooks, of_all = _namespaces(options, note)
    ours["namespaces"], ours["hooks"] = namespaces, hooks
    ours["centrifugo"] = {
        "enabled": True,
        "namespace": of_all,
        "http_stream": options.on("http_stream.enabled"),
        "sse": options.on("sse.enabled"),
        "api": not options.on("http_api.disabled"),
    }
    for path in options.left():
        if not path.startswith(_HARMLESS):
            reason = next((ABSENT[one] for one in _beginnings(path) if one in ABSENT), "has no counterpart here")
            note(path, reason)
    return {name: section for name, section in ours.items() if section}, notes


def _beginnings(path: str) -> list[str]:
    """`a.b.c`, `a.b`, `a`."""
    parts = path.split(".")
    return [".".join(parts[:count]) for count in range(len(parts), 0, -1)]


# --- sections ---------------------------------------------------------------------------------------------------------


def _server(options: Options, note: Note) -> Tree:
    server: Tree = {"port": _number(options, "http_server.port", note, 65535) or 8000}
    address = options.get("http_server.address", "")
    if address:
        server["host"] = str(address)
    else:
        note("http_server.address", "not said, which is every address there; here it is loopback: set server.host")
    timeout = seconds(options.get("shutdown.timeout"))
    if timeout:
        server["shutdown_timeout"] = duration(timeout)
    return server


def _auth(options: Options, note: Note) -> Tree:
    insecure = options.on("client.insecure")
    auth: Tree = {"guests": insecure or options.on("client.allow_anonymous_connect_without_token")}
    for theirs, name in (("hmac_secret_key", "secret"), ("hmac_previous_secret_key", "previous_secret")):
        secret = str(options.get(f"client.token.{theirs}", ""))
        if len(secret.encode()) >= SECRET_BYTES:
            auth[name] = secret
        elif secret:
            note(f"client.token.{theirs}", f"a secret has {SECRET_BYTES} bytes at least here: choose a longer one")
    if "secret" not in auth:
        auth.pop("previous_secret", None)
    algorithms = ["HS256", "HS384", "HS512"] if "secret" in auth else []
    keys = []
    for theirs, family in (("rsa_public_key", "RS"), ("ecdsa_public_key", "ES")):
        if key := options.get(f"client.token.{theirs}"):
            keys.append(str(key))
            algorithms += [f"{family}256", f"{family}384", f"{family}512"]
    if keys:
        auth["public_key"] = "\n".join(keys)
    if url := str(options.get("client.token.jwks_public_endpoint", "")):
        if urlsplit(url).scheme == "https" and "{{" not in url:
            auth["jwks_url"] = url
            algorithms += [name for name in ("RS256", "ES256") if name not in algorithms]
        else:
            note("client.token.jwks_public_endpoint", "an https URL without templates, or none")
    if algorithms:
        auth["algorithms"] = algorithms
    for name in ("issuer", "audience"):
        if value := options.get(f"client.token.{name}"):
            auth[name] = str(value)
    if "secret" in auth or keys or "jwks_url" in auth:
        note("client.token", "if yours have no `exp`, set centrifugo.tokens_without_exp")
    if key := str(options.get("http_api.key", "")):
        rights = {"*": ["publish", "subscribe"]}
        digest = hashlib.sha256(key.encode()).hexdigest()
        auth["api_keys"] = {"backend": {"sha256": digest, "admin": True, "channels": rights}}
    if insecure:
        note("client.insecure", "whoever is let in may publish and subscribe; tokens are verified all the same")
    return auth


def _limits(options: Options, note: Note) -> Tree:
    limits: Tree = {}
    for theirs, name in (
        ("client.channel_limit", "channels_per_connection"),
        ("client.queue_max_size", "queue_bytes"),
        ("client.connection_limit", "connections"),
        ("client.user_connection_limit", "connections_per_user"),
    ):
        value = _number(options, theirs, note)
        if value:
            limits[name] = value
    size = _number(options, "websocket.message_size_limit", note)
    if size:
        limits["message_bytes"] = min(size, LARGEST_MESSAGE)
    note(
        "limits", "ours apply where yours say nothing: see limits.connections_per_ip, messages_per_second and the rest"
    )
    return limits


def _log(options: Options, note: Note) -> Tree:
    level = options.get("log.level")
    if isinstance(level, str) and level in _LEVELS:
        return {"level": _LEVELS[level]}
    if level is not None:
        note("log.level", f"one of {', '.join(_LEVELS)}")
    return {}


def _origins(options: Options, note: Note) -> list[str]:
    found: list[str] = []
    for origin in _list(options.get("client.allowed_origins")):
        if _ORIGIN.fullmatch(origin):
            found.append(origin)
        else:
            note(
                "client.allowed_origins",
                f"{origin[:100]!r}: origins are named to the letter here, as in https://a.example",
            )
    return found


def _redis(options: Options, note: Note) -> Tree:
    get = options.get
    addresses = _list(get("engine.redis.address"))
    sentinels, cluster = _list(get("engine.redis.sentinel_address")), _list(get("engine.redis.cluster_address"))
    user, password = str(get("engine.redis.user", "")), str(get("engine.redis.password", ""))
    master, database = str(get("engine.redis.sentinel_master_name", "")), get("engine.redis.db", 0)
    prefix = get("engine.redis.prefix")
    tls = options.on("engine.redis.tls.enabled")
    if get("engine.type", "memory") != "redis":
        return {}
    credentials = f"{quote(user, safe='')}:{quote(password, safe='')}@" if password else ""
    url = None
    if sentinels and master:
        url = f"redis+sentinel://{credentials}{','.join(sentinels)}/{master}"
    elif cluster:
        url = f"redis+cluster://{credentials}{','.join(cluster)}"
    else:
        first = addresses[0] if addresses else "127.0.0.1:6379"
        if "://" not in first:
            url = f"{'rediss' if tls else 'redis'}://{credentials}{first}" + (f"/{database}" if database else "")
        elif urlsplit(first).scheme in ("redis", "rediss", "unix") and not urlsplit(first).query:
            url = first
        if len(addresses) > 1:
            note("engine.redis.address", "one Redis: what goes through it is not kept, so it is not what is sharded")
    if url is None:
        note("engine.redis.address", "write redis.url by hand: redis://, redis+sentinel:// or redis+cluster://")
        return {}
    return {"url": url} | ({"prefix": str(prefix)} if prefix else {})


# --- channels ---------------------------------------------------------------------------------------------------------


def _namespaces(options: Options, note: Note) -> tuple[Tree, Tree, str]:
    """Namespaces, hooks, and the namespace of channels that are in none."""
    hooks = _Hooks(options, note)
    insecure, guests = options.on("client.insecure"), options.on("client.allow_anonymous_connect_without_token")
    found: Tree = {}
    declared = options.get("channel.namespaces", [])
    for entry in declared if isinstance(declared, list) else []:
        of = entry if isinstance(entry, dict) else {}
        name = str(of.get("name", ""))
        if not _NAME.fullmatch(name) or name == DOCUMENTS:
            note(
                f"channel.namespaces.{name}",
                f"a name is [a-z][a-z0-9_-]* here, and not {DOCUMENTS}: nothing of it is turned",
            )
        else:
            theirs = namespace_options({key: value for key, value in of.items() if key != "name"})
            of_one = _namespace(f"channel.namespaces.{name}", theirs, hooks, note, insecure=insecure, guests=guests)
            found |= {name: of_one} if of_one else {}
    of_all = next(name for name in ("cf", "centrifugo", "channels-of-centrifugo") if name not in found)
    outside = namespace_options(
        {name.removeprefix(f"{CHANNEL}."): options.get(name) for name in options.below(CHANNEL)}
    )
    found[of_all] = _namespace(CHANNEL, outside, hooks, note, insecure=insecure, guests=guests) or {"durable": False}
    return found, hooks.found, of_all


def _namespace(path: str, options: Options, hooks: _Hooks, note: Note, *, insecure: bool, guests: bool) -> Tree | None:
    """None: there is nothing like it here."""
    kind = options.get("subscription_type", "stream")
    if kind != "stream":
        note(path, f"subscription_type {str(kind)[:50]}: absent (see live documents); nothing of it is turned")
        return None
    size = _number(options, "history_size", lambda option, what: note(f"{path}.{option}", what))
    ttl = seconds(options.get("history_ttl"))
    namespace: Tree = {"durable": bool(size and ttl)}
    if size and ttl:
        namespace["history"] = {"size": size, "ttl": duration(ttl)}
    else:
        note(path, "no history there, so `durable: false`; leave that out, and no message is lost")
    if options.on("presence"):
        namespace |= {"presence": True, "join_leave": options.on("join_leave")}
    elif options.on("join_leave"):
        note(f"{path}.join_leave", "only with presence")
    endpoint = hooks.of(path, options, "subscribe"), hooks.of(path, options, "publish")
    for action, asked in zip(("subscribe", "publish"), endpoint, strict=True):
        rule = _rule(options, action, asked=bool(asked), insecure=insecure, guests=guests)
        namespace[action] = rule
    if options.on("allow_publish_for_subscriber") and namespace["publish"] == "nobody":
        if endpoint[0] is None:
            namespace["publish"] = namespace["subscribe"]
            note(f"{path}.allow_publish_for_subscriber", "whoever may subscribe may publish, subscribed or not")
        else:
            note(f"{path}.allow_publish_for_subscriber", "nobody may publish, as only a hook says who may subscribe")
    hook, unasked = hooks.join(*endpoint)
    if hook:
        namespace["hook"] = hook
    if unasked:
        namespace[unasked] = "nobody"
        note(
            f"{path}.{unasked}_proxy_enabled",
            f"a namespace has one hook: nobody may {unasked} until it asks about both",
        )
    readers = [name for name in _READ if options.get(name) is not None]
    if any(options.on(name) for name in readers) or namespace["durable"] or namespace.get("presence"):
        note(path, "whoever may subscribe may read history and presence as well")
    for name, what in _WITHOUT.items():
        if options.on(name):
            note(f"{path}.{name}", what)
    for name in options.left():
        if name not in _SILENT:
            note(f"{path}.{name}", "has no counterpart here")
    return namespace


_READ: Final = tuple(
    f"allow_{what}_for_{whom}" for what in ("history", "presence") for whom in ("anonymous", "client", "subscriber")
)
_WITHOUT: Final = {
    "allow_user_limited_channels": "names with `#` mean nothing here: see the rule `owner` (inbox:ann is ann's)",
    "allow_tags_filter": "messages have no tags",
    "allowed_delta_types": "no deltas: messages are sent whole",
    "delta_publish": "no deltas: messages are sent whole",
    "channel_regex": "a name is what has no white space and no control characters, 255 bytes at most",
    "auto_cache_recover": "no cache mode: ask for history with limit 1",
    "sub_refresh_proxy_enabled": "subscription tokens are refreshed by the client",
}
_SILENT: Final = (
    *("force_positioning", "allow_positioning", "force_recovery", "allow_recovery", "history_meta_ttl"),
    *("force_push_join_leave", "publication_data_format", "subscribe_proxy_name", "publish_proxy_name"),
    *("sub_refresh_proxy_name",),
)
"""What is always so here, or needs nothing."""


def _rule(options: Options, action: str, *, asked: bool, insecure: bool, guests: bool) -> str:
    """`asked`: a hook decides, so that the rule only has to let pass whom it is asked about."""
    anonymous, client = options.on(f"allow_{action}_for_anonymous"), options.on(f"allow_{action}_for_client")
    if insecure or anonymous or (asked and guests):
        return "anyone"
    return "user" if client or asked else "nobody"


class _Hooks:
    """Their proxies, as hooks of ours: one for each endpoint."""

    def __init__(self, options: Options, note: Note) -> None:
        self.found: Tree = {}
        self._note = note
        proxies = options.get("proxies", [])
        named = {one.get("name"): one for one in proxies if isinstance(one, dict)} if isinstance(proxies, list) else {}
        self._endpoints: dict[str, tuple[str, Any]] = {
            str(name): (str(one.get("endpoint", "")), one.get("timeout")) for name, one in named.items()
        }
        self._default: dict[str, tuple[str, Any]] = {}
        for action in ("subscribe", "publish"):
            base = f"channel.proxy.{action}"
            self._default[action] = str(options.get(f"{base}.endpoint", "")), options.get(f"{base}.timeout")

    def of(self, path: str, options: Options, action: str) -> tuple[str, Any] | None:
        """The endpoint that the namespace asks about this, and its time limit."""
        name = options.get(f"{action}_proxy_name", "")
        if not options.on(f"{action}_proxy_enabled") and not name:
            return None
        endpoint = self._default[action] if name in ("", "default") else self._endpoints.get(name, ("", None))
        if not endpoint[0].startswith(("http://", "https://")):
            self._note(f"{path}.{action}_proxy_enabled", "hooks are asked over HTTP; without one nobody may")
            return None
        return endpoint

    def join(self, subscribe: tuple[str, Any] | None, publish: tuple[str, Any] | None) -> tuple[str | None, str | None]:
        """The hook for both, and the action that it is not asked about although their proxy is."""
        if subscribe is None and publish is None:
            return None, None
        unasked = "publish" if subscribe and publish and subscribe[0] != publish[0] else None
        url, timeout = subscribe or publish or ("", None)
        actions = ["subscribe"] * (subscribe is not None) + ["publish"] * (publish is not None and unasked is None)
        hook = {"url": url, "secret": secrets.token_hex(SECRET_BYTES), "actions": actions}
        limit = seconds(timeout)
        if limit:
            hook["timeout"] = duration(limit)
        for name, known in self.found.items():
            if known | {"secret": ""} == hook | {"secret": ""}:
                return name, unasked
        name = f"proxy-{len(self.found) + 1}"
        self.found[name] = hook
        self._note(
            f"hooks.{name}",
            f"{url} is asked in our words, signed with the secret that was made for it: docs/configuration.md, Hooks",
        )
        return name, unasked


# --- values -----------------------------------------------------------------------------------------------------------


def duration(value: float) -> str:
    """Seconds as we write them."""
    size, unit = next(
        ((size, unit) for unit, size in reversed(UNITS.items()) if value >= size and value % size == 0), (0.001, "ms")
    )
    return f"{round(value / size):d}{unit}"


def _number(options: Options, path: str, note: Note, most: int = 2**53) -> int | None:
    value = options.get(path)
    if isinstance(value, str) and value.isdecimal():
        value = int(value[:20])
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most):
        return value
    note(path, f"expected a number from 0 to {most}")
    return None


def _list(value: Any) -> list[str]:
    """Lists of theirs may be written with commas, or with spaces."""
    if isinstance(value, str):
        return value.replace(",", " ").split()
    return [str(one) for one in value] if isinstance(value, list) else []
