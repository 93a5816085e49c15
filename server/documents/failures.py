"""What MongoDB says of reads and writes of documents, as errors for clients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from pymongo.errors import (
    ConnectionFailure,
    DocumentTooLarge,
    DuplicateKeyError,
    ExecutionTimeout,
    InvalidOperation,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WriteConcernError,
    WTimeoutError,
)

from server.core.errors import Error, bad_request
from server.mongo.client import DUPLICATE_KEY, brief

TOO_LATE: Final = 241
"""ConversionFailure: of a write that began after its deadline (commands.py)."""
_BAD_QUERY: Final = (2, 15)
"""BadValue (two lists to sort by), Overflow"""
_PASSING: Final = (91, 189, 10107, 11600, 11602)
"""Codes of a primary that is leaving."""


def not_found(collection: str, identifier: str) -> Error:
    return Error("not_found", f"document_id: there is no {identifier[:100]} in {collection}")


def unknown() -> Error:
    return Error("outcome_unknown", "MongoDB did not say whether it is stored; look, or write again", retry_after=1.0)


def not_stored() -> Error:
    return Error("unavailable", "MongoDB is too slow; nothing is stored, and nothing will be", retry_after=1.0)


def taken(field: str) -> Error:
    return Error("conflict", f"{field}: another document has the same")


def is_passing(error: OperationFailure) -> bool:
    """Of a server that is leaving, and not of what was asked."""
    return isinstance(error, ConnectionFailure) or error.code in _PASSING


def is_about_id(error: DuplicateKeyError) -> bool:
    """Whether it is the `_id` that is there already, and not a value of another unique index."""
    return "_id" in (error.details or {}).get("keyPattern", {"_id": 1})


@contextmanager
def mapped_query() -> Iterator[None]:
    """What MongoDB says of the query, and not of itself."""
    try:
        yield
    except OperationFailure as error:
        if error.code not in _BAD_QUERY:
            raise
        raise bad_request(f"query: {brief(error)}") from None


@contextmanager
def mapped_write() -> Iterator[None]:
    try:
        yield
    except PyMongoError as error:
        raise refusal(error) from error


def refusal(error: PyMongoError) -> Error:
    details = error.details or {} if isinstance(error, OperationFailure) else {}
    if isinstance(error, DuplicateKeyError) or getattr(error, "code", None) == DUPLICATE_KEY:
        return taken(", ".join(details.get("keyPattern", {"_id": 1})))
    if isinstance(error, ServerSelectionTimeoutError | InvalidOperation):
        return Error("unavailable", f"MongoDB: {brief(error)}", retry_after=1.0)
    if isinstance(error, WriteConcernError | WTimeoutError | ExecutionTimeout | ConnectionFailure):
        return unknown()
    if not isinstance(error, OperationFailure):
        return Error("too_large" if isinstance(error, DocumentTooLarge) else "bad_request", f"document: {brief(error)}")
    if error.code == TOO_LATE:
        return not_stored()
    if error.code in (13, 18, *_PASSING):
        return Error("unavailable", f"MongoDB: {brief(error)}", retry_after=0.1)
    if error.code in (10334, 17280, 17419, 17420):
        return Error("too_large", f"document: {brief(error)}")
    return bad_request(f"document: {brief(error)}")
