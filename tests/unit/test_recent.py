"""What is kept of the last hour: in bounds, whatever happens."""

from __future__ import annotations

from server.cluster.recent import EVENTS, EVERY, KEPT, REFUSED, Recent, together

NOW = 1_800_000_000_000


def refusal(user: str, limit: str | None = "connections", count: int = 1) -> dict[str, object]:
    return {
        "event": "refusal",
        "code": "limit_exceeded",
        "limit": limit,
        "user": user,
        "address": "::1",
        "count": count,
    }


def test_figures_are_over_all_nodes() -> None:
    """A row every ten seconds: the sum of the nodes, of what is by the second the highest; p99 is the slowest one's."""
    recent = Recent()
    for second in range(KEPT + 3 * EVERY):
        peak = 100.0 if second % EVERY == 3 else 1.0
        one = {"connections": 2, "in": peak, "out": 1.0, "refusals": 0.0, "repairs": 0, "publish_p99": None}
        recent.beat(NOW + 1000 * second, [one, one | {"publish_p99": 0.01}, {}])
    rows = recent.figures()
    assert len(rows) == KEPT // EVERY
    assert rows[-1] == {
        "time": NOW + 1000 * (KEPT + 3 * EVERY - 1), "connections": 4, "in": 200.0, "out": 2.0, "refusals": 0.0,
        "repairs": 0, "publish_p99": 0.01,
    }  # fmt: skip


def test_who_meets_limits_is_counted_over_all_events() -> None:
    """Also where the events themselves are too many to be kept; of very many users only how often others did; what is
    over an hour old is gone."""
    recent = Recent()
    recent.note(NOW - 2 * KEPT * 1000, [refusal("long ago")])
    for number in range(REFUSED + 200):
        recent.note(NOW, [refusal("ann", count=2), refusal(f"u{number}")])
    said = recent.said(NOW)
    assert len(said["events"]) == EVENTS
    first, second = said["refused"][:2]
    assert (first["user"], first["limit"], first["count"], first["last"]) == (
        "ann", "connections", 2 * (REFUSED + 200), NOW,
    )  # fmt: skip
    assert (second["user"], second["address"], second["count"]) == (None, "others", 201)
    assert "long ago" not in [row["user"] for row in said["refused"]]

    other = Recent()
    other.note(NOW + 1, [refusal("ann", count=5)])
    both = together([said, other.said(NOW + 1)])
    assert both["refused"][0]["count"] == 2 * (REFUSED + 200) + 5
    assert both["events"][-1]["time"] == NOW + 1
    assert len(both["events"]) == EVENTS
