"""The server as foreign clients' own tests expect theirs: on port 8000, with `secret` for a secret."""

from __future__ import annotations

import hashlib
from typing import Any

from tests.support.processes import UNLIMITED

SECRET = "secret"
API_KEY = "test-api-key"
EVERYBODY = {"publish": "anyone", "subscribe": "anyone"}
SHORT = {"size": 100, "ttl": "300s"}

SETTINGS: dict[str, Any] = UNLIMITED | {
    "centrifugo": {"enabled": True, "namespace": "cf", "sse": True, "tokens_without_exp": True},
    "auth.secret": SECRET,
    "auth.allow_short_secret": True,
    "auth.api_keys": {
        "tests": {
            "sha256": hashlib.sha256(API_KEY.encode()).hexdigest(),
            "admin": True,
            "channels": {"*": ["publish", "subscribe"]},
        }
    },
    "quotas.enforced": False,
    "limits.requests_per_second": 0,
    "limits.cost_per_second": 0,
    "limits.connections": 0,
    "namespaces.cf": {"presence": True, "history": SHORT, **EVERYBODY},
    "namespaces.example": {"presence": True, "history": SHORT, **EVERYBODY},
    "namespaces.recovery": {"history": SHORT, **EVERYBODY},
    "namespaces.delta": {"history": SHORT, **EVERYBODY},
    "namespaces.smallhistory": {"history": {"size": 2, "ttl": "300s"}, **EVERYBODY},
}
