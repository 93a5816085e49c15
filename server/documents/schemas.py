"""JSON Schema of collections. The validator is one whose time grows with the document alone: `uniqueItems` hashes, and
a pattern gives up after a fixed number of steps, whatever the text is (then it does not match)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import jsonschema_rs

from server.core.config import Collection
from server.core.errors import StartError, bad_request
from server.documents.document_json import Json

_STEPS: Final = 10_000


class Schemas:
    """StartError names the collection whose schema is none."""

    def __init__(self, collections: Mapping[str, Collection]) -> None:
        self._validators = {name: _validator(name, one.schema) for name, one in collections.items() if one.schema}

    def check(self, collection: str, fields: Json) -> None:
        """`bad_request` names the first place that is wrong. `fields` are without `_id` and `_rev`."""
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


def _validator(name: str, schema: Json) -> Any:
    try:
        return jsonschema_rs.validator_for(
            schema,
            pattern_options=jsonschema_rs.FancyRegexOptions(backtrack_limit=_STEPS),
            offline=True,  # nothing is ever fetched
            mask="the value",  # what it says quotes nothing, for in a patched document that may be another's
        )
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
        reason = getattr(error, "message", str(error))
        raise StartError(f"configuration: collections.{name}.schema: {reason.splitlines()[0][:200]}") from None
