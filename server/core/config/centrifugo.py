"""The door for clients and back ends that speak Centrifugo's protocol: `centrifugo`."""

from __future__ import annotations

from server.core.config.values import Section


class Centrifugo(Section):
    enabled: bool = False
    """clients of Centrifugo are let in, at `/connection/…`, and back ends at `/api` ([how](centrifugo.md))"""
    namespace: str | None = None
    """one of `namespaces`: where their channels without `:` live; `news` is `cf:news` for our own clients, if this is
    `cf`. Null: such names are refused"""
    http_stream: bool = True
    """`/connection/http_stream`, for networks that break WebSockets"""
    sse: bool = False
    """`/connection/sse`, whose token stands in the URL"""
    api: bool = True
    """`/api`, for back ends with one of `auth.api_keys`"""
    tokens_without_exp: bool = False
    """at `/connection/…` a token without `exp` is taken, and is good until it is revoked (without `sub`: by its
    `jti`, whatever user is named)"""
