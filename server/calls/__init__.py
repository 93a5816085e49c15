"""Calls: methods of the user's back end that clients call through the server."""
