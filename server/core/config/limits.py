"""How much anybody may do: `limits`."""

from __future__ import annotations

from typing import Final

from server.core.config.values import Count, Rate, Section, Stored

REQUESTS: Final = 100.0
"""A second, by default."""
REQUESTS_BURST: Final = 500
"""Where nothing is said of either: many people may share an address. Whoever chooses a rate means that rate."""


class Limits(Section):
    message_bytes: Stored = 65536
    """of a message's data, encoded as JSON; 15 MiB at most, and that is what 0 means. A WebSocket frame may have twice
    that. REST bodies end at 1 MiB in any case"""
    document_bytes: Stored = 1048576
    """of a document's fields, encoded as JSON; 15 MiB at most, and that is what 0 means. REST bodies end at 1 MiB in
    any case, WebSocket frames at twice `message_bytes`"""
    messages_per_second: Count = 50
    """per WebSocket connection: publishes and history reads"""
    burst: Count = 100
    """how many may be saved up"""
    key_messages_per_second: Rate = 0.0
    """the same for WebSockets of API keys"""
    key_burst: Count = 0
    """0: a second's worth"""
    cost_per_second: Count = 1000
    """per WebSocket connection: what all that it sends may cost ([protocol](protocol.md#limits)), publishes and reads
    apart; a chat needs 1 or 2. API keys are not counted"""
    cost_burst: Count = 20000
    """how much may be saved up"""
    channels_per_connection: Count = 128
    """subscriptions of one WebSocket at a time, of one event stream or poll likewise"""
    presence_users: Count = 1000
    """in a channel with more of them only their number is told: no names, no joins, no leaves. 0: names always"""
    queue_bytes: Count = 1048576
    """waiting for one client; beyond it is served from the log, at its pace"""
    connections: Count = 10000
    """of one instance: WebSockets, event streams, waiting polls and connections of plain HTTP. Of the latter the idle
    make room for others; 16 are let in beside those that have taken all seats"""
    connections_per_user: Count = 20
    """connections of one user to one instance; guests and API keys are not counted"""
    connections_per_ip: Count = 50
    """of one address (of IPv6: of one /64) to one instance, as with `connections`"""
    members_per_channel: Count = 10000
    """where channels have members"""
    memberships_per_user: Count = 1000
    """channels that one user is a member of"""
    threads_per_user: Count = 1000
    """threads that one user follows; beyond, the oldest are no more, first those that others have brought"""
    scheduled_per_user: Count = 1000
    """messages of one user that wait to be published later; API keys are not counted"""
    user_messages_per_second: Rate = 0.0
    """the same of a user over all its connections to one instance, and over REST; of guests per address. API keys are
    not counted"""
    user_burst: Count = 0
    """0: a second's worth"""
    requests_per_second: Rate | None = None
    """REST requests of a user to one instance; of guests, and of requests that fail to prove who they are, per address.
    API keys are not counted. Null: 100, or no limit where `messages_per_second` is 0"""
    requests_burst: Count | None = None
    """how many may be saved up; 0: a second's worth. Null: 500 with the default rate, a second's worth of any other"""

    def rate_of_requests(self) -> float:
        """`requests_per_second`, where null is worked out."""
        if self.requests_per_second is not None:
            return self.requests_per_second
        return REQUESTS if self.messages_per_second else 0.0

    def saved_requests(self) -> int:
        """`requests_burst`, where null is worked out."""
        if self.requests_burst is not None:
            return self.requests_burst
        return REQUESTS_BURST if self.rate_of_requests() == REQUESTS else 0
