"""How much strangers and users may have stored in an hour: `quotas`."""

from __future__ import annotations

from msgspec import field

from server.core.config.values import Count, Section


class Quota(Section):
    """Of one holder, in an hour, by one instance."""

    new_channels: Count = 0
    messages: Count = 0
    bytes: Count = 0
    new_documents: Count = 0


class GuestQuota(Quota):
    new_channels: Count = 300
    """channels in which a guest's message is the first one; of guests per address (IPv6: per /64)"""
    messages: Count = 100_000
    """messages that are stored, and kept answers to calls; ephemeral messages are not counted"""
    bytes: Count = 16 << 20
    """of their data and of documents that are put and patched, encoded as JSON"""
    new_documents: Count = 1000
    """documents that did not exist before"""


class UserQuota(Quota):
    new_channels: Count = 4000
    """the same of one user"""
    messages: Count = 100_000
    """likewise"""
    bytes: Count = 256 << 20
    """likewise"""
    new_documents: Count = 10_000
    """likewise"""


class NamespaceQuota(Quota):
    new_channels: Count = 20_000
    """the same of each namespace, over all its guests and users"""
    messages: Count = 0
    """likewise"""
    bytes: Count = 8 << 30
    """likewise; of each collection apart"""
    new_documents: Count = 100_000
    """of each collection"""


class Quotas(Section):
    enforced: bool | None = None
    """null: unless `limits.messages_per_second` is 0, so that who lets anybody publish without end is not held back by
    limits of another name"""
    guest: GuestQuota = field(default_factory=GuestQuota)
    user: UserQuota = field(default_factory=UserQuota)
    namespace: NamespaceQuota = field(default_factory=NamespaceQuota)
