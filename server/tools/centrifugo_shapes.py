"""Centrifugo's configuration as it is written: the shape of its version 6, and that of version 5 put into it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

Tree = dict[str, Any]

CHANNEL: Final = "channel.without_namespace"
OPTIONS: Final = frozenset(
    (
        *("presence", "join_leave", "force_push_join_leave", "history_size", "history_ttl", "history_meta_ttl"),
        *("force_positioning", "allow_positioning", "force_recovery", "allow_recovery", "force_recovery_mode"),
        *("auto_cache_recover", "allowed_delta_types", "delta_publish", "allow_tags_filter"),
        *("allow_subscribe_for_anonymous", "allow_subscribe_for_client"),
        *("allow_publish_for_anonymous", "allow_publish_for_client", "allow_publish_for_subscriber"),
        *("allow_presence_for_anonymous", "allow_presence_for_client", "allow_presence_for_subscriber"),
        *("allow_history_for_anonymous", "allow_history_for_client", "allow_history_for_subscriber"),
        *("allow_user_limited_channels", "channel_regex", "publication_data_format", "subscription_type"),
        *("subscribe_proxy_enabled", "subscribe_proxy_name", "publish_proxy_enabled", "publish_proxy_name"),
        *("sub_refresh_proxy_enabled", "sub_refresh_proxy_name"),
    )
)
"""Of a namespace, and in version 5 at the top for channels that are in none."""

_RENAMED_OPTIONS: Final = {
    "proxy_subscribe": "subscribe_proxy_enabled",
    "proxy_publish": "publish_proxy_enabled",
    "proxy_sub_refresh": "sub_refresh_proxy_enabled",
}
_VERSION_5: Final = {
    "address": "http_server.address",
    "port": "http_server.port",
    "allowed_origins": "client.allowed_origins",
    "allow_anonymous_connect_without_token": "client.allow_anonymous_connect_without_token",
    "disallow_anonymous_connection_tokens": "client.disallow_anonymous_connection_tokens",
    "api_key": "http_api.key",
    "api_insecure": "http_api.insecure",
    "admin": "admin.enabled",
    "admin_password": "admin.password",
    "admin_secret": "admin.secret",
    "health": "health.enabled",
    "prometheus": "prometheus.enabled",
    "swagger": "swagger.enabled",
    "debug": "debug.enabled",
    "sse": "sse.enabled",
    "http_stream": "http_stream.enabled",
    "uni_sse": "uni_sse.enabled",
    "uni_http_stream": "uni_http_stream.enabled",
    "uni_websocket": "uni_websocket.enabled",
    "uni_grpc": "uni_grpc.enabled",
    "webtransport": "webtransport.enabled",
    "grpc_api": "grpc_api.enabled",
    "log_level": "log.level",
    "log_file": "log.file",
    "name": "node.name",
    "shutdown_timeout": "shutdown.timeout",
    "engine": "engine.type",
    "broker": "broker.type",
    "namespaces": "channel.namespaces",
    "channel_max_length": "channel.max_length",
    "user_subscribe_to_personal": "client.subscribe_to_user_personal_channel.enabled",
    "user_personal_channel_namespace": "client.subscribe_to_user_personal_channel.personal_channel_namespace",
    "global_history_meta_ttl": "channel.history_meta_ttl",
    "websocket_message_size_limit": "websocket.message_size_limit",
    "client_insecure": "client.insecure",
    "proxy_connect_endpoint": "client.proxy.connect.endpoint",
    "proxy_connect_timeout": "client.proxy.connect.timeout",
    "proxy_refresh_endpoint": "client.proxy.refresh.endpoint",
    "proxy_refresh_timeout": "client.proxy.refresh.timeout",
    "proxy_subscribe_endpoint": "channel.proxy.subscribe.endpoint",
    "proxy_subscribe_timeout": "channel.proxy.subscribe.timeout",
    "proxy_publish_endpoint": "channel.proxy.publish.endpoint",
    "proxy_publish_timeout": "channel.proxy.publish.timeout",
    "proxy_sub_refresh_endpoint": "channel.proxy.sub_refresh.endpoint",
    "proxy_sub_refresh_timeout": "channel.proxy.sub_refresh.timeout",
    "proxy_rpc_endpoint": "rpc.proxy.endpoint",
    "proxy_rpc_timeout": "rpc.proxy.timeout",
    "tls": "http_server.tls.enabled",
    "redis_tls": "engine.redis.tls.enabled",
}
_PREFIXES: Final = {
    "token_": "client.token.",
    "redis_": "engine.redis.",
    "client_": "client.",
    "websocket_": "websocket.",
    "admin_": "admin.",
    "grpc_api_": "grpc_api.",
}
"""Of version 5's names, after the names above."""
_DURATION: Final = re.compile(r"(?:\d+(?:\.\d+)?(?:ns|us|µs|ms|s|m|h|d))+")
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h|d)")
_SECONDS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600, "d": 86400}


class Options:
    """Options by their dotted paths; it remembers which of them somebody has asked for."""

    def __init__(self, tree: Mapping[str, Any]) -> None:
        self._values = dict(_flat(tree))
        self._asked: set[str] = set()

    def get(self, path: str, default: Any = None) -> Any:
        self._asked.add(path)
        value = self._values.get(path)
        return default if value is None else value

    def on(self, path: str) -> bool:
        return bool(self.get(path))

    def below(self, section: str) -> list[str]:
        return [path for path in self._values if path.startswith(f"{section}.")]

    def left(self) -> list[str]:
        """What is switched on or said, and nobody has asked for."""
        return sorted(path for path, value in self._values.items() if value and path not in self._asked)


def normal(tree: Mapping[str, Any]) -> Tree:
    """In the shape of version 6, whichever it is in. What neither knows stays where it is."""
    found: Tree = {}
    for name, value in tree.items():
        path = name
        if not isinstance(value, dict):  # in version 6 only sections stand at the top
            if name in OPTIONS or name in _RENAMED_OPTIONS:
                path = f"{CHANNEL}.{_RENAMED_OPTIONS.get(name, name)}"
            elif name in _VERSION_5:
                path = _VERSION_5[name]
            else:
                prefix = next((one for one in _PREFIXES if name.startswith(one)), None)
                path = name if prefix is None else _PREFIXES[prefix] + name.removeprefix(prefix)
        _put(found, path.split("."), value)
    return found


def namespace_options(tree: Mapping[str, Any]) -> Options:
    """Of one namespace, in version 6's words."""
    return Options({_RENAMED_OPTIONS.get(name, name): value for name, value in tree.items()})


def seconds(value: Any) -> float | None:
    """Of a duration such as `300s` or `1h30m`; None: it is none."""
    if not isinstance(value, str) or not _DURATION.fullmatch(value):
        return None
    return sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(value))


def _put(tree: Tree, path: list[str], value: Any) -> None:
    for part in path[:-1]:
        below = tree.setdefault(part, {})
        if not isinstance(below, dict):
            return
        tree = below
    if isinstance(value, dict) and isinstance(tree.get(path[-1]), dict):
        for name, one in value.items():
            _put(tree[path[-1]], [name], one)
    else:
        tree[path[-1]] = value


def _flat(tree: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value
