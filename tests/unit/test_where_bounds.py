"""Trying a `where` on a document takes bounded work, whatever is asked and whatever is in it."""

from __future__ import annotations

from typing import Any

import pytest

from server.core.errors import Error
from server.documents.views import View
from server.documents.where import FREE, PASSES, Facts, TooMuch, parse
from server.wire.messages import Message

LONG = [{f"k{n}": n for n in range(5)} for _ in range(FREE)]


class Counting(list[Any]):
    """A list that counts how often it is gone through."""

    passes = 0

    def __iter__(self) -> Any:
        self.passes += 1
        return super().__iter__()


def test_many_values_asked_for_in_many_elements_are_one_pass() -> None:
    """`$in` of 200 and a list of 10,000 are not two million comparisons; and all conditions share what was found."""
    elements = Counting(range(10_000))
    facts = Facts({"a": elements}, bounded=True)
    where = parse({"a": {"$in": [-1 - n for n in range(199)] + [9_999], "$gt": 9_998, "$lt": 1, "$ne": -5}})
    assert where.holds(facts)
    assert parse({"a": 5_000}).holds(facts)
    assert elements.passes <= 3


def test_too_many_paths_through_a_long_list_are_given_up() -> None:
    """Those that are known already are still answered; without the bound all are."""
    facts = Facts({"a": LONG}, bounded=True)
    wheres = [parse({f"a.k{n}.x": {"$gt": 1}}) for n in range(PASSES + 5)]
    with pytest.raises(TooMuch):
        any(where.holds(facts) for where in wheres)
    assert not wheres[0].holds(facts)
    assert not any(where.matches({"a": LONG}) for where in wheres)


def test_a_view_that_cannot_be_tried_tells_that_the_document_has_changed() -> None:
    """Like a document that is too large; to nobody but its owners; and a short one is not concerned."""
    asked = {f"a.k{n}.x": {"$ne": 1} for n in range(PASSES + 5)}
    view = View("docs:c", "c", where=parse(asked))
    data = {"op": "put", "id": "1", "rev": "r", "document": {"a": LONG}}
    shown = view.show(Message("docs:c", "e", 1, "k", None, 0, data, images=(None, None)))
    assert shown is not None
    assert shown.data == {"op": "put", "id": "1", "rev": None, "document": None, "truncated": True}
    short = {**data, "document": {"a": LONG[:10]}}
    shown = view.show(Message("docs:c", "e", 1, "k", None, 0, short, images=(None, None)))
    assert shown is not None
    assert shown.data == short


@pytest.mark.parametrize("where", [
    {"$and": [{} for _ in range(51)]},
    {"$and": [{"$and": [{} for _ in range(50)]} for _ in range(51)]},
    {"$and": [{"a": 1} for _ in range(50)], "b": 1},
    {"a": {"$in": list(range(201))}},
])  # fmt: skip
def test_what_is_asked_for_is_bounded(where: Any) -> None:
    """Refused before it is read to the end."""
    with pytest.raises(Error) as refusal:
        parse(where)
    assert refusal.value.code == "bad_request"
