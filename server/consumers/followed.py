"""Which consumers follow which channels, by their patterns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from server.core.names import matches

REMEMBERED: Final = 20_000
"""Channels of which it is remembered who follows them."""
MANY: Final = 4
"""Patterns of one namespace, above which the whole namespace is looked through instead of each pattern's part."""


class Followed:
    """`patterns`: consumer → names and patterns; `namespaces`: those that `*` in front of the colon stands for."""

    def __init__(self, patterns: Mapping[str, Sequence[str]], namespaces: Iterable[str]) -> None:
        self._namespaces = list(namespaces)
        self._by_namespace: dict[str, list[tuple[str, str]]] = {}
        self._known: dict[str, tuple[str, ...]] = {}
        for consumer, some in patterns.items():
            for pattern in some:
                for namespace in self._of(pattern):
                    self._by_namespace.setdefault(namespace, []).append((consumer, pattern))

    def _of(self, pattern: str) -> list[str]:
        namespace = pattern.partition(":")[0]
        return self._namespaces if namespace == "*" else [namespace]

    def by(self, channel: str) -> tuple[str, ...]:
        """The consumers that follow the channel."""
        found = self._known.get(channel)
        if found is None:
            some = self._by_namespace.get(channel.partition(":")[0], ())
            found = tuple(dict.fromkeys(consumer for consumer, pattern in some if matches(pattern, channel)))
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            self._known[channel] = found
        return found

    def ranges(self) -> tuple[list[str], list[str]]:
        """(prefixes, names): the channels that anybody follows begin with one of the former, or are one of the latter;
        none is in both."""
        prefixes: set[str] = set()
        names: set[str] = set()
        for namespace, some in self._by_namespace.items():
            of_this: set[str] = set()
            for _, pattern in some:
                rest = pattern.partition(":")[2] if ":" in pattern else "*"
                if "*" in rest:
                    of_this.add(f"{namespace}:{rest.partition('*')[0]}")
                else:
                    names.add(f"{namespace}:{rest}")
            prefixes |= {f"{namespace}:"} if len(of_this) > MANY else of_this
        whole = [one for one in sorted(prefixes) if not any(one.startswith(other) for other in prefixes - {one})]
        return whole, sorted(name for name in names if not name.startswith(tuple(whole) or ("\0",)))
