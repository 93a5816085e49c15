"""Who is asking: a token or a ticket becomes a principal, unless it has been taken back."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from server.access.admission import Admission
from server.access.auth import Authenticator
from server.access.revocations import Revocations
from server.access.tickets import Tickets
from server.core.errors import Error
from server.core.principals import Principal


class Identities:
    """`max_token_ttl`: seconds that a token may be good for; 0: any."""

    def __init__(
        self,
        authenticator: Authenticator,
        tickets: Tickets,
        revocations: Revocations,
        admission: Admission,
        max_token_ttl: float,
    ) -> None:
        self._admission = admission
        self._authenticator = authenticator
        self._tickets = tickets
        self._revocations = revocations
        self._max_token_ttl = max_token_ttl

    def authenticate(
        self, token: str | None, address: str | None = None, read: Callable[[str | None], Principal] | None = None
    ) -> Principal:
        """The principal of a bearer token, or a guest; `unauthenticated` (revoked tokens too), `token_expired`, or
        `permission_denied` (who is banned). And `rate_limited`, before a signature is looked at, where there is no
        request left for guests of `address`. `read`: what understands the token, if it is not the authenticator."""
        if address is not None and token is not None and not self._authenticator.knows(token):
            self._admission.check_unproven(address)
        principal = (read or self._authenticator.authenticate)(token)
        self.recognize(principal)
        return principal

    def redeem(self, ticket: str, channels: Sequence[str], address: str | None = None) -> Principal:
        """Whoever got the ticket, unless their token has been revoked. `rate_limited` as with `authenticate`."""
        if address is not None:
            self._admission.check_unproven(address)
        principal = self._tickets.redeem(ticket, list(channels))
        self.recognize(principal)
        return principal

    def recognize(self, principal: Principal) -> None:
        """`unauthenticated` if what proves the principal was revoked, or is good for longer than tokens may be;
        `permission_denied` if the user is banned."""
        if self._revocations.token(principal):
            raise self._revocations.refusal(principal)
        longest = self._max_token_ttl
        if longest and principal.expires is not None:
            if principal.issued is None:
                raise Error("unauthenticated", "the token is not valid: iat is needed, auth.max_token_ttl is set")
            if principal.expires - principal.issued > longest:
                raise Error(
                    "unauthenticated", f"the token is not valid: exp - iat is over auth.max_token_ttl, {longest:g} s"
                )
