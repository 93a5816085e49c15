"""JSON Schema of collections. The validator is one whose time grows with the document alone: `uniqueItems` hashes, and
a pattern gives up after a fixed number of steps, whatever the text is (then it does not match).

It is native code, in which nothing else runs. So what takes long for each value is done value by value, from Python,
between which the event loop has its turn: `multipleOf`, and patterns that only a backtracking engine understands.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Context, Decimal
from typing import Any, Final

import jsonschema_rs

from server.core.config import Collection
from server.core.errors import StartError, bad_request
from server.documents.document_json import Json

_STEPS: Final = 10_000
_NAME_STEPS: Final = 100
"""The same for the names of fields (`patternProperties`), which are short, many, and all looked at in one go."""
_EXACT: Final = Context(prec=800)
"""As many digits as the quotient of two numbers of 64 bits may have."""


class Schemas:
    """StartError names the collection whose schema is none."""

    def __init__(self, collections: Mapping[str, Collection]) -> None:
        self._validators = {name: _validator(name, one.schema) for name, one in collections.items() if one.schema}

    def __contains__(self, collection: str) -> bool:
        return collection in self._validators

    def check(self, collection: str, fields: Json) -> None:
        """`bad_request` names the first place that is wrong. `fields` are without `_id` and `_rev`. It may take long
        for a large document."""
        validator = self._validators.get(collection)
        if validator is None:
            return
        try:
            validator.validate(fields)
        except jsonschema_rs.ValidationError as error:
            place = ".".join(map(str, error.instance_path)) or "document"
            raise bad_request(
                f"{place}: {error.message[:200]}", f"document: not as the schema of {collection}"
            ) from None


class _MultipleOf:
    """Exactly, by the decimal digits in which numbers are written."""

    def __init__(self, parent: Json, value: float, path: list[str]) -> None:
        self._value = value
        self._divisor = Decimal(repr(value))

    def validate(self, instance: Any) -> None:
        number = isinstance(instance, int | float) and not isinstance(instance, bool)
        if number and _EXACT.remainder(Decimal(repr(instance)), self._divisor):
            raise ValueError(f"the value is not a multiple of {self._value}")


class _Pattern:
    """A text at a time, each within _STEPS."""

    def __init__(self, parent: Json, value: str, path: list[str]) -> None:
        self._value = value
        options = jsonschema_rs.FancyRegexOptions(backtrack_limit=_STEPS)
        self._matches = jsonschema_rs.validator_for({"pattern": value}, pattern_options=options).is_valid

    def validate(self, instance: Any) -> None:
        if isinstance(instance, str) and not self._matches(instance):
            raise ValueError(f'the value does not match "{self._value}"')


def _validator(name: str, schema: Json) -> Any:
    try:
        return jsonschema_rs.validator_for(
            schema,
            pattern_options=jsonschema_rs.FancyRegexOptions(backtrack_limit=_NAME_STEPS),
            keywords={"multipleOf": _MultipleOf, "pattern": _Pattern},
            offline=True,  # nothing is ever fetched
            mask="the value",  # what it says quotes nothing, for in a patched document that may be another's
        )
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
        reason = getattr(error, "message", str(error))
        raise StartError(f"configuration: collections.{name}.schema: {reason.splitlines()[0][:200]}") from None
