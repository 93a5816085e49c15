"""For operators: health, readiness, metrics."""

from __future__ import annotations

from prometheus_client import exposition
from prometheus_client.openmetrics import exposition as openmetrics

from handlers.base import BaseHandler, OpenHandler
from handlers.operations import operation
from server.core.errors import Error
from server.wire.codec import JSON
from server.wire.rest import HealthStatus, ReadinessQuery, ReadinessStatus

ONLY_JSON = (JSON.media_type,)


class Health(OpenHandler):
    answers_always = True

    @operation("Whether the process is alive", {200: HealthStatus}, media_types=ONLY_JSON)
    async def get(self) -> None:
        """It answers, and its event loop turns."""
        self.answer({"status": "ok"})


class Readiness(OpenHandler):
    answers_always = True
    logged = False
    """Probes ask several times a second: a 503 is their answer, and no news."""

    @operation("Whether it can do its work", {200: ReadinessStatus, 503: ReadinessStatus}, media_types=ONLY_JSON)
    async def get(self, query: ReadinessQuery) -> None:
        """200 ready or degraded, 503 down, and why."""
        status, reasons = await self.node.readiness()
        strict = query.strict == "1"
        body = {"status": status} if status == "ready" else {"status": status, "reasons": reasons}
        self.answer(body, 503 if status == "down" or (strict and status != "ready") else 200)


class Metrics(BaseHandler):
    async def admit(self, method: str) -> None:
        if self.site.keyless or method == "OPTIONS":
            self._check_method(method)
            return
        await super().admit(method)
        if not self.principal.admin:
            code = "permission_denied" if self.principal.user else "unauthenticated"
            raise Error(code, "Authorization: metrics need an API key that is admin")

    @operation("Metrics for Prometheus", {200: str}, media_types=("text/plain", "application/openmetrics-text"))
    async def get(self) -> None:
        """As text or OpenMetrics: on a port of its own, or with an API key that is `admin`."""
        await self.node.readiness()  # looks at MongoDB, if nobody has for a second
        wanted = "application/openmetrics-text" in self.request.headers.get("Accept", "")
        form = openmetrics if wanted else exposition
        self.set_header("Content-Type", form.CONTENT_TYPE_LATEST)
        self.finish(form.generate_latest(self.site.registry))
