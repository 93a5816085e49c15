// static/waterspout.js and what goes wrong around it: names, tokens, storages, limits, endings. Run by test_client_node.py.

import assert from "node:assert/strict";
import { test } from "node:test";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import * as http from "./scripted-http.mjs";
import * as socket from "./scripted-socket.mjs";

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function until(condition) {
  while (!condition()) await pause(2);
}

/** What is said on the console meanwhile. */
function overheard(t) {
  const lines = [];
  t.mock.method(console, "error", (line) => lines.push(line));
  return lines;
}

const message = (offset, channel = "chat:a") => ({ type: "message", channel, offset, cursor: `e:${offset}`, data: offset });

// --- names -----------------------------------------------------------------------------------------------------------

for (const kind of ["websocket", "http"]) {
  test(`half a surrogate pair is refused where it stands, and nothing else is: ${kind}`, async (t) => {
    const { client, states } = kind === "http" ? await http.begin(t, () => false) : socket.begin(t);
    const refused = { code: "bad_request" };
    await client.channel("chat:good").subscribe();
    const bad = client.channel("chat:room\ud83d");
    const ended = [];
    bad.on("ended", ({ code }) => ended.push(code));
    await assert.rejects(bad.subscribe(), refused);
    await bad.unsubscribe();
    await assert.rejects(bad.publish(1), refused);
    await assert.rejects(bad.publish(1, { ephemeral: true }), refused);
    await assert.rejects(bad.history(), refused);
    await assert.rejects(bad.presence(), refused);
    const good = client.channel("chat:good");
    await assert.rejects(good.publish({ text: "\udc00" }), { ...refused, reason: "data: half of a surrogate pair is not text" });
    await assert.rejects(good.publish(1, { key: "\ud83d" }), refused);
    await assert.rejects(good.history({ after: "\ud83d" }), refused);
    await assert.rejects(client.channel("chat:other").subscribe({ after: "\ud83d" }), refused);
    const orders = client.collection("orders");
    await assert.rejects(orders.get("\ud83d"), refused);
    await assert.rejects(orders.put("x", { "\ud83d": 1 }), refused);
    await assert.rejects(orders.delete("x", { rev: "\ud83d" }), refused);
    await assert.rejects(client.collection("\ud83d").find(), refused);
    const copy = client.watch("orders", { name: "\ud83d" });
    copy.on("ended", ({ code }) => ended.push(code));
    await until(() => ended.length === 2);
    assert.deepEqual(ended, ["bad_request", "bad_request"]);
    assert.equal(bad.state, "idle");
    const text = "\u{1f600} \\ud83d \\\\ud83d"; // whole pairs, and what only looks like a half
    if (kind === "http") await good.publish({ text });
    else void good.publish({ text }).catch(() => {});
    assert.ok(states.every(({ state }) => state !== "waiting" && state !== "closed"));
  });
}

test("what a URL cannot name is refused, and nothing else is asked for instead", async (t) => {
  const { client, calls, states } = await http.begin(t, () => false);
  await until(() => client.state === "open");
  const before = calls.length;
  for (const id of ["", ".", ".."]) await assert.rejects(client.collection("orders").get(id), { code: "bad_request" });
  await assert.rejects(client.collection("..").find(), { code: "bad_request" });
  await assert.rejects(client.collection("orders").put("x", {}, { rev: "\u2603" }), { code: "bad_request" });
  assert.equal(calls.length, before);
  assert.ok(states.every(({ state }) => state !== "waiting"));
});

test("a token that no header can carry ends the client, not the patience", async (t) => {
  const { client, states } = await http.begin(t, () => false, { token: "\u2603" });
  await until(() => client.state === "closed");
  assert.ok(states.every(({ state }) => state !== "waiting"));
});

test("an error that names no command belongs to the one that gets no answer", async (t) => {
  let now = performance.now();
  t.mock.method(performance, "now", () => now);
  t.mock.timers.enable({ apis: ["setInterval", "setTimeout"] });
  const { client, sockets } = socket.begin(t);
  await Promise.resolve();
  const publish = client.channel("chat:a").publish("not what the server can read");
  sockets[0].push({ type: "error", code: "bad_request", reason: "not JSON", retry: false });
  now += 21_000;
  t.mock.timers.tick(5000);
  await assert.rejects(publish, { code: "bad_request", reason: "not JSON" });
  assert.equal(client.state, "open");
  client.close();
});

// --- tokens ----------------------------------------------------------------------------------------------------------

for (const kind of ["websocket", "http"]) {
  test(`a token that takes longer than the patience is waited for, and asked for once: ${kind}`, async (t) => {
    let asked = 0;
    const token = async () => {
      asked++;
      await pause(150);
      return "slow";
    };
    const options = { token, patience: 0.04 };
    const { client, states } = kind === "http" ? await http.begin(t, () => false, options) : socket.begin(t, options);
    await until(() => client.state === "open");
    assert.equal(asked, 1);
    assert.ok(states.every(({ state }) => state !== "waiting"));
  });
}

test("a client that is closed while it waits for a token stays closed", async (t) => {
  const { client, sockets } = socket.begin(t, { token: () => pause(20).then(() => "late") });
  client.close();
  await pause(40);
  assert.deepEqual([client.state, sockets.length], ["closed", 0]);
});

// --- what is forgotten -----------------------------------------------------------------------------------------------

test("channels that nobody uses any more are forgotten, and where they were left is not", async (t) => {
  setFlagsFromString("--expose-gc");
  const collect = runInNewContext("gc");
  const { client, sockets } = socket.begin(t);
  await pause(5);
  const [{ constructor: Socket }] = sockets;
  const send = Socket.prototype.send;
  Socket.prototype.send = function (text) {
    send.call(this, text);
    const command = JSON.parse(text);
    if (command.type === "presence") this.reply(command, { users: [], count: 0, guests: 0 });
    else if (command.type === "unsubscribe" || command.type === "publish") this.reply(command, {});
  };
  const references = [];
  const visit = async (name) => {
    const channel = client.channel(name);
    const off = [channel.on("message", () => {}), channel.members().on("change", () => {})];
    await channel.subscribe();
    sockets[0].push(message(7, name));
    await channel.publish(1);
    await channel.unsubscribe();
    for (const end of off) end();
    references.push(new WeakRef(channel));
  };
  for (let index = 0; index < 50; index++) await visit(`chat:${index}`);
  client.channel("chat:listened").on("message", () => {});
  const listened = new WeakRef(client.channel("chat:listened"));
  const kept = client.channel("chat:kept");
  sockets[0].sent.length = 0;
  await until(() => {
    collect();
    return references.filter((one) => one.deref()).length <= 1;
  });
  assert.ok(listened.deref(), "somebody listens");
  assert.equal(client.channel("chat:kept"), kept, "somebody holds it");
  await client.channel("chat:3").subscribe();
  assert.equal(sockets[0].sent.find(({ type }) => type === "subscribe").after, "e:7");
});

// --- storages --------------------------------------------------------------------------------------------------------

const refuse = () => {
  throw new DOMException("not here", "SecurityError");
};

for (const [what, getItem, warnings] of [
  ["throws", refuse, 1],
  ["has an object", () => ({}), 1],
  ["has a promise", () => Promise.resolve("e:1"), 1],
  ["has an empty text", () => "", 1],
  ["has undefined", () => undefined, 0],
  ["has what the server does not take", () => "[object Object]", 1],
]) {
  test(`a storage that ${what}: from now on, and that is told`, async (t) => {
    const { client, sockets } = socket.begin(t, { storage: { getItem, setItem: () => {} } });
    const told = [];
    client.on("warning", (warning) => told.push(warning));
    await pause(5);
    const { send } = sockets[0];
    sockets[0].send = function (text) {
      const command = JSON.parse(text);
      if (!command.after) return send.call(this, text);
      this.sent.push(command);
      this.push({ type: "error", id: command.id, code: "bad_request", reason: "after: not a cursor", retry: false });
    };
    await client.channel("chat:a").subscribe({ last: 5 });
    assert.equal(sockets[0].sent.at(-1).last, 5);
    assert.deepEqual(
      told.map(({ about, channel }) => [about, channel]),
      Array.from({ length: warnings }, () => ["storage", "chat:a"]),
    );
  });
}

test("a cursor that the caller gave and the server does not take is refused to the caller", async (t) => {
  const { client, sockets } = socket.begin(t, { storage: { getItem: () => "rubbish", setItem: () => {} } });
  await pause(5);
  sockets[0].send = function (text) {
    this.refuse(JSON.parse(text), { code: "bad_request", retry: false });
  };
  await assert.rejects(client.channel("chat:a").subscribe({ after: "mine" }), { code: "bad_request" });
});

test("a storage that is full is told of once, and again when it had worked in between", async (t) => {
  let full = true;
  const { client, sockets } = socket.begin(t, { storage: { getItem: () => null, setItem: () => full && refuse() } });
  const told = [];
  client.on("warning", ({ reason }) => told.push(reason));
  await client.channel("chat:a").subscribe();
  for (const state of [true, true, false, true]) {
    full = state;
    sockets[0].push(message(told.length + 1));
    globalThis.dispatchEvent?.(new Event("pagehide"));
    client._cursors.save();
  }
  assert.deepEqual(told, ["SecurityError: not here", "SecurityError: not here"]);
});

// --- limits ----------------------------------------------------------------------------------------------------------

/** A server that takes `burst` commands, and then one each `seconds`; `refused` counts. */
function limited(t, burst, seconds) {
  const scene = socket.begin(t);
  const counts = { taken: 0, refused: 0 };
  let next = 0;
  let left = burst;
  scene.limit = () => {
    scene.sockets[0].send = function (text) {
      const command = JSON.parse(text);
      this.sent.push(command);
      if (left > 0) left--;
      else if (performance.now() < next) {
        counts.refused++;
        return this.refuse(command, { code: "rate_limited", reason: "slowly", retry_after: seconds });
      } else next = performance.now() + seconds * 1000 - 1;
      counts.taken++;
      this.reply(command, { cursor: "e:1", head: "e:1", users: [{ user: "ann", sessions: 1 }], count: 1, guests: 0 });
    };
  };
  return { ...scene, counts };
}

test("the rate limit is waited out by all together: everything is answered, little is refused, and it is told", async (t) => {
  const scene = limited(t, 20, 0.004);
  await pause(5);
  scene.limit();
  const told = [];
  scene.client.on("limited", (event) => told.push(event));
  const names = Array.from({ length: 50 }, (_, index) => `chat:${index}`);
  const channels = names.map((name) => scene.client.channel(name));
  const members = channels.map((channel) => channel.members());
  const failed = [];
  for (const one of members) one.on("failed", (error) => failed.push(error));
  const publishes = channels.map((channel) => channel.publish("x"));
  await Promise.all(channels.map((channel) => channel.subscribe()));
  assert.equal((await Promise.all(publishes)).length, 50);
  await until(() => members.every(({ users }) => users.has("ann")));
  assert.deepEqual(failed, []);
  assert.ok(scene.counts.refused < 3 * scene.counts.taken, JSON.stringify(scene.counts));
  assert.ok(told[0].delay > 0 && told[0].waiting === 1 && told[0].reason === "slowly");
  assert.equal(told.at(-1).waiting, 0);
});

test("what was left while it waited for the rate limit is not subscribed to afterwards", async (t) => {
  const { client, sockets } = socket.begin(t);
  await pause(5);
  sockets[0].send = function (text) {
    const command = JSON.parse(text);
    this.sent.push(command);
    if (command.type === "subscribe") this.refuse(command, { code: "rate_limited", retry_after: 0.02 });
    else this.reply(command, {});
  };
  const channel = client.channel("chat:a");
  const refused = assert.rejects(channel.subscribe(), { code: "closed" });
  await channel.unsubscribe();
  await refused;
  await pause(40);
  assert.deepEqual(
    sockets[0].sent.slice(1).map(({ type }) => type),
    ["subscribe", "unsubscribe"],
  );
});

test("who is here is asked again when the server could not say", async (t) => {
  const { client, sockets } = socket.begin(t);
  const channel = client.channel("chat:a");
  const members = channel.members();
  await channel.subscribe();
  const asked = () => sockets[0].sent.filter(({ type }) => type === "presence");
  sockets[0].refuse(asked()[0], { code: "unavailable", retry_after: 0.01 });
  await until(() => asked().length === 2);
  sockets[0].reply(asked()[1], { users: [{ user: "ann", sessions: 1 }], count: 1, guests: 0 });
  await until(() => members.users.has("ann"));
});

// --- endings ---------------------------------------------------------------------------------------------------------

const shutOut = (sockets) => {
  sockets[0].send = function (text) {
    this.push({ type: "error", id: JSON.parse(text).id, code: "unauthenticated", reason: "token: expired", retry: false });
  };
};

test("refused for good: every subscription says why, and none of it is on the console", async (t) => {
  const lines = overheard(t);
  const { client, sockets } = socket.begin(t);
  shutOut(sockets);
  const ended = [];
  const copy = client.watch("orders");
  const channel = client.channel("chat:a");
  for (const one of [copy, channel]) one.on("ended", ({ code, reason }) => ended.push([code, reason]));
  void channel.subscribe();
  await until(() => client.state === "closed");
  assert.deepEqual(ended, [
    ["closed", "token: expired"],
    ["closed", "token: expired"],
  ]);
  assert.deepEqual(lines, []);
  client.connect(); // with a better one: both go on
  await pause(5);
  assert.equal(channel.state, "live");
  sockets[1].push({ type: "snapshot", channel: "docs:orders", documents: [{ _id: "a" }], more: false, cursor: "e:1" });
  assert.equal(copy.documents.size, 1);
  client.close(); // which is no news to who has done it
  assert.equal(ended.length, 2);
});

test("what nobody listens for is at least on the console", async (t) => {
  const lines = overheard(t);
  const scene = { sockets: [] };
  class Socket {
    constructor() {
      scene.sockets.push(this);
      queueMicrotask(() => this.onopen());
    }
    send(text) {
      const { id, type } = JSON.parse(text);
      const reply = type === "subscribe" ? { type: "error", code: "permission_denied", reason: "no" } : { type: "reply" };
      this.onmessage({ data: JSON.stringify({ ...reply, id }) });
    }
    close() {}
  }
  const { Waterspout } = await import("../../static/waterspout.js");
  const client = new Waterspout("ws://localhost/v1/ws", { WebSocket: Socket });
  t.after(() => client.close());
  client.watch("orders");
  await until(() => lines.length === 1);
  scene.sockets[0].onclose({ code: 4501, reason: "revoked" });
  assert.deepEqual(lines, ["waterspout: docs:orders: permission_denied: no", "waterspout: closed: revoked"]);
});
