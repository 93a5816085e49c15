// The table of what is said and answered (tests/shared/wire.json), with the client's WebSocket on one side and the table on
// the other: what the server's own tests hold it to is what the client understands. Run by test_client_node.py.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import { WebSocketLink } from "../../static/waterspout/websocket.js";

const { scripts } = JSON.parse(await readFile(new URL("../shared/wire.json", import.meta.url), "utf8"));

/** A value of the kind that a placeholder of the table stands for. */
const filled = (value) => JSON.parse(JSON.stringify(value), (_, one) => (one === "…" || one?.[0] === "$" ? "e:1" : one));

for (const { name, steps } of scripts.filter(({ steps }) => steps.every((step) => !("client_text" in step)))) {
  test(name, (t) => {
    const sent = [];
    let socket;
    class Socket {
      constructor() {
        socket = this;
      }
      send(text) {
        sent.push(JSON.parse(text));
      }
      close() {}
    }
    const pushes = [];
    const events = { open: () => {}, push: (push) => pushes.push(push), end: () => {}, limited: () => {} };
    const link = new WebSocketLink(Socket, "ws://localhost", undefined, 8, events);
    t.after(() => link.end(1000, ""));
    const hear = (object) => socket.onmessage({ data: JSON.stringify(object) });
    const ids = new Map();
    const answers = new Map();
    for (const step of steps) {
      const { client, server, any_order: several = server ? [server] : [] } = step;
      if (client && typeof client.type === "string" && Number.isInteger(client.id)) {
        const { type, id, ...fields } = filled(client);
        link.send(type, fields, (error, reply) => answers.set(id, error ?? reply));
        const { id: own, ...rest } = sent.at(-1);
        assert.deepEqual(rest, { type, ...fields });
        ids.set(id, own);
      }
      for (const object of several.map(filled)) {
        if (object.type !== "reply" && object.type !== "error") {
          hear(object);
          assert.deepEqual(pushes.at(-1), object);
        } else if (ids.has(object.id)) {
          hear({ ...object, id: ids.get(object.id) });
          const answer = answers.get(object.id);
          if (object.type === "reply") assert.deepEqual({ ...answer, id: object.id }, object);
          else assert.deepEqual([answer.code, answer.reason, answer.retry], [object.code, object.reason, object.retry]);
        } else hear(object); // of a frame that this client would not send
      }
    }
    assert.equal(answers.size, ids.size, "each command has its answer");
    assert.equal(link.over, false);
  });
}
