"""Centrifugo's configuration becomes one of ours that starts, is no wider, and says what it could not take along."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from run import main
from server.core import config
from server.core.config import Config, Hook, Namespace, Retention, Seconds
from server.core.errors import StartError
from server.tools.import_centrifugo import convert, run

SECRET = "a secret of at least thirty-two bytes"

VERSION_6: dict[str, Any] = {
    "client": {
        "allowed_origins": ["https://app.example", "*"],
        "token": {"hmac_secret_key": SECRET, "issuer": "me", "audience": "them", "audience_regex": "^x"},
        "channel_limit": 64,
        "user_connection_limit": 3,
        "ping_interval": "30s",
    },
    "http_server": {"address": "127.0.0.1", "port": 9000, "tls": {"enabled": True}},
    "http_api": {"key": "the api key"},
    "log": {"level": "warn"},
    "engine": {"type": "redis", "redis": {"address": "redis://127.0.0.1:6380", "prefix": "rt"}},
    "sse": {"enabled": True},
    "admin": {"enabled": True, "password": "hunter2"},
    "consumers": [{"name": "k", "enabled": True, "type": "kafka"}],
    "node": {"name": "one"},
    "proxies": [{"name": "back", "endpoint": "http://127.0.0.1:3000/ask", "timeout": "1500ms"}],
    "channel": {
        "without_namespace": {"allow_subscribe_for_client": True, "presence": True},
        "namespaces": [
            {
                "name": "chat",
                "history_size": 100,
                "history_ttl": "1h30m",
                "presence": True,
                "join_leave": True,
                "allow_subscribe_for_client": True,
                "allow_publish_for_subscriber": True,
                "force_recovery": True,
                "allowed_delta_types": ["fossil"],
            },
            {"name": "public", "allow_subscribe_for_anonymous": True, "history_size": 10, "history_ttl": "720h"},
            {"name": "asked", "subscribe_proxy_enabled": True, "subscribe_proxy_name": "back"},
            {"name": "Upper", "presence": True},
            {"name": "places", "subscription_type": "map"},
        ],
    },
}
VERSION_5: dict[str, Any] = {
    "token_hmac_secret_key": SECRET,
    "allowed_origins": ["https://app.example", "*"],
    "token_issuer": "me",
    "token_audience": "them",
    "client_channel_limit": 64,
    "client_user_connection_limit": 3,
    "address": "127.0.0.1",
    "port": "9000",
    "tls": True,
    "api_key": "the api key",
    "log_level": "warn",
    "engine": "redis",
    "redis_address": "redis://127.0.0.1:6380",
    "redis_prefix": "rt",
    "sse": True,
    "admin": True,
    "admin_password": "hunter2",
    "name": "one",
    "proxy_subscribe_endpoint": "http://127.0.0.1:3000/ask",
    "proxy_subscribe_timeout": "1500ms",
    "allow_subscribe_for_client": True,
    "presence": True,
    "namespaces": [
        *VERSION_6["channel"]["namespaces"][:2],
        {"name": "asked", "proxy_subscribe": True},
        {"name": "Upper", "presence": True},
    ],
}


def loaded(tree: dict[str, Any], tmp_path: Path) -> tuple[Config, dict[str, str]]:
    """As the server would load what is made of it, and the notes."""
    ours, notes = convert(tree)
    file = tmp_path / "made.yaml"
    file.write_text(config.written(ours))
    return config.load(file, {}, []), dict(notes)


@pytest.mark.parametrize("tree", [VERSION_6, VERSION_5], ids=["version 6", "version 5"])
def test_both_shapes_become_the_same(tree: dict[str, Any], tmp_path: Path) -> None:
    """Address, keys, limits, Redis, namespaces with history, presence and rights, and a proxy as a hook."""
    made, notes = loaded(tree, tmp_path)
    assert (made.server.host, made.server.port, made.log.level) == ("127.0.0.1", 9000, "warning")
    assert (made.auth.secret, made.auth.issuer, made.auth.audience, made.auth.guests) == (SECRET, "me", "them", False)
    assert (made.redis.url, made.redis.prefix) == ("redis://127.0.0.1:6380", "rt")
    assert (made.limits.channels_per_connection, made.limits.connections_per_user) == (64, 3)
    assert made.origins == ["https://app.example"]
    assert made.auth.api_keys["backend"].admin
    assert (made.centrifugo.enabled, made.centrifugo.namespace) == (True, "cf")
    assert (made.centrifugo.sse, made.centrifugo.http_stream, made.centrifugo.api) == (True, False, True)
    (hook,) = made.hooks
    chat = Retention(size=100, ttl=Seconds(5400))
    assert made.namespaces == {
        "chat": Namespace(history=chat, presence=True, subscribe="user", publish="user"),
        "public": Namespace(history=Retention(size=10, ttl=Seconds(30 * 86400)), subscribe="anyone"),
        "asked": Namespace(durable=False, subscribe="user", hook=hook),
        "cf": Namespace(durable=False, presence=True, join_leave=False, subscribe="user"),
    }
    asked = made.hooks[hook]
    assert asked == Hook(
        url="http://127.0.0.1:3000/ask", secret=asked.secret, timeout=Seconds(1.5), actions=["subscribe"]
    )
    for option in (
        *("client.allowed_origins", "channel.namespaces.Upper", "channel.namespaces.chat.allowed_delta_types"),
        *("admin.enabled", "admin.password", "http_server.tls.enabled", "client.token", f"hooks.{hook}"),
    ):
        assert notes[option], option
    assert "node.name" not in notes
    assert "hunter2" not in str(notes)


def test_what_has_no_counterpart_is_named(tmp_path: Path) -> None:
    """Each option that is on, with what there is instead."""
    made, notes = loaded(VERSION_6, tmp_path)
    assert "places" not in made.namespaces
    assert "documents" in notes["channel.namespaces.places"]
    assert "25 s" in notes["client.ping_interval"]
    assert {"consumers", "client.token.audience_regex"} <= notes.keys()
    _, notes = loaded({"nonsense": {"here": 1}, "grpc_api": {"enabled": True}}, tmp_path)
    assert notes["nonsense.here"] == "has no counterpart here"
    assert notes["grpc_api.enabled"] == "HTTP only"


def test_nobody_gets_a_right_that_they_had_not(tmp_path: Path) -> None:
    """Nothing allowed is nobody; two endpoints where we have one hook, and gRPC, close what they would have decided."""
    tree = {
        "channel": {
            "proxy": {
                "subscribe": {"endpoint": "http://127.0.0.1:1/a"},
                "publish": {"endpoint": "http://127.0.0.1:1/b"},
            },
            "namespaces": [
                {"name": "none"},
                {"name": "both", "subscribe_proxy_enabled": True, "publish_proxy_enabled": True},
                {"name": "grpc", "subscribe_proxy_enabled": True, "subscribe_proxy_name": "g"},
                {"name": "writers", "subscribe_proxy_enabled": True, "allow_publish_for_subscriber": True},
            ],
        },
        "proxies": [{"name": "g", "endpoint": "grpc://127.0.0.1:12000"}],
    }
    made, notes = loaded(tree, tmp_path)
    rights = {name: (one.subscribe, one.publish, one.hook) for name, one in made.namespaces.items()}
    assert rights == {
        "none": ("nobody", "nobody", None),
        "both": ("user", "nobody", "proxy-1"),
        "grpc": ("nobody", "nobody", None),
        "writers": ("user", "nobody", "proxy-1"),
        "cf": ("nobody", "nobody", None),
    }
    assert {"channel.namespaces.both.publish_proxy_enabled", "channel.namespaces.grpc.subscribe_proxy_enabled"} <= {
        *notes
    }


@pytest.mark.parametrize(
    ("redis", "url"),
    [
        ({"address": ["127.0.0.1:6379"]}, "redis://127.0.0.1:6379"),
        ({"address": "127.0.0.1:6379", "password": "p/w", "db": 2}, "redis://:p%2Fw@127.0.0.1:6379/2"),
        ({"address": "127.0.0.1:6379", "tls": {"enabled": True}}, "rediss://127.0.0.1:6379"),
        (
            {"sentinel_address": "127.0.0.1:1,127.0.0.1:2", "sentinel_master_name": "m"},
            "redis+sentinel://127.0.0.1:1,127.0.0.1:2/m",
        ),
        ({"cluster_address": ["127.0.0.1:1", "127.0.0.1:2"]}, "redis+cluster://127.0.0.1:1,127.0.0.1:2"),
        ({"address": "redis+sentinel://127.0.0.1:1?sentinel_master_name=m"}, None),
    ],
)
def test_redis(redis: dict[str, Any], url: str | None, tmp_path: Path) -> None:
    """One server, with credentials or TLS, Sentinel, Cluster; what is written in another way is named."""
    made, notes = loaded({"engine": {"type": "redis", "redis": redis}}, tmp_path)
    assert made.redis.url == url
    assert ("engine.redis.address" in notes) == (url is None)


def test_a_short_secret_is_not_taken(tmp_path: Path) -> None:
    """It is named, and stands neither in the configuration nor in the notes."""
    made, notes = loaded({"token_hmac_secret_key": "hunter2"}, tmp_path)
    assert made.auth.secret is None
    assert "32 bytes" in notes["client.token.hmac_secret_key"]
    assert "hunter2" not in str(notes)


def test_the_command_prints_a_configuration_with_its_notes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """YAML on standard output, which the server takes as it is; the notes are comments in it, and on standard error."""
    file = tmp_path / "config.json"
    file.write_text(json.dumps(VERSION_6))
    assert main(["import-centrifugo", str(file)]) == 0
    printed = capsys.readouterr()
    assert yaml.safe_load(printed.out)["centrifugo"]["namespace"] == "cf"
    assert "#   consumers: " in printed.out
    assert "consumers: " in printed.err
    made = tmp_path / "made.yaml"
    made.write_text(printed.out)
    assert main(["--config", str(made), "--check-config"]) == 0


@pytest.mark.parametrize("text", ["", "{", "[]", "listen = 3", '"x"'])
def test_what_is_no_configuration_is_one_line(text: str, tmp_path: Path) -> None:
    """The file is named, without what stands in it."""
    file = tmp_path / "config.json"
    file.write_text(text)
    with pytest.raises(StartError, match=r"config\.json") as caught:
        run(file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "tree",
    [
        {"channel": {"namespaces": 7}},
        {"channel": {"namespaces": [7, {}, {"name": 3}, {"name": "x", "history_size": "many", "history_ttl": "1h"}]}},
        {"channel": 3, "client": [], "http_server": {"port": "x"}, "engine": None},
        {"proxies": [3], "client": {"allowed_origins": 9, "token": "x"}, "log": {"level": ["x"]}},
        {"http_server": {"port": 99999999}, "websocket": {"message_size_limit": -1}},
    ],
)
def test_wrong_types_still_make_a_configuration(tree: dict[str, Any], tmp_path: Path) -> None:
    """What cannot be read is left out."""
    loaded(tree, tmp_path)
