"""Channels with members: who belongs to them, how far they have read, and what each user's rooms are."""
