"""The typed configuration: defaults < file < environment < flags.

Each section is a struct whose fields are the options, in a module of its own together with what is checked of it. What
stands below an option is its description in docs/configuration.md, which `make docs` writes. An unknown key is refused
by name. Durations are written `30s`, `100ms`, `10m`, `2h`, `30d`, or as a number of seconds. A number of 0 means no
limit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import field

from server.core.addresses import is_origin
from server.core.config.auth import ApiKey, Auth, Provider
from server.core.config.backends import MongoDB, Redis
from server.core.config.calls import Call
from server.core.config.centrifugo import Centrifugo
from server.core.config.channels import BUILT_IN, Namespace, Retention, UserRate
from server.core.config.consumers import OPPOSITES, Consumer, Retries
from server.core.config.documents import Collection
from server.core.config.hooks import Hook
from server.core.config.limits import Limits
from server.core.config.listening import Log, Metrics, Server
from server.core.config.quotas import Quota, Quotas
from server.core.config.sources import duration, merged, parse_value, where, written
from server.core.config.values import MAX_STORED, Seconds, Section, is_loopback, is_safe, parse_duration
from server.core.errors import StartError
from server.core.names import DOCUMENTS, parent_of

__all__ = [
    "BUILT_IN",
    "MAX_STORED",
    "ApiKey",
    "Auth",
    "Call",
    "Centrifugo",
    "Collection",
    "Config",
    "Consumer",
    "Hook",
    "Limits",
    "Log",
    "Metrics",
    "MongoDB",
    "Namespace",
    "Quota",
    "Quotas",
    "Redis",
    "Retention",
    "Retries",
    "Seconds",
    "Section",
    "Server",
    "UserRate",
    "is_loopback",
    "is_safe",
    "load",
    "parse_duration",
    "parse_value",
    "written",
]


class Config(Section):
    """All the sections."""

    server: Server = field(default_factory=Server)
    mongodb: MongoDB = field(default_factory=MongoDB)
    redis: Redis = field(default_factory=Redis)
    auth: Auth = field(default_factory=Auth)
    limits: Limits = field(default_factory=Limits)
    quotas: Quotas = field(default_factory=Quotas)
    log: Log = field(default_factory=Log)
    metrics: Metrics = field(default_factory=Metrics)
    origins: list[str] = field(default_factory=list)
    """browser origins that may open a WebSocket and use REST (CORS), besides the server's own; exact:
    `https://app.example.com`"""
    namespaces: dict[str, Namespace] = field(default_factory=dict)
    """what channels there are; `config.yaml` declares `chat`, `feed` and `dash`"""
    collections: dict[str, Collection] = field(default_factory=dict)
    """live documents ([documents](documents.md)): MongoDB collections of these names, made at start. A name is
    `[A-Za-z][A-Za-z0-9_-]*`, and does not begin with `mongodb.prefix`. Needs MongoDB 6.0, for the images of changed
    documents"""
    hooks: dict[str, Hook] = field(default_factory=dict)
    """your own rules, by name, see below"""
    consumers: dict[str, Consumer] = field(default_factory=dict)
    """who is told what happens, at least once and in order, by name ([consumers](consumers.md))"""
    calls: dict[str, Call] = field(default_factory=dict)
    """what of your own back end clients may call, by patterns of methods with `*` for any characters: the name itself,
    or else the longest that fits ([calls](calls.md))"""
    centrifugo: Centrifugo = field(default_factory=Centrifugo)

    def retention(self, channel: str) -> Retention | None:
        """What is declared for a channel; None: it is not declared any more."""
        kind, _, rest = parent_of(channel).partition(":")
        if kind == DOCUMENTS:
            declared: Collection | Namespace | None = self.collections.get(rest)
        else:
            declared = self.namespaces.get(kind) or BUILT_IN.get(kind)
        return None if declared is None else declared.history

    def known_namespaces(self) -> dict[str, Namespace]:
        """Those that are declared, and those that are built in."""
        return {**self.namespaces, **BUILT_IN}

    def wanted_events(self) -> frozenset[str]:
        """What any consumer is to be told of; of two that are opposites both, if one is."""
        wanted = {kind for consumer in self.consumers.values() for kind in consumer.events}
        return frozenset(kind for pair in OPPOSITES for kind in pair if wanted.intersection(pair))

    def quotas_enforced(self) -> bool:
        """`quotas.enforced`, where null is worked out."""
        return bool(self.limits.messages_per_second) if self.quotas.enforced is None else self.quotas.enforced

    def check(self) -> None:
        """StartError for what is wrong, by its path."""
        if not is_loopback(self.server.host) and self.auth.guests and not self.auth.public_guests:
            raise StartError(
                f"server.host {self.server.host} is public while auth.guests lets anybody in; "
                "set auth.guests=false, or say auth.public_guests=true as well if that is meant"
            )
        if not is_loopback(self.server.host) and self.auth.allow_short_secret:
            raise StartError(
                f"auth.allow_short_secret is for development: server.host {self.server.host} is not loopback"
            )
        if self.auth.development and not is_loopback(self.server.host):
            raise StartError(f"auth.development is for development: server.host {self.server.host} is not loopback")
        if self.auth.development and self.server.trusted_proxies:
            raise StartError("auth.development is for development: server.trusted_proxies says that there is a proxy")
        if self.centrifugo.namespace is not None and self.centrifugo.namespace not in self.namespaces:
            raise StartError(
                f"configuration: centrifugo.namespace: {self.centrifugo.namespace} is not under namespaces"
            )
        for path in ("server", "mongodb", "redis", "auth"):
            getattr(self, path).check(f"configuration: {path}")
        for number, origin in enumerate(self.origins):
            if not is_origin(origin):  # it would never be let in, and nobody would know why
                raise StartError(
                    f"configuration: origins[{number}]: {origin!r} is none: as in https://app.example.com, nothing "
                    "behind the host and its port"
                )
        if self.auth.passkeys:
            self.auth.check_passkeys("configuration: auth", self.server.public_url, self.origins)
        for path in ("namespaces", "collections", "hooks", "consumers", "calls"):
            for name, entry in getattr(self, path).items():
                entry.check(f"configuration: {path}.{name}")
                hook = getattr(entry, "hook", None)
                if hook is not None and hook not in self.hooks:
                    raise StartError(f"configuration: {path}.{name}.hook: {hook} is not under hooks")
        for name, namespace in self.namespaces.items():
            if not namespace.patterns:
                continue
            if namespace.members:
                raise StartError(
                    f"configuration: namespaces.{name}.patterns: not with members, whose rights may change"
                )
            if self.redis.sharded:
                raise StartError(f"configuration: namespaces.{name}.patterns: not with redis.sharded, which has none")
            if namespace.hook is not None and "subscribe" in self.hooks[namespace.hook].actions:
                raise StartError(
                    f"configuration: namespaces.{name}.patterns: its hook {namespace.hook} is asked about each channel "
                    "that is subscribed to; let its actions be others"
                )
        asked = [name for name, hook in self.hooks.items() if "connect" in hook.actions]
        if len(asked) > 1:
            raise StartError(f"configuration: hooks: {', '.join(asked)}: only one is asked about connect")
        for name in self.collections:
            if name.startswith(self.mongodb.prefix) or name == "waterspout_outbox":
                raise StartError(
                    f"configuration: collections.{name}: waterspout_outbox and {self.mongodb.prefix}… are the server's"
                )


_NAMED: Final = {
    "namespaces": Namespace,
    "collections": Collection,
    "hooks": Hook,
    "consumers": Consumer,
    "calls": Call,
    "auth.api_keys": ApiKey,
    "auth.oidc": Provider,
}
"""Sections whose entries have names of the user's own."""


def load(file: Path | None, environment: Mapping[str, str], flags: Iterable[tuple[str, Any]]) -> Config:
    """The configuration that these sources make (see `merged`); `StartError` names the key that is wrong."""
    tree = merged(file, environment, flags)
    try:
        config: Config = msgspec.convert(tree, Config, dec_hook=duration)
    except msgspec.ValidationError as error:
        raise StartError(f"configuration: {where(str(error), tree, _NAMED)}") from None
    config.check()
    return config
