"""Signing in on the pages of a server that lets in users only, in a real browser."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.browser.tabs import Browsing, Tab
from tests.support import authenticator
from tests.support.openid import OpenIDProvider, installed
from tests.support.processes import UNLIMITED, Mongod, Server, free_port
from tests.support.waiting import until

PASSWORD = "correct horse battery"


@pytest.fixture(scope="module")
def members(mongod: Mongod, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """No guests; examples of `run.py seed`, since it is a machine of a developer."""
    settings = {
        **UNLIMITED,
        "mongodb.database": "signing-in",
        "auth.accounts": True,
        "auth.guests": False,
        "auth.development": True,
        "auth.operators": "claim:roles=operator",
        "namespaces.chat.amend": "own",
    }
    elsewhere = OpenIDProvider(tmp_path_factory.mktemp("elsewhere"), {"sub": "hal", "name": "Hal"})
    if installed:
        asyncio.run(elsewhere.start())
        client = {"client_id": "x", "client_secret": "y", "title": "Example"}
        settings["auth.oidc"] = {"example": {"issuer": elsewhere.issuer, **client}}
    port = free_port()
    if authenticator.installed:
        settings |= {"auth.passkeys": True, "auth.passkey_domain": "localhost", "origins": [f"http://localhost:{port}"]}
    server = Server(tmp_path_factory.mktemp("members"), mongod.uri, settings=settings, port=port)
    asyncio.run(server.start())
    seed = Server(server.directory, mongod.uri, settings=settings, name="seed", arguments=("seed",))
    seed.launch()
    assert asyncio.run(seed.wait_exit(60)) == 0
    yield server
    asyncio.run(server.stop())
    asyncio.run(elsewhere.stop())
    server.clean()


async def opened(tab: Tab, members: Server, path: str) -> None:
    """With the dialog, since nobody is signed in."""
    await tab.page.goto(members.base + path)
    await tab.page.wait_for_selector("dialog[open]")


async def sign(tab: Tab, user: str, password: str) -> None:
    """By the keyboard, from the field that has the focus."""
    await tab.page.keyboard.type(user)
    await tab.page.keyboard.press("Tab")
    await tab.page.keyboard.type(password)
    await tab.page.keyboard.press("Enter")


def test_a_page_lets_one_make_an_account_and_remembers_it(browsing: Browsing, members: Server, artifacts: Path) -> None:
    """Sign-up by the keyboard, then a reload and the other pages without a question; a sign-out ends it in every tab,
    and what is wrong is said in the dialog."""

    async def run() -> None:
        async with browsing.tabs(Tab) as new:
            tab = await new()
            await opened(tab, members, "/chat/")
            assert await tab.pale() == []
            await tab.page.screenshot(path=artifacts / "sign-in.png")
            await tab.page.get_by_role("button", name="Make an account").click()
            await tab.page.get_by_label("Name", exact=True).focus()
            await sign(tab, "Zoe", PASSWORD)
            await tab.state("open")
            await tab.page.get_by_label("Message", exact=True).fill("hello")
            await tab.page.keyboard.press("Enter")
            await tab.page.wait_for_selector("#log li:has-text('hello')")
            assert "Zoe" in await tab.page.inner_text("#log")
            await tab.go(members.base, "/dashboard/")
            other = await tab.page.context.new_page()
            await other.goto(members.base + "/feed/")
            await other.wait_for_selector("body[data-state=open]")
            await tab.page.get_by_role("button", name="Zoe").click()
            await tab.page.get_by_role("button", name="Sign out").click()
            for page in (tab.page, other):
                await page.wait_for_selector("dialog[open]")
            await sign(tab, "zoe", "a wrong password")
            await tab.page.get_by_role("alert").filter(has_text="do not belong together").wait_for()
            await tab.page.keyboard.type(PASSWORD)
            await tab.page.keyboard.press("Enter")
            await tab.state("open")
            await other.wait_for_selector("body[data-state=open]")
            assert ["401" in complaint for complaint in tab.complaints] == [True]  # the browser's own, of the password
            tab.complaints.clear()

    browsing.run(run())


def test_one_click_signs_in_as_an_example_user(browsing: Browsing, members: Server) -> None:
    """In development; and a dialog that was closed is opened again by the button in the bar."""

    async def run() -> None:
        async with browsing.tabs(Tab) as new:
            tab = await new(phone=True)
            await opened(tab, members, "/feed/")
            await tab.page.keyboard.press("Escape")
            assert await tab.fits()
            await tab.page.get_by_role("button", name="Sign in").click()
            await tab.page.get_by_role("button", name="bob").click()
            await tab.state("open")
            await tab.page.wait_for_selector("#orders-count:not(:empty)")
            assert await tab.fits()
            # What the reference sends goes with the same token.
            await tab.page.goto(members.base + "/docs")
            own = tab.page.locator("section", has=tab.page.get_by_role("heading", name="GET /v1/auth/me", exact=True))
            await own.get_by_text("Send it from here").click()
            await own.get_by_role("button", name="Send").click()
            await own.locator(".answer > pre", has_text='"user": "bob"').wait_for()

    browsing.run(run())


def test_who_signs_in_where_somebody_else_was_sees_nothing_of_that(browsing: Browsing, members: Server) -> None:
    """On the chat page, in the same tab: no drafts, no rooms, nothing to be sent. One's own is there after a reload."""

    async def run() -> None:
        async with browsing.tabs(Tab) as new:
            tab = await new()
            field = tab.page.get_by_label("Message", exact=True)
            await opened(tab, members, "/chat/#only-anns")
            await tab.page.get_by_role("button", name="ann").click()
            await tab.state("open")
            await field.fill("said by ann")
            await tab.page.keyboard.press("Enter")
            await tab.page.wait_for_selector("#log li:has-text('said by ann')")
            await field.fill("a draft of ann's")
            await tab.page.reload()
            await tab.state("open")
            assert await field.input_value() == "a draft of ann's"
            await tab.page.locator(".account-name").click()
            await tab.page.get_by_role("button", name="Sign out").click()
            await tab.page.wait_for_selector("dialog[open]")
            await tab.page.goto("about:blank")
            await opened(tab, members, "/chat/#elsewhere")
            await tab.page.get_by_role("button", name="bob").click()
            await tab.state("open")
            kept = await tab.page.evaluate("JSON.stringify([Object.entries(sessionStorage), localStorage])")
            assert "ann's" not in kept
            assert "said by" not in kept
            assert "only-anns" not in kept + await tab.page.inner_text("#rooms")

    browsing.run(run())


def test_ones_own_messages_are_edited_and_erased(browsing: Browsing, members: Server, artifacts: Path) -> None:
    """On the chat page: the others see it at once, and after a reload; and have no buttons for what is not theirs."""

    async def run() -> None:
        async with browsing.tabs(Tab) as new:
            tabs = []
            for user in ("bob", "ann"):
                tab = await new()
                await opened(tab, members, "/chat/#amended")
                await tab.page.get_by_role("button", name=user).click()
                await tab.state("open")
                tabs.append(tab.page)
            bob, ann = tabs
            for text in ("Tea is at for", "a secret"):
                await bob.get_by_label("Message", exact=True).fill(text)
                await bob.keyboard.press("Enter")
            await ann.wait_for_selector("#log li:has-text('a secret')")
            await ann.locator("#log .message").first.hover()
            await ann.locator("#log .tools").first.wait_for()
            assert await ann.locator("#log .tools").get_by_role("button", name=re.compile("Edit|Erase")).count() == 0
            for index, name in ((0, "Edit"), (1, "Erase")):
                row = bob.locator("#log .message").nth(index)
                await row.hover()
                await row.get_by_role("button", name=name).click()
                if name == "Erase":
                    await row.get_by_role("button", name="Erase?").click()
                if name == "Edit":
                    await bob.get_by_label("Edit the message").fill("Tea is at four")
                    await bob.keyboard.press("Enter")
            for page in (bob, ann):
                await page.wait_for_selector("#log li:has-text('Tea is at four')")
                await page.wait_for_selector("#log li:has-text('This message was erased')")
            await bob.screenshot(path=artifacts / "amended.png")
            await ann.reload()
            await ann.wait_for_selector("#log li:has-text('This message was erased')")
            assert "secret" not in await ann.inner_text("body")
            assert "edited" in await ann.inner_text("#log")

    browsing.run(run())


async def link(members: Server, kind: str) -> str:
    """As it is printed in the log: there is no mail in development."""
    pattern = re.compile(rf"{re.escape(members.base)}/account/#{kind}=[\w-]+")
    await until(lambda: pattern.search(members.log.read_text()) is not None, 10, f"a link to {kind}")
    return pattern.findall(members.log.read_text())[-1]


def test_a_forgotten_password_is_set_anew(browsing: Browsing, members: Server, artifacts: Path) -> None:
    """Sign-up with an address, its proof by a link, "Forgot your password?" and its link, which leaves the address bar;
    and then the account's page: other sessions, another password, sign out everywhere."""

    async def run() -> None:
        async with browsing.tabs(Tab) as new:
            tab = await new()
            page = tab.page
            await opened(tab, members, "/dashboard/")
            await page.get_by_role("button", name="Make an account").click()
            await page.get_by_label("Name", exact=True).fill("Fay")
            await page.get_by_label("Password").fill(PASSWORD)
            await page.get_by_label("E-mail").fill("fay@example.com")
            await page.get_by_role("button", name="Make it").click()
            await tab.state("open")
            await page.goto(await link(members, "verify"))
            await page.get_by_text("fay@example.com is verified.").wait_for()
            assert page.url == members.base + "/account/"
            assert await tab.pale() == []
            await page.screenshot(path=artifacts / "account.png")

            other = await new("dark", phone=True)
            await opened(other, members, "/feed/")
            await other.page.get_by_role("button", name="Forgot your password?").click()
            await other.page.get_by_label("Name or e-mail address").fill("fay")
            await other.page.get_by_role("button", name="Send me a link").click()
            await other.page.get_by_text("a link is on its way").wait_for()
            await other.page.goto("about:blank")
            await other.page.goto(await link(members, "reset"))
            await other.page.get_by_label("New password", exact=True).fill("another password")
            await other.page.keyboard.press("Enter")
            await other.page.wait_for_selector("dialog[open]")
            await sign(other, "fay", "another password")
            await other.page.get_by_role("heading", name="Where you are signed in").wait_for()
            assert await other.fits()
            assert await other.pale() == []
            assert await other.axe() == []
            await other.page.screenshot(path=artifacts / "account-dark-phone.png")

            await page.reload()  # whose session was ended by the reset
            await page.wait_for_selector("dialog[open]")
            await sign(tab, "fay", "another password")
            await page.locator("#sessions button").wait_for()  # behind a reload
            assert await tab.axe() == []
            await page.locator("#sessions button").focus()
            await page.keyboard.press("Enter")
            await page.get_by_text("Signed out there.").wait_for()
            await page.wait_for_selector("#sessions-title:focus")
            assert await page.locator("#sessions li").count() == 1
            await page.get_by_label("The one you have").fill("another password")
            await page.get_by_label("A new one").fill(PASSWORD)
            await page.get_by_role("button", name="Change it").click()
            await page.get_by_text("The password is changed.").wait_for()
            await page.get_by_role("button", name="Sign out everywhere").click()
            await page.wait_for_selector("dialog[open]")
            assert [one for one in tab.complaints + other.complaints if "401" not in one] == []
            tab.complaints.clear()
            other.complaints.clear()

    browsing.run(run())


def test_an_operator_looks_after_users(browsing: Browsing, members: Server, artifacts: Path) -> None:
    """In the console, signed in with an account: a user is made with a link for the first password, signs in, gets a
    role, is disabled and is out at once; whoever is no operator is told so."""

    async def run() -> None:
        async with browsing.tabs(Tab) as new:
            plain = await new()
            await plain.page.goto(members.base + "/console/")
            await plain.page.get_by_role("button", name="with your account").click()
            await plain.page.get_by_role("button", name="bob").click()
            await plain.page.get_by_text("bob is no operator.").wait_for()
            assert ["403" in complaint for complaint in plain.complaints] == [True]
            plain.complaints.clear()

            tab = await new()
            page = tab.page
            await page.goto(members.base + "/console/")
            await page.get_by_role("button", name="with your account").click()
            await page.get_by_role("button", name="olga").click()
            await page.wait_for_selector("#nodes .status[data-status=ready]")
            await page.get_by_role("row", name="sam").get_by_text("agent").wait_for()
            await page.get_by_role("button", name="New user").click()
            await page.keyboard.type("Gil")
            await page.keyboard.press("Enter")
            link = await page.get_by_label("For Gil alone").input_value()

            gil = await new("dark", phone=True)
            await gil.page.goto(link)
            await gil.page.get_by_label("New password", exact=True).fill(PASSWORD)
            await gil.page.keyboard.press("Enter")
            await gil.page.wait_for_selector("dialog[open]")
            await sign(gil, "gil", PASSWORD)
            await gil.page.get_by_role("heading", name="Where you are signed in").wait_for()
            await gil.go(members.base, "/chat/")

            await page.get_by_role("row", name="Gil").get_by_role("button").click()
            await page.get_by_role("button", name="Sign out", exact=True).wait_for()
            await page.get_by_label("Roles").fill("agent")
            await page.get_by_role("button", name="Save").click()
            await page.get_by_role("row", name="Gil").get_by_text("agent").wait_for()
            await gil.state("open")
            assert await tab.pale() == []
            assert await tab.fits()
            await page.screenshot(path=artifacts / "console-users.png", full_page=True)
            await page.get_by_role("button", name="Disable").click()
            await page.get_by_role("button", name="Really disable?").click()
            await page.get_by_role("row", name="Gil").get_by_text("disabled").wait_for()
            await gil.page.wait_for_selector("dialog[open]")
            assert all("401" in complaint for complaint in gil.complaints)
            gil.complaints.clear()

    browsing.run(run())


@pytest.mark.skipif(not installed, reason="the extra `oidc`, or a provider, is not installed")
def test_signing_in_elsewhere(browsing: Browsing, members: Server, artifacts: Path) -> None:
    """The button of a provider, its own page, and back to where one was; refused there, the dialog says so."""

    async def run() -> None:
        async with browsing.tabs(Tab) as new:
            tab = await new()
            page = tab.page
            await opened(tab, members, "/chat/#kitchen")
            await page.screenshot(path=artifacts / "sign-in-elsewhere.png")
            await page.get_by_role("button", name="Sign in with Example").click()
            await page.wait_for_url("**/oauth2/authorize?**")
            state = parse_qs(urlsplit(page.url).query)["state"][0]
            refused = f"/v1/auth/oidc/example/callback?error=access_denied&state={state}"
            await page.goto(members.base + refused)  # which this provider sends without a state
            await page.get_by_text("It was refused there").wait_for()
            await page.goto("about:blank")
            await page.goto(f"{members.base}/chat/#sign-in-refused=Call%20555%20for%20help:%20it%20is%20urgent")
            await page.get_by_text("Signing in there has not worked. Try again.").wait_for()
            assert "555" not in await page.inner_text("body")
            await page.goto(f"{members.base}/chat/#kitchen")
            await page.get_by_role("button", name="Sign in with Example").click()
            await page.get_by_role("button", name="hal").click()
            await tab.state("open")
            assert page.url == f"{members.base}/chat/#kitchen"
            assert await page.inner_text("#title") == "kitchen"
            await page.locator(".account-name", has_text="Hal").wait_for()
            await page.goto(members.base + "/account/")
            await page.get_by_text("This account has no password").wait_for()
            assert all("404" in complaint for complaint in tab.complaints)  # the provider's page has no icon
            tab.complaints.clear()

    browsing.run(run())


@pytest.mark.skipif(not authenticator.installed, reason="the extra `passkeys` is not installed")
def test_a_passkey_signs_in_and_is_removed(browsing: Browsing, members: Server, artifacts: Path) -> None:
    """With a device of the browser's own: it is added on the account's page, signs in without a name, is not added
    twice, and once removed signs in no more, which the dialog says. An address that it is not for has no button."""

    async def run() -> None:
        async with browsing.tabs(Tab) as new:
            tab = await new()
            page = tab.page
            browser = await page.context.new_cdp_session(page)
            await browser.send("WebAuthn.enable")
            device = {"protocol": "ctap2", "transport": "internal", "hasResidentKey": True, "hasUserVerification": True}
            device |= {"isUserVerified": True, "automaticPresenceSimulation": True}
            await browser.send("WebAuthn.addVirtualAuthenticator", {"options": device})
            passkey = page.get_by_role("button", name="Sign in with a passkey")
            await opened(tab, members, "/account/")
            assert await passkey.count() == 0
            await page.goto(f"http://localhost:{members.port}/account/")
            await page.wait_for_selector("dialog[open]")
            await page.get_by_role("button", name="Make an account").click()
            await page.get_by_label("Name", exact=True).fill("Pia")
            await page.locator("dialog").get_by_label("Password", exact=True).fill(PASSWORD)
            await page.get_by_role("button", name="Make it").click()

            own = page.locator("#passkeys")
            await own.get_by_role("button", name="Add a passkey").wait_for()
            assert "Chrome" in await own.get_by_label("What you call it").input_value()
            for said in ("Laptop is added", "This device has a passkey of this account already"):
                await own.get_by_label("What you call it").fill("Laptop")
                await own.get_by_label("Your password").fill(PASSWORD)
                await own.get_by_role("button", name="Add a passkey").click()
                await page.get_by_text(said).wait_for()
            await own.get_by_text("not used yet").wait_for()
            assert await tab.pale() == []
            assert await tab.axe() == []
            await page.screenshot(path=artifacts / "passkeys.png", full_page=True)

            async def sign_out() -> None:
                await page.get_by_role("button", name="Pia").click()
                await page.get_by_role("button", name="Sign out", exact=True).click()
                await page.wait_for_selector("dialog[open]")

            await sign_out()
            await page.screenshot(path=artifacts / "sign-in-passkey.png")
            await passkey.click()
            await page.locator("#sessions").get_by_text("by passkey").wait_for()
            await own.get_by_role("button", name="Remove Laptop").click()
            await page.get_by_text("Laptop is removed.").wait_for()
            await own.get_by_role("listitem").wait_for(state="detached")
            await sign_out()
            await passkey.click()
            await page.get_by_role("alert").filter(has_text="not a passkey of an account here").wait_for()
            assert ["401" in complaint for complaint in tab.complaints] == [True]
            tab.complaints.clear()

    browsing.run(run())
