"""What a client would like to have (RFC 9110, section 12.5): `Accept` and `Accept-Encoding`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache


def _weighed(header: str) -> Iterator[tuple[str, float]]:
    """The elements of a list and their weights, 0 to 1. A weight that is none counts as 0."""
    for part in header.split(","):
        name, *parameters = (piece.strip().lower() for piece in part.split(";"))
        weight = 1.0
        for parameter in parameters:
            if parameter.replace(" ", "").startswith("q="):
                try:
                    weight = min(max(float(parameter.partition("=")[2]), 0.0), 1.0)
                except ValueError:
                    weight = 0.0
        if name:
            yield name, weight


def _quality(header: str, ranks: Mapping[str, int]) -> float | None:
    """The weight of what fits best: `ranks` has the higher number for the more specific name. None: nothing fits."""
    best, quality = -1, None
    for name, weight in _weighed(header):
        rank = ranks.get(name, -1)
        if rank > best:
            best, quality = rank, weight
    return quality


def media_quality(accept: str, media_type: str) -> float:
    """How much `media_type` is wanted, by the most specific range that fits."""
    return _quality(accept, {"*/*": 0, media_type.partition("/")[0] + "/*": 1, media_type: 2}) or 0.0


@lru_cache(maxsize=256)
def best_media_type(accept: str, offered: tuple[str, ...]) -> str | None:
    """The first of those that are wanted most; None: none of them is."""
    best = max(offered, key=lambda media_type: media_quality(accept, media_type))
    return best if media_quality(accept, best) else None


def wants_page(accept: str) -> bool:
    """Whether a person asks: a browser names HTML before anything else, a program does not."""
    return media_quality(accept, "text/html") > media_quality(accept, "application/json")


@lru_cache(maxsize=256)
def content_coding(accept_encoding: str) -> str | None:
    """`gzip` or `identity`, whichever is wanted more; None: neither will do."""
    gzip = _quality(accept_encoding, {"*": 0, "x-gzip": 1, "gzip": 2})
    identity = _quality(accept_encoding, {"*": 0, "identity": 1})
    if identity is None:
        return "gzip" if gzip else "identity"  # always acceptable, and wanted less than what is named
    if gzip and gzip >= identity:
        return "gzip"
    return "identity" if identity else None
