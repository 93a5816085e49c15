"""Signing in with a passkey: WebAuthn, of credentials that the user's device finds by itself, without a name.

    page      POST /v1/auth/passkey/begin              a challenge, and a state that stands for it
    browser   navigator.credentials.get: the device asks for a finger or a PIN, and signs the challenge
    page      POST /v1/auth/passkey {state, credential}    tokens

    page      POST /v1/auth/passkey/new {password}     the same for a new one, of whoever is signed in
    browser   navigator.credentials.create
    page      POST /v1/auth/passkeys {state, name, credential}

A challenge is good once and for minutes. There are no cookies: what ties the answer to the page that has asked is the
state, which the device never sees; what is added is tied to the session as well. Nothing that begins a sign-in says
who, so nothing tells who has an account or a passkey.

An account is known to devices by a random handle and not by its name, so that the passkeys of an account that was
deleted do not open the one that takes the name next.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Sequence
from typing import Final, Protocol

import msgspec
import webauthn
from webauthn.helpers import base64url_to_bytes, bytes_to_base64url, options_to_json_dict, parse_client_data_json
from webauthn.helpers.structs import (
    AuthenticatorSelectionCriteria,
    AuthenticatorTransport,
    CredentialDeviceType,
    PublicKeyCredentialDescriptor,
    ResidentKeyRequirement,
    UserVerificationRequirement,
)

from server.access.accounts.attempts import Attempts
from server.access.accounts.credentials import Passkey, PasskeyStore, as_name, as_transports
from server.access.accounts.families import Families, Visit
from server.access.accounts.one_time import OneTimeTokens
from server.access.accounts.store import Account, AccountStore
from server.core.clock import Clock
from server.core.config.auth import passkey_pages
from server.core.errors import Error, bad_request
from server.wire.accounts import NewCredential, PasskeyQuestion, ShownCredential, Tokens

logger = logging.getLogger(__name__)

ANSWER_WITHIN: Final = 300.0
"""Seconds for what somebody does at the device."""
SAID: Final = 8192
"""Characters of each thing that a device says, a multiple of what there is: keys and numbers made for it take the time
of their square to be read, in which nobody else has a turn."""
_REQUIRED: Final = UserVerificationRequirement.REQUIRED
_NEW, _SIGN_IN = "new passkey", "passkey"


class LogIn(Protocol):
    async def __call__(self, account: Account, visit: Visit, way: str, passkey: str | None = None) -> Tokens: ...


class Passkeys:
    """`domain`: what passkeys are bound to (`rp.id`); `url`: what users call the server; `origins`: of pages besides
    its own, of which those within the domain may use passkeys."""

    def __init__(
        self,
        domain: str,
        url: str,
        origins: Sequence[str],
        *,
        accounts: AccountStore,
        passkeys: PasskeyStore,
        tokens: OneTimeTokens,
        families: Families,
        attempts: Attempts,
        log_in: LogIn,
        clock: Clock,
    ) -> None:
        self.domain = domain
        self._origins = passkey_pages(domain, url, origins)
        self._accounts = accounts
        self._passkeys = passkeys
        self._tokens = tokens
        self._families = families
        self._attempts = attempts
        self._log_in = log_in
        self._clock = clock

    # --- a new one ----------------------------------------------------------------------------------------------------

    async def begin_new(self, account: Account, session: str | None) -> PasskeyQuestion:
        """For an account whose user has proved to be there, in this session."""
        challenge = secrets.token_bytes(32)
        known = await self._passkeys.of(account.id)
        shown = account.shown.get("name") if isinstance(account.shown, dict) else None
        options = webauthn.generate_registration_options(
            rp_id=self.domain,
            rp_name=self.domain,
            user_id=base64url_to_bytes(await self._accounts.handle(account)),
            user_name=account.user,
            user_display_name=shown if isinstance(shown, str) and shown else account.user,
            challenge=challenge,
            timeout=int(ANSWER_WITHIN * 1000),
            authenticator_selection=AuthenticatorSelectionCriteria(
                resident_key=ResidentKeyRequirement.REQUIRED, user_verification=_REQUIRED
            ),
            exclude_credentials=[
                PublicKeyCredentialDescriptor(
                    id=base64url_to_bytes(one.id), transports=[AuthenticatorTransport(way) for way in one.transports]
                )
                for one in known
            ],
        )
        about = {"challenge": challenge, "session": session}
        state = await self._tokens.issue(_NEW, ANSWER_WITHIN, account.id, about)
        return {"state": state, "options": options_to_json_dict(options)}

    async def add(
        self, account: Account, session: str | None, state: str, name: str, credential: NewCredential
    ) -> Passkey:
        """`bad_request` if the state is not one of this session's, or what the device has said is not good; `too_large`
        if that is more than a device says."""
        name = as_name(name)
        _check_sizes(credential)
        redeemed = await self._tokens.redeem(_NEW, state)
        if redeemed is None or redeemed.user != account.id or redeemed.about["session"] != session:
            raise bad_request("state: not one of a passkey that was begun in this session, or not any more")
        challenge = redeemed.about["challenge"]
        why = self._foreign(credential.response.client_data, challenge)
        if why:
            raise bad_request(why)
        try:
            good = webauthn.verify_registration_response(
                credential=msgspec.to_builtins(credential),
                expected_challenge=challenge,
                expected_rp_id=self.domain,
                expected_origin=self._origins,
                require_user_verification=True,
            )
        except Exception as error:  # whatever the library stumbles over, in what a stranger may have made up
            logger.info("a passkey was refused: %s", type(error).__name__, extra={"user": account.user})
            raise bad_request("credential: not one that WebAuthn takes, with the user verified") from None
        passkey = Passkey(
            id=bytes_to_base64url(good.credential_id),
            user=account.id,
            name=name,
            key=good.credential_public_key,
            count=good.sign_count,
            created=self._clock.now_ms(),
            synced=good.credential_device_type is CredentialDeviceType.MULTI_DEVICE,
            transports=as_transports(credential.response.transports),
        )
        await self._passkeys.insert(passkey)
        logger.info("passkey added", extra={"user": account.user})
        return passkey

    # --- signing in ---------------------------------------------------------------------------------------------------

    async def begin(self, visit: Visit) -> PasskeyQuestion:
        self._attempts.spend(visit.address)
        challenge = secrets.token_bytes(32)
        options = webauthn.generate_authentication_options(
            rp_id=self.domain,
            challenge=challenge,
            timeout=int(ANSWER_WITHIN * 1000),
            user_verification=_REQUIRED,
        )
        state = await self._tokens.issue(_SIGN_IN, ANSWER_WITHIN, about={"challenge": challenge})
        return {"state": state, "options": options_to_json_dict(options)}

    async def finish(self, state: str, credential: ShownCredential, visit: Visit) -> Tokens:
        """`unauthenticated` in the same words whether the passkey is unknown or the signature another's; `too_large` as
        with `add`."""
        _check_sizes(credential)
        with self._attempts.attempt(None, visit.address) as attempt:
            found = await self._found(state, credential)
            attempt.good = not isinstance(found, Error)
        if isinstance(found, Error):
            logger.info("passkey refused", extra={"ip": visit.address})
            raise found
        account, passkey = found
        tokens = await self._log_in(account, visit, "passkey", passkey.id)
        if await self._passkeys.find(passkey.id) is None:  # removed while all that waited
            await self._families.end(tokens["refresh_token"])
            raise _unknown()
        return tokens

    async def _found(self, state: str, credential: ShownCredential) -> tuple[Account, Passkey] | Error:
        """Or why nobody is let in."""
        redeemed = await self._tokens.redeem(_SIGN_IN, state)
        if redeemed is None:
            return Error("unauthenticated", "state: not one of a sign-in that was begun here, or not any more")
        challenge = redeemed.about["challenge"]
        if why := self._foreign(credential.response.client_data, challenge):
            return Error("unauthenticated", why)
        return await self._verified(credential, challenge) or _unknown()

    async def _verified(self, credential: ShownCredential, challenge: bytes) -> tuple[Account, Passkey] | None:
        passkey = await self._passkeys.find(credential.id)
        account = None if passkey is None else await self._accounts.find(passkey.user)
        if passkey is None or account is None or credential.response.handle != account.handle:
            return None
        try:
            good = webauthn.verify_authentication_response(
                credential=msgspec.to_builtins(credential),
                expected_challenge=challenge,
                expected_rp_id=self.domain,
                expected_origin=self._origins,
                credential_public_key=passkey.key,
                credential_current_sign_count=0,
                require_user_verification=True,
            )
        except Exception as error:  # whatever the library stumbles over, in what a stranger may have made up
            logger.info("a passkey was refused: %s", type(error).__name__, extra={"user": account.user})
            return None
        count = good.new_sign_count
        if (count or passkey.count) and count <= passkey.count:
            # Behind a good signature: so two devices have the key that only one was to have.
            logger.warning("a passkey's count went back: it may have been copied", extra={"user": account.user})
            return None
        synced = good.credential_device_type is CredentialDeviceType.MULTI_DEVICE
        noted = await self._passkeys.note_use(passkey, count, synced, self._clock.now_ms())
        return (account, passkey) if noted else None

    # --- parts --------------------------------------------------------------------------------------------------------

    def _foreign(self, client_data: str, challenge: bytes) -> str:
        """Why what the browser says of the question is not about ours; empty: it is."""
        try:
            said = parse_client_data_json(base64url_to_bytes(client_data))
        except Exception:  # it is the stranger's: text, JSON and base64 may each be none
            return "credential.response.clientDataJSON: not what a browser makes"
        if not secrets.compare_digest(said.challenge, challenge):
            return "credential: the answer to another challenge"
        if said.origin not in self._origins:
            return f"credential: of a page that is not one of {', '.join(self._origins)}"
        if said.cross_origin:
            return "credential: of a page within another one's"
        return ""


def _unknown() -> Error:
    return Error("unauthenticated", "credential: not a passkey of an account here, or not good")


def _check_sizes(credential: NewCredential | ShownCredential) -> None:
    said = msgspec.to_builtins(credential)
    for path, within in (("credential", said), ("credential.response", said["response"])):
        for name, text in within.items():
            if isinstance(text, str) and len(text) > SAID:
                raise Error("too_large", f"{path}.{name}: {len(text)} characters; {SAID} at most")
