"""The server without its doors: knows no Tornado and no handler. See docs/life-of-a-message.md."""

__version__ = "0.1.0"
