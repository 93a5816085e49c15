"""What REST takes and answers of accounts: docs/accounts.md tells it to people, /openapi.json to programs."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired, TypedDict

from msgspec import UNSET, Meta, Struct, UnsetType, field

from server.wire.commands import DEFAULT_PAGE, Limit

Email = Annotated[str, Meta(max_length=254, examples=["ann@example.com"])]


class LoginRequest(Struct):
    user: str
    password: str


class RegisterRequest(LoginRequest, kw_only=True):
    email: Email | None = None
    info: Annotated[Any, Meta(description="What others may be shown")] = None


class RefreshRequest(Struct):
    refresh_token: Annotated[str, Meta(max_length=255)]


class ExampleRequest(Struct):
    user: str


class ElsewhereRequest(Struct, rename={"back": "return"}):
    """`return`: the page to come back to; `challenge`: the base64url of the SHA-256 of a random text, the verifier,
    that the page keeps."""

    back: Annotated[str, Meta(max_length=1024, examples=["/chat/"])]
    challenge: Annotated[str, Meta(max_length=43)]


class Elsewhere(TypedDict):
    url: Annotated[str, Meta(description="Where the browser goes")]


class BackQuery(Struct):
    state: str = ""
    code: str | None = None
    iss: str | None = None
    error: str | None = None


class FinishRequest(Struct):
    code: Annotated[str, Meta(max_length=255, description="As it stands behind `#sign-in=`")]
    verifier: Annotated[str, Meta(max_length=255)]


OneTimeToken = Annotated[str, Meta(max_length=255, description="As it was mailed; good once")]


class ForgotRequest(Struct):
    """One of the two."""

    user: str | None = None
    email: Email | None = None


class PasswordResetRequest(Struct):
    token: OneTimeToken
    password: str


class VerifyRequest(Struct):
    token: OneTimeToken


class PasswordRequest(Struct):
    old: str
    password: str


class EmailRequest(Struct):
    """`email`: null for none. `password`: the account's, unless it has none."""

    email: Email | None
    password: str = ""


class ProfileRequest(Struct):
    info: Annotated[Any, Meta(description="What others may be shown")]


class PasskeyProof(Struct):
    """The account's password, unless it has none."""

    password: str = ""


Base64url = Annotated[str, Meta(description="Bytes in base64url")]
State = Annotated[str, Meta(max_length=255, description="As it came with the options; good once")]


class CreatedResponse(Struct, rename={"client_data": "clientDataJSON", "attestation": "attestationObject"}):
    client_data: Base64url
    attestation: Base64url
    transports: Annotated[list[str], Meta(max_length=16)] = field(default_factory=list)


class NewCredential(Struct, rename={"raw_id": "rawId"}):
    """What `navigator.credentials.create` has made, as its `toJSON()` says it."""

    id: Base64url
    raw_id: Base64url
    response: CreatedResponse
    type: Literal["public-key"] = "public-key"


class ShownResponse(
    Struct, rename={"client_data": "clientDataJSON", "authenticator": "authenticatorData", "handle": "userHandle"}
):
    client_data: Base64url
    authenticator: Base64url
    signature: Base64url
    handle: Base64url


class ShownCredential(Struct, rename={"raw_id": "rawId"}):
    """What `navigator.credentials.get` has found, as its `toJSON()` says it."""

    id: Base64url
    raw_id: Base64url
    response: ShownResponse
    type: Literal["public-key"] = "public-key"


class PasskeyRequest(Struct):
    state: State
    credential: ShownCredential


class NewPasskeyRequest(Struct):
    state: State
    name: Annotated[str, Meta(max_length=255, description="What its owner calls it", examples=["My phone"])]
    credential: NewCredential


class PasskeyQuestion(TypedDict):
    """`options`: `publicKey` of `navigator.credentials`, with bytes in base64url."""

    state: str
    options: dict[str, Any]


class PasskeyRow(TypedDict):
    """Times are milliseconds since 1970. `synced`: it is not on one device alone."""

    passkey: str
    name: str
    created: int
    used: int | None
    synced: bool


class PasskeyRows(TypedDict):
    passkeys: list[PasskeyRow]


class Tokens(TypedDict):
    user: str
    token: str
    expires: Annotated[int, Meta(description="Seconds since 1970")]
    refresh_token: str


class Provider(TypedDict):
    """Where one can sign in with an account one has there."""

    name: str
    title: str


class WaysIn(TypedDict):
    """What a page needs to know before anybody has signed in. `mail`: a forgotten password can be reset, and addresses
    are verified; `passkeys`: the domain that they are bound to, null without; `examples`: whom one click signs in as,
    in development."""

    guests: bool
    accounts: bool
    mail: bool
    providers: list[Provider]
    passkeys: str | None
    examples: list[str]


class OwnAccount(TypedDict):
    """Times are milliseconds since 1970. `verified`: the address has been proved; one that has not is a claim.
    `password`: whether there is one."""

    user: str
    info: Any
    email: str | None
    verified: bool
    roles: list[str]
    created: int
    password: bool


class SessionRow(TypedDict):
    """A sign-in. Times are milliseconds since 1970; `way`: how it was proved who it is."""

    session: str
    created: int | None
    used: int | None
    expires: int
    address: str
    agent: str
    way: str
    current: Annotated[bool, Meta(description="The one whose token has asked")]


class SessionRows(TypedDict):
    sessions: list[SessionRow]


# --- for operators ----------------------------------------------------------------------------------------------------

Roles = Annotated[list[str], Meta(max_length=32, examples=[["agent"]])]


class AccountsQuery(Struct):
    prefix: str = ""
    after: Annotated[str, Meta(description="A name")] = ""
    limit: Limit = DEFAULT_PAGE
    role: str | None = None
    disabled: bool | None = None


class AccountRow(OwnAccount):
    """`signed_in`: the last time, milliseconds since 1970; `identities`: where it signs in elsewhere."""

    disabled: bool
    signed_in: int | None
    identities: list[str]


class AccountsPage(TypedDict):
    """`next` is the `after` of the next page."""

    accounts: list[AccountRow]
    next: str | None


class CreateAccount(Struct):
    """Without a password there is an invitation in the answer, to set one."""

    user: str
    password: str | None = None
    email: Email | None = None
    verified: bool = False
    roles: Roles = field(default_factory=list)
    info: Any = None


class ChangeAccount(Struct):
    """What is not given stays as it is."""

    disabled: bool | UnsetType = UNSET
    roles: Roles | UnsetType = UNSET
    email: Email | UnsetType | None = UNSET
    verified: bool | UnsetType = UNSET
    info: Annotated[Any, Meta(description="What others may be shown")] | UnsetType = UNSET


class Invitation(TypedDict):
    """What sets a password, once, for a week. The link is for the user alone."""

    token: str
    link: str
    expires: Annotated[int, Meta(description="Milliseconds since 1970")]


class CreatedAccount(AccountRow):
    invitation: NotRequired[Invitation]
