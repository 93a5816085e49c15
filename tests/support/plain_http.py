"""Asking servers of the tests."""

from __future__ import annotations

from typing import Any

import httpx


def plain(**options: Any) -> httpx.AsyncClient:
    """A client for URLs without TLS: it need not read all the certificates of the system, which would take longer than
    most tests ask anything."""
    return httpx.AsyncClient(verify=False, trust_env=False, **options)
