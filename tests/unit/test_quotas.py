"""What may be stored in an hour."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from server.access.quotas import Quotas
from server.core import config
from server.core.errors import Error
from server.core.principals import GUEST, Principal
from tests.unit.virtual_time import run

ANN, BOB, SHOP = Principal(user="ann"), Principal(user="bob"), Principal(user="shop", server=True)


def quotas(**options: dict[str, int]) -> Quotas:
    nothing = {"new_channels": 0, "messages": 0, "bytes": 0, "new_documents": 0}
    given = {f"quotas.{name}": nothing | options.get(name, {}) for name in ("guest", "user", "namespace")}
    return Quotas(config.load(None, {}, given.items()).quotas)


def refused(charge: Callable[[], object]) -> str:
    with pytest.raises(Error) as raised:
        charge()
    assert raised.value.code == "limit_exceeded"
    assert raised.value.limit is not None
    assert raised.value.reason.startswith(raised.value.limit)
    return raised.value.limit


@pytest.mark.parametrize("kind", ["new_channels", "messages", "bytes", "new_documents"])
def test_a_quota_names_itself(kind: str) -> None:
    """Each kind of each holder: what is over it is refused whole, and what fits still fits."""

    async def main() -> None:
        argument = "size" if kind == "bytes" else kind
        for holder, who in (("guest", GUEST), ("user", ANN), ("namespace", ANN), ("namespace", GUEST)):
            counted = quotas(**{holder: {kind: 10}})
            counted.charge(who, "192.0.2.1", "chat", **{argument: 8})  # type: ignore[arg-type]
            for _ in range(3):
                more = {argument: 3}
                assert refused(lambda: counted.charge(who, "192.0.2.1", "chat", **more)) == f"quotas.{holder}.{kind}"  # noqa: B023
            counted.charge(who, "192.0.2.1", "chat", **{argument: 2})  # type: ignore[arg-type]

    run(main())


def test_holders_are_apart() -> None:
    """Another user, another network, another namespace; one network is one guest, and a back end is nobody's."""

    async def main() -> None:
        counted = quotas(guest={"messages": 1}, user={"messages": 1}, namespace={"messages": 4})
        counted.charge(ANN, "192.0.2.1", "chat", messages=1)
        counted.charge(BOB, "192.0.2.1", "chat", messages=1)
        counted.charge(GUEST, "2001:db8::1", "chat", messages=1)
        assert refused(lambda: counted.charge(ANN, "192.0.2.9", "chat", messages=1)) == "quotas.user.messages"
        assert refused(lambda: counted.charge(GUEST, "2001:db8::2", "chat", messages=1)) == "quotas.guest.messages"
        counted.charge(GUEST, "2001:db8:1::1", "chat", messages=1)
        new = Principal(user="new")
        assert refused(lambda: counted.charge(new, "", "chat", messages=1)) == "quotas.namespace.messages"
        counted.charge(new, "", "feed", messages=1)
        for _ in range(10):
            assert counted.charge(SHOP, "192.0.2.1", "chat", messages=100) is None

    run(main())


def test_what_is_used_comes_back() -> None:
    """Steadily, a full quota in an hour; the error says when there is enough."""

    async def main() -> None:
        counted = quotas(user={"bytes": 3600})
        counted.charge(ANN, "", "chat", size=3600)
        with pytest.raises(Error) as raised:
            counted.charge(ANN, "", "chat", size=60)
        assert raised.value.retry_after == pytest.approx(60)
        await asyncio.sleep(59)
        assert refused(lambda: counted.charge(ANN, "", "chat", size=60)) == "quotas.user.bytes"
        await asyncio.sleep(1.1)
        counted.charge(ANN, "", "chat", size=60)
        await asyncio.sleep(7200)
        counted.charge(ANN, "", "chat", size=3600)
        assert refused(lambda: counted.charge(ANN, "", "chat", size=1)) == "quotas.user.bytes"

    run(main())


def test_what_was_not_made_is_given_back() -> None:
    """And no more than that."""

    async def main() -> None:
        counted = quotas(user={"new_channels": 2}, namespace={"new_channels": 2})
        charges = [counted.charge(ANN, "", "chat", new_channels=1) for _ in range(2)]
        assert refused(lambda: counted.charge(ANN, "", "chat", new_channels=1)) == "quotas.user.new_channels"
        assert charges[0] is not None
        charges[0].give_back("new_channels", 1)
        counted.charge(ANN, "", "chat", new_channels=1)
        assert refused(lambda: counted.charge(BOB, "", "chat", new_channels=1)) == "quotas.namespace.new_channels"
        assert charges[1] is not None
        charges[1].give_all_back()
        counted.charge(ANN, "", "chat", new_channels=1)

    run(main())


def test_without_quotas_nothing_is_counted() -> None:
    """All 0: not even a clock is asked, so it works without a loop."""
    counted = quotas()
    assert not counted.limited
    assert counted.charge(ANN, "", "chat", messages=1000) is None
