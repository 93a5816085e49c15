"""For operators: health, readiness, the request log, and the pages."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, exposition
from prometheus_client.openmetrics import exposition as openmetrics
from tornado.web import HTTPError, RequestHandler, StaticFileHandler

from handlers.base import BaseHandler
from handlers.operations import operation
from server.core.errors import NOTABLE, Error
from server.node import Node
from server.wire.codec import JSON
from server.wire.rest import HealthStatus, ReadinessQuery, ReadinessStatus

logger = logging.getLogger("waterspout.access")

ROOT = Path(__file__).resolve().parents[1]
STATIC = ROOT / "static"
ONLY_JSON = (JSON.media_type,)
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self' ws: wss:; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Health(BaseHandler):
    async def admit(self, method: str) -> None:
        pass

    @operation("Whether the process is alive", {200: HealthStatus}, media_types=ONLY_JSON)
    async def get(self) -> None:
        """It answers, and its event loop turns."""
        self.answer({"status": "ok"})


class Readiness(BaseHandler):
    async def admit(self, method: str) -> None:
        pass

    @operation("Whether it can do its work", {200: ReadinessStatus, 503: ReadinessStatus}, media_types=ONLY_JSON)
    async def get(self, query: ReadinessQuery) -> None:
        """200 ready or degraded, 503 down, and why."""
        status, reasons = await self.node.readiness()
        strict = query.strict == "1"
        body = {"status": status} if status == "ready" else {"status": status, "reasons": reasons}
        self.answer(body, 503 if status == "down" or (strict and status != "ready") else 200)


class Metrics(BaseHandler):
    def initialize(  # type: ignore[override]  # Tornado's way: the route's own arguments
        self, node: Node, registry: CollectorRegistry, keyless: bool = False
    ) -> None:
        super().initialize(node)
        self._registry = registry
        self._keyless = keyless

    async def admit(self, method: str) -> None:
        if self._keyless:
            return
        principal = await self.authenticate()
        if not principal.admin:
            code = "permission_denied" if principal.user else "unauthenticated"
            raise Error(code, "Authorization: metrics need an API key that is admin")

    @operation("Metrics for Prometheus", {200: str}, media_types=("text/plain", "application/openmetrics-text"))
    async def get(self) -> None:
        """As text or OpenMetrics: on a port of its own, or with an API key that is `admin`."""
        await self.node.readiness()  # looks at MongoDB, if nobody has for a second
        wanted = "application/openmetrics-text" in self.request.headers.get("Accept", "")
        form = openmetrics if wanted else exposition
        self.set_header("Content-Type", form.CONTENT_TYPE_LATEST)
        self.finish(form.generate_latest(self._registry))


class Page(StaticFileHandler):
    """A file as it is, with a strict Content-Security-Policy. Nothing of it is secret, so pages of other origins may
    import the client from here."""

    def get_content_type(self) -> str:
        named = "." in str(self.absolute_path).rpartition("/")[2]
        return super().get_content_type() if named else "text/plain; charset=utf-8"

    def compute_etag(self) -> str:
        """Of the file as it is now: who edits a page sees it. (Tornado remembers the first one it has seen.)"""
        return f'"{self.get_content_version(self.absolute_path or "")}"'

    def set_extra_headers(self, path: str) -> None:
        self.set_header("Access-Control-Allow-Origin", "*")
        self.set_header("Content-Security-Policy", CONTENT_SECURITY_POLICY)
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Referrer-Policy", "no-referrer")
        self.set_header("Cache-Control", "no-cache")

    def log_exception(self, kind: Any, error: Any, trace: Any) -> None:
        """As in `BaseHandler`: never the query."""
        if not isinstance(error, HTTPError):
            logger.error("%s failed", self.request.path, exc_info=(kind, error, trace))


def log_request(handler: RequestHandler) -> None:
    """The path without its query, which may hold secrets."""
    status = handler.get_status()
    asked_again = isinstance(handler, Readiness)  # several times a second, by probes: a 503 is their answer
    level = logging.DEBUG if status < 400 or asked_again else logging.ERROR if status == 500 else logging.INFO
    if not logger.isEnabledFor(level):
        return
    about, reason = {"ip": handler.request.remote_ip}, ""
    if isinstance(handler, BaseHandler):
        about = handler.about()
        if handler.refusal is not None and handler.refusal.code in NOTABLE:
            reason = f": {handler.refusal.reason}"
    request, took = handler.request, 1000 * handler.request.request_time()
    logger.log(level, "%d %s %s %.1f ms%s", status, request.method, request.path, took, reason, extra=about)
