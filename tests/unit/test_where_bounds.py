"""Trying a `where` on a document takes bounded work, whatever is asked and whatever is in it."""

from __future__ import annotations

from typing import Any

import pytest

from server.core.errors import Error
from server.documents.views import View
from server.documents.where import MAX_SIZE, STEPS, Facts, TooMuch, parse
from server.wire.messages import Message

LONG = [{f"k{n}": n for n in range(5)} for _ in range(STEPS // 20)]


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
    wheres = [parse({f"a.k{n}.x": {"$gt": 1}}) for n in range(25)]
    with pytest.raises(TooMuch):
        any(where.holds(facts) for where in wheres)
    assert not wheres[0].holds(facts)
    assert not any(where.matches({"a": LONG}) for where in wheres)


def test_deep_paths_cost_what_they_lead_through() -> None:
    """Not only lists count: many objects one in another do as well."""
    deep: Any = {"z": 1}
    for _ in range(20):
        deep = {"a": deep}
    facts = Facts({"l": [deep] * 500}, bounded=True)
    with pytest.raises(TooMuch):
        any(facts.at(f"l.{'a.' * 20}k{n}").texts for n in range(50))


def test_many_comparisons_with_one_list_look_for_its_greatest_once() -> None:
    """The same for the least; of no values there is neither."""
    numbers = Facts({"a": list(range(1000)), "b": []}).at("a")
    assert [numbers.extreme("numbers", which) for which in (max, min)] == [999, 0]
    assert numbers.extreme("texts", max) is None
    for operator, wanted, held in (("$gt", 998, True), ("$gt", 999, False), ("$lte", 0, True), ("$lt", 0, False)):
        assert parse({"a": {operator: wanted}}).matches({"a": list(range(1000))}) is held
    assert not parse({"b": {"$gte": 0}}).matches({"b": []})


def test_a_view_that_cannot_be_tried_tells_that_the_document_has_changed() -> None:
    """Like a document that is too large; to nobody but its owners; and a short one is not concerned."""
    asked = {f"a.k{n}.x": {"$ne": 1} for n in range(25)}
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
    {"a": {"$in": ["x" * 200] * 200}},
    {"x" * MAX_SIZE: 1},
])  # fmt: skip
def test_what_is_asked_for_is_bounded(where: Any) -> None:
    """Refused before it is read to the end."""
    with pytest.raises(Error) as refusal:
        parse(where)
    assert refusal.value.code == "bad_request"
