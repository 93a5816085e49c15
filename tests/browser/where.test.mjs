// static/waterspout/where.js answers as the server does: the cases are tests/shared/where.json. Run by test_client_node.py.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { matches } from "../../static/waterspout/where.js";

const cases = JSON.parse(readFileSync(new URL("../shared/where.json", import.meta.url), "utf8"));

test("a document matches here if it matches in the server", () => {
  const told = cases.filter((one) => "matches" in one);
  assert.ok(told.length > 100);
  for (const { document, where, matches: expected } of told)
    assert.equal(matches(document, where), expected, JSON.stringify({ document, where }));
});
