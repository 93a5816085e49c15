"""Roles of accounts: claims of their tokens, that rules of channels, documents and operators understand."""

from __future__ import annotations

from typing import Any

import pytest
from tornado.httpclient import AsyncHTTPClient

from server.node import Node
from tests.integration.conftest import SETTINGS
from tests.integration.test_accounts import PASSWORD, post  # noqa: F401
from tests.support.client import Client, Refused, make_token


@pytest.fixture
def settings() -> dict[str, object]:
    return {
        "auth.accounts": True,
        "auth.operators": "claim:roles=operator",
        "namespaces.desk": {"publish": "claim:roles=agent", "subscribe": "claim:roles=agent"},
        "collections.tickets": {
            "read": "owner",
            "write": "owner",
            "owner": "customer",
            "read_all": "claim:roles=agent|claim:roles=auditor",
            "write_all": "claim:roles=agent",
        },
    }


@pytest.fixture
def token(post: Any, node: Node) -> Any:  # noqa: F811
    """A token of a user's account with these roles."""

    async def token(user: str, *roles: str) -> str:
        await post("register", user=user, password=PASSWORD)
        assert node.accounts is not None
        await node.accounts.store.change(user, {"roles": list(roles)})
        _, tokens = await post("login", user=user, password=PASSWORD)
        return str(tokens["token"])

    return token


async def refusal(work: Any) -> str:
    with pytest.raises(Refused) as failed:
        await work
    return str(failed.value.code)


@pytest.mark.gen_test
async def test_agents_see_all_documents_in_spite_of_their_owners(token: Any, base_url: str) -> None:
    """Get, list, watch and write, as `read_all` and `write_all` say; everybody else sees their own."""
    ws = base_url.replace("http", "ws") + "/v1/ws"
    async with (
        Client(ws, token=await token("ann")) as ann,
        Client(ws, token=await token("bob")) as bob,
        Client(ws, token=await token("sam", "agent")) as sam,
        Client(ws, token=await token("eve", "auditor")) as eve,
    ):
        seen = {one: await one.subscribe("docs:tickets", snapshot=True) for one in (ann, bob, sam, eve)}
        for one in seen.values():
            assert (await one.next())["documents"] == []
        for one, name in ((ann, "a"), (bob, "b")):
            await one.request("put", collection="tickets", document_id=name, document={"text": "help"})
        for one, ids in ((ann, ["a"]), (bob, ["b"]), (sam, ["a", "b"]), (eve, ["a", "b"])):
            pushes = await seen[one].messages(len(ids))
            assert sorted(push["data"]["id"] for push in pushes) == ids
            found = (await one.request("find", collection="tickets"))["documents"]
            assert sorted(document["_id"] for document in found) == ids
        assert await refusal(bob.request("get", collection="tickets", document_id="a")) == "not_found"
        changed = await sam.request(
            "patch", collection="tickets", document_id="a", document={"status": "closed", "customer": "bob"}
        )
        assert changed["document"]["customer"] == "bob", "who owns it is for agents to say"
        assert (
            await refusal(eve.request("patch", collection="tickets", document_id="b", document={"text": "no"}))
            == "not_found"
        ), "who may read all may not write all"
        assert (await seen[ann].message())["data"]["op"] == "delete"
        assert (await seen[bob].message())["data"]["id"] == "a"


@pytest.mark.gen_test
async def test_a_role_that_is_gone_takes_the_view_along(token: Any, base_url: str) -> None:
    """A connection that is refreshed with a token without the role loses the subscription that showed all."""
    ws = base_url.replace("http", "ws") + "/v1/ws"
    async with Client(ws, token=await token("sam", "agent")) as sam, Client(ws, token=await token("ann")) as ann:
        desk, tickets = await sam.subscribe("desk:queue"), await sam.subscribe("docs:tickets")
        assert await refusal(ann.subscribe("desk:queue")) == "permission_denied"
        plain = make_token(str(SETTINGS["auth.secret"]), "sam")
        await sam.request("refresh", token=plain)
        for ended in (desk, tickets):
            push = await ended.next()
            assert (push["type"], push["code"]) == ("unsubscribed", "permission_denied")
        await ann.request("put", collection="tickets", document_id="a", document={"text": "help"})
        assert (await sam.request("find", collection="tickets"))["documents"] == []


@pytest.mark.gen_test
async def test_operators_are_users_with_a_role(token: Any, base_url: str, http_client: AsyncHTTPClient) -> None:
    """`auth.operators`: what an API key that is `admin` may, and no more channels than before."""

    async def get(path: str, bearer: str) -> int:
        headers = {"Authorization": f"Bearer {bearer}"}
        return int((await http_client.fetch(base_url + path, headers=headers, raise_error=False)).code)

    operator, ann = await token("olga", "operator"), await token("ann")
    for path in ("/v1/nodes", "/v1/channels", "/metrics"):
        assert (await get(path, operator), await get(path, ann)) == (200, 403)
    assert await get("/v1/channels/desk:queue/messages", operator) == 403
    async with Client(base_url.replace("http", "ws") + "/v1/ws", token=operator) as olga:
        nodes = await olga.subscribe("$sys:nodes")
        assert (await nodes.message())["data"]["node"]
