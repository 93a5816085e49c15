"""Your own rules: `check` is asked before a note is put on the wall. After a change, start the server again."""

from __future__ import annotations

from typing import Any

LONGEST = 280


def check(question: dict[str, Any]) -> dict[str, Any] | None:
    """The question names `channel`, `user` (None: a guest), `claims` of the token, and the `data`.

    None lets it pass; `{"allow": False, "reason": …}` refuses it, and the reason is what the sender reads;
    `{"data": …}` is published instead.
    """
    data = question["data"]
    text = data.get("text") if isinstance(data, dict) else None
    if not isinstance(text, str) or not text.strip():
        return {"allow": False, "reason": "a note needs a text"}
    if len(text) > LONGEST:
        return {"allow": False, "reason": f"a note has {LONGEST} characters at most"}
    return {"data": {"text": text.strip()}}
