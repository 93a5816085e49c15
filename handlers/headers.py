"""The headers of a request, as handlers look at them."""

from __future__ import annotations

from typing import overload

from tornado.httputil import HTTPHeaders


class Headers:
    """By name, whatever its case. What Tornado's have beside that costs more with each look. Requests may share one."""

    __slots__ = ("size", "_values")

    def __init__(self, headers: HTTPHeaders) -> None:
        self.size = 0
        """Bytes that they took on the wire."""
        self._values: dict[str, str] = {}
        for name, value in headers.get_all():
            self.size += len(name) + len(value) + 4
            name = name.lower()
            self._values[name] = f"{self._values[name]},{value}" if name in self._values else value

    @overload
    def get(self, name: str) -> str | None: ...
    @overload
    def get(self, name: str, default: str) -> str: ...
    def get(self, name: str, default: str | None = None) -> str | None:
        return self._values.get(name.lower(), default)

    def __contains__(self, name: str) -> bool:
        return name.lower() in self._values
