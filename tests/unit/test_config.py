"""The configuration: what is refused is named, and the file in the repository tells everything there is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from server.core.config import (
    ApiKey,
    Auth,
    Centrifugo,
    Collection,
    Config,
    Limits,
    MongoDB,
    Namespace,
    Redis,
    Retention,
    Seconds,
    Server,
    is_loopback,
    load,
    parse_value,
)
from server.core.errors import StartError

FILE = Path(__file__).resolve().parents[2] / "config.yaml"


def configure(tree: Any = None, environment: dict[str, str] | None = None, **flags: Any) -> Config:
    """A configuration from a tree as a file would give it; flags are spelled with `__` for dots."""
    pairs = [(name.replace("__", "."), value) for name, value in flags.items()]
    return load(None, environment or {}, [*(tree or {}).items(), *pairs])


def refusal(tree: Any = None, environment: dict[str, str] | None = None, **flags: Any) -> str:
    with pytest.raises(StartError) as caught:
        configure(tree, environment, **flags)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("tree", "named"),
    [
        ({"sever": {}}, "unknown key sever"),
        ({"server": {"prot": 1}}, "unknown key server.prot"),
        ({"mongodb": {"url": "x"}}, "unknown key mongodb.url"),
        ({"limits": {"message_byte": 1}}, "unknown key limits.message_byte"),
        ({"namespaces": {"room": {"unknown key namespaces.room.colour": 1}}}, "colour"),
        ({"namespaces": {"room": {"history": {"days": 1}}}}, "unknown key namespaces.room.history.days"),
        ({"auth": {"api_keys": {"shop": {"key": "x"}}}}, "key"),
    ],
)
def test_an_unknown_key_is_refused_by_name(tree: Any, named: str) -> None:
    """A misspelled option does not pass in silence."""
    assert named in refusal(tree)


@pytest.mark.parametrize(
    ("tree", "named"),
    [
        ({"server": {"port": "http"}}, "server.port"),
        ({"server": {"port": 65536}}, "server.port"),
        ({"limits": {"burst": -1}}, "limits.burst"),
        ({"origins": "https://a"}, "origins"),
        ({"origins": ["https://a", "https://["]}, "origins[1]"),
        ({"origins": ["https://a/"]}, "origins[0]"),
        ({"origins": ["https://*.a"]}, "origins[0]"),
        ({"origins": ["a.example"]}, "origins[0]"),
        ({"origins": ["https://a:port"]}, "origins[0]"),
        ({"server": None}, "server"),
        ({"mongodb": {"shards": 0}}, "mongodb.shards"),
        ({"auth": {"guests": "yes please"}}, "auth.guests"),
    ],
)
def test_a_wrong_value_is_refused_by_its_place(tree: Any, named: str) -> None:
    """The place of a wrong value is in the one line the operator gets."""
    assert named in refusal(tree)


def test_flags_beat_environment_beats_file_beats_defaults(tmp_path: Path) -> None:
    """Flags > environment > file > defaults, option by option."""
    file = tmp_path / "c.yaml"
    file.write_text("server: {host: 127.0.0.2, port: 1, data_dir: file}\nlimits: {burst: 7}\n")
    environment = {"WATERSPOUT__SERVER__PORT": "2", "WATERSPOUT__SERVER__DATA_DIR": "env", "OTHER": "x", "PORT": "9"}
    config = load(file, environment, [("server.data_dir", "flag")])
    assert config.server == Server(host="127.0.0.2", port=2, data_dir="flag")
    assert config.limits == Limits(burst=7)


def test_environment_values_are_yaml() -> None:
    """A variable may hold any YAML; an unknown one with our prefix is refused like any key."""
    config = configure(environment={
        "WATERSPOUT__NAMESPACES__ROOM": "{publish: user}", "WATERSPOUT__AUTH__GUESTS": "false",
        "WATERSPOUT__ORIGINS": "[https://a.example]", "WATERSPOUT__REDIS__URL": "null",
    })  # fmt: skip
    assert config.namespaces == {"room": Namespace(publish="user")}
    assert (config.auth.guests, config.origins, config.redis.url) == (False, ["https://a.example"], None)
    assert "unknown key server.prot" in refusal(environment={"WATERSPOUT__SERVER__PROT": "1"})
    assert "WATERSPOUT__ORIGINS: not YAML" in refusal(environment={"WATERSPOUT__ORIGINS": "[a"})


def test_a_flag_replaces_a_whole_namespace() -> None:
    """`--set namespaces.chat={…}` replaces that entry: what it leaves out is the default, not the file's."""
    config = load(FILE, {}, [("namespaces.chat", parse_value("{presence: true}", "--set"))])
    assert config.namespaces["chat"] == Namespace(presence=True)
    assert config.namespaces["feed"].publish == "server"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("100ms", 0.1), ("30s", 30), ("10m", 600), ("2h", 7200), ("30d", 2592000), ("1.5s", 1.5), (30, 30), (0, 0)],
)
def test_durations(text: Any, seconds: float) -> None:
    """Durations have a unit, or are numbers of seconds."""
    assert configure(server__shutdown_timeout=text).server.shutdown_timeout == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "30", "s", "30 w", "-1s", -1, True, None, [], "1s1s", "1e3s", float("nan")])
def test_what_is_no_duration(text: Any) -> None:
    """Anything else is refused by its place."""
    assert "server.shutdown_timeout" in refusal(server__shutdown_timeout=text)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.168.1.5", "example.com", "127.evil.com"])
def test_guests_on_a_public_address_take_a_second_word(host: str) -> None:
    """A public bind with guests refuses to start, until guests are off or public guests are said to be meant."""
    assert "auth.public_guests" in refusal(server__host=host)
    assert configure(server__host=host, auth__guests=False)
    assert configure(server__host=host, auth__public_guests=True)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.8.8", "::1"])
def test_loopback_is_not_public(host: str) -> None:
    """Guests are fine where only this machine can connect."""
    assert is_loopback(host)
    assert configure(server__host=host)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ({"namespaces": {"x": {"conflate": "100ms"}}}, "namespaces.x"),
        ({"namespaces": {"docs": {}}}, "docs"),
        ({"namespaces": {"Room": {}}}, "Room"),
        ({"namespaces": {"a:b": {}}}, "a:b"),
        ({"namespaces": {"a.b": {}}}, "a.b: a name is"),
        ({"namespaces": {"x": {"hook": "nowhere"}}}, "namespaces.x.hook"),
        ({"collections": {"a.b": {}}}, "a.b: a name is"),
        ({"collections": {"ws_x": {}}, "mongodb": {"prefix": "ws_"}}, "collections.ws_x"),
        ({"mongodb": {"prefix": ""}}, "mongodb.prefix"),
        ({"mongodb": {"prefix": "system."}}, "mongodb.prefix"),
        ({"mongodb": {"prefix": "a..b"}}, "mongodb.prefix"),
        ({"collections": {"x": {"read": "everyone"}}}, "collections.x.read"),
        ({"collections": {"x": {"indexes": ["$a"]}}}, "collections.x.indexes"),
        ({"collections": {"x": {"hook": "nowhere"}}}, "collections.x.hook"),
        ({"auth": {"api_keys": {"shop": {"sha256": "0"}}}}, "auth.api_keys.shop.sha256"),
        ({"auth": {"api_keys": {"": {"sha256": "0" * 64}}}}, "auth.api_keys"),
        (
            {"auth": {"api_keys": {"shop": {"sha256": "0" * 64, "channels": {"chat": []}}}}},
            "auth.api_keys.shop.channels",
        ),
        ({"namespaces": {"x": {"publish": "everyone"}}}, "namespaces.x.publish"),
        ({"namespaces": {"x": {"subscribe": ""}}}, "namespaces.x.subscribe"),
        ({"auth": {"secret": "short"}}, "auth.secret"),
        ({"auth": {"algorithms": ["none"]}}, "auth.algorithms"),
        ({"auth": {"algorithms": []}}, "auth.algorithms"),
        ({"auth": {"algorithms": ["HS256", "RS256"]}}, "auth.algorithms"),
        ({"auth": {"secret": "-----BEGIN PUBLIC KEY-----" * 2}}, "auth.secret"),
        ({"auth": {"previous_secret": "short"}}, "auth.previous_secret"),
        ({"auth": {"previous_secret": "s" * 32}}, "auth.previous_secret"),
        ({"auth": {"public_key": "key.pem"}}, "auth.public_key"),
        ({"auth": {"jwks_url": "https://a/", "algorithms": ["HS256"]}}, "auth.jwks_url"),
        ({"auth": {"jwks_url": "http://example.com/keys", "algorithms": ["RS256"]}}, "auth.jwks_url"),
        ({"server": {"url": "https://["}}, "server.url"),
        ({"hooks": {"a": {"url": "https://[", "secret": "s" * 32}}}, "hooks.a.url"),
        ({"hooks": {"a": {"url": "https://a:b/", "secret": "s" * 32}}}, "hooks.a.url"),
        ({"auth": {"jwks_url": "https://[", "algorithms": ["RS256"]}}, "auth.jwks_url"),
        ({"auth": {"jwks_url": "file:///etc/passwd", "algorithms": ["RS256"]}}, "auth.jwks_url"),
        ({"auth": {"accounts": True, "algorithms": ["ES256"], "public_key": "key.pem"}}, "auth.accounts"),
        ({"redis": {"hmac_key": "short"}}, "redis.hmac_key"),
        ({"centrifugo": {"namespace": "nowhere"}}, "centrifugo.namespace"),
        ({"limits": {"message_bytes": 16 << 20}}, "limits.message_bytes"),
        ({"limits": {"document_bytes": 16 << 20}}, "limits.document_bytes"),
        ({"mongodb": {"database": ""}}, "mongodb.database"),
        ({"mongodb": {"database": "a.b"}}, "mongodb.database"),
        ({"mongodb": {"database": "d" * 64}}, "mongodb.database"),
    ],
)
def test_what_would_break_a_promise_is_refused(flags: dict[str, Any], named: str) -> None:
    """Conflating durable channels, weak secrets, unknown rules and algorithms do not start."""
    assert named in refusal(flags)


def test_a_secret_is_not_in_the_refusal() -> None:
    """What is said to the operator, and so to the logs, never holds the secret itself."""
    assert "hunter2" not in refusal({"auth": {"secret": "hunter2"}})
    assert "hunter2" not in refusal({"auth": {"secret": ["hunter2"]}})


def test_a_short_secret_is_for_loopback() -> None:
    """Other servers' tests sign with short secrets: allowed in so many words, and never where others can connect."""
    short = {"secret": "short", "previous_secret": "other", "allow_short_secret": True}
    assert configure({"auth": short}).auth.secret == "short"
    assert "auth.allow_short_secret" in refusal({"auth": short | {"guests": False}}, server__host="0.0.0.0")


@pytest.mark.parametrize("text", ["{", "a: [", "secret: 'hunter2\n", "- a\n- b\n", "text"])
def test_a_broken_file_is_one_line(tmp_path: Path, text: str) -> None:
    """A file that cannot be read is named, without what stands in it."""
    file = tmp_path / "broken.yaml"
    file.write_text(text)
    with pytest.raises(StartError, match=r"broken\.yaml") as caught:
        load(file, {}, [])
    assert "\n" not in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_missing_and_an_empty_file(tmp_path: Path) -> None:
    """A missing file is an error, an empty one is all defaults."""
    with pytest.raises(StartError, match=r"none\.yaml: No such file"):
        load(tmp_path / "none.yaml", {}, [])
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert load(tmp_path / "empty.yaml", {}, []) == Config()


@pytest.mark.parametrize(
    ("section", "kind"),
    [
        *(("server", Server), ("mongodb", MongoDB), ("redis", Redis), ("auth", Auth), ("limits", Limits)),
        ("centrifugo", Centrifugo),
    ],
)
def test_config_yaml_names_every_option_with_its_default(section: str, kind: type[msgspec.Struct]) -> None:
    """config.yaml in the repository loads, and shows every option there is, with the value the code has."""
    shown = yaml.safe_load(FILE.read_text())
    assert set(shown[section]) == {field.name for field in msgspec.structs.fields(kind)}
    assert getattr(load(FILE, {}, []), section) == kind()


def test_config_yaml_names_everything_else() -> None:
    """The top level is whole too, and the options of entries are at least mentioned."""
    text = FILE.read_text()
    assert set(yaml.safe_load(text)) == {field.name for field in msgspec.structs.fields(Config)}
    entries = (Namespace, Retention, ApiKey)
    assert all(f"{field.name}" in text for kind in entries for field in msgspec.structs.fields(kind))


def test_the_namespaces_of_the_contract() -> None:
    """chat, feed and dash are declared as the contract says."""
    namespaces = load(FILE, {}, []).namespaces
    week = 7 * 86400
    assert namespaces["chat"] == Namespace(presence=True, ephemeral=True, publish="anyone", subscribe="anyone")
    assert namespaces["feed"] == Namespace(history=Retention(ttl=Seconds(week)), publish="server", subscribe="anyone")
    assert namespaces["dash"] == Namespace(durable=False, conflate=Seconds(0.1), publish="server", subscribe="anyone")


def test_entries_deny_by_default() -> None:
    """What a namespace or a collection does not allow is allowed to nobody."""
    assert (Namespace().publish, Namespace().subscribe) == ("nobody", "nobody")
    assert (Collection().read, Collection().write) == ("nobody", "nobody")


def test_quotas_are_lifted_with_the_rate() -> None:
    """Who lets anybody publish without end is not held back by limits of other names; what is said counts."""
    lifted = ("limits.messages_per_second", 0)
    assert load(None, {}, []).quotas_enforced()
    assert load(None, {}, []).limits.rate_of_requests()
    assert not load(None, {}, [lifted]).quotas_enforced()
    assert not load(None, {}, [lifted]).limits.rate_of_requests()
    said = load(None, {}, [lifted, ("quotas.enforced", True), ("limits.requests_per_second", 3)])
    assert said.quotas_enforced()
    assert said.limits.rate_of_requests() == 3
