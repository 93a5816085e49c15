"""Asking a back end of the user's own, which is a URL or a Python function. Hooks, calls and consumers stand on it."""

from server.backend.answers import Refused

__all__ = ["Refused"]
