"""What a client hears when it may not."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.client import Client, Refused, Subscription
from tests.support.waiting import until


async def refusal(client: Client, command: str, **fields: Any) -> str:
    """The code of the error that the command is answered with."""
    with pytest.raises(Refused) as refused:
        await client.request(command, **fields)
    return refused.value.code


async def ended(subscription: Subscription) -> None:
    """For want of the right, within a second (and what a busy machine takes)."""
    await until(lambda: subscription.ended, 1.5, "the end of the subscription")
    assert subscription.ended is not None
    assert subscription.ended["code"] == "permission_denied"
