// static/waterspout.js against a scripted socket: what a real server does not do on demand. Run by test_client_node.py.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Waterspout } from "../../static/waterspout.js";
import { begin } from "./scripted-socket.mjs";

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const message = (offset) => ({ type: "message", channel: "chat:a", offset, cursor: `e:${offset}`, data: offset });

test("nothing of an ended connection is handed on", async (t) => {
  const { client, sockets } = begin(t);
  const seen = [];
  const channel = client.channel("chat:a");
  channel.on("message", (push) => seen.push(push.offset));
  await channel.subscribe();
  const [old] = sockets;
  old.push(message(1));
  old.drop(1006);
  old.push(message(2));
  await pause(50);
  assert.equal(sockets[1].sent.find((command) => command.type === "subscribe").after, "e:1");
  old.push(message(3));
  sockets[1].push(message(2));
  assert.deepEqual(seen, [1, 2]);
});

test("the cursor moves after the listeners, and past one that throws", async (t) => {
  const { client, sockets } = begin(t);
  const channel = client.channel("chat:a");
  const during = [];
  const thrown = [];
  const listeners = process.listeners("uncaughtException");
  process.removeAllListeners("uncaughtException");
  process.on("uncaughtException", (error) => thrown.push(error.message));
  channel.on("message", () => {
    during.push(channel.cursor);
    throw new Error("mine");
  });
  await channel.subscribe();
  sockets[0].push(message(1));
  sockets[0].push(message(2));
  await pause(5);
  process.removeAllListeners("uncaughtException");
  for (const listener of listeners) process.on("uncaughtException", listener);
  assert.deepEqual(during, ["e:0", "e:1"]);
  assert.equal(channel.cursor, "e:2");
  assert.deepEqual(thrown, ["mine", "mine"]);
});

test("pushes in the same packet as the reply are not lost", async (t) => {
  const { client, sockets } = begin(t);
  const channel = client.channel("chat:a");
  const events = [];
  for (const type of ["subscribed", "gap", "message", "live"]) channel.on(type, () => events.push(type));
  await pause(5);
  sockets[0].send = function (text) {
    const { id } = JSON.parse(text);
    this.push({ type: "reply", id, cursor: "e:5", head: "e:6", recovered: false });
    assert.equal(channel.cursor, "e:2", "not before the gap is told");
    this.push({ type: "gap", channel: "chat:a", from: 3, to: 5 });
    assert.equal(channel.cursor, "e:5");
    this.push(message(6));
  };
  await channel.subscribe({ after: "e:2" });
  assert.deepEqual(events, ["subscribed", "gap", "message", "live"]);
});

for (const code of [4500, 4501, 4999]) {
  test(`close code ${code} alone is for good`, async (t) => {
    const { sockets, states, client } = begin(t);
    await pause(5);
    const publish = client.channel("chat:a").publish(1);
    sockets[0].drop(code, "no");
    await assert.rejects(publish, { code: "closed" });
    await pause(50);
    assert.deepEqual([sockets.length, states.at(-1)], [1, { state: "closed", code, reason: "no" }]);
    client.connect(); // until somebody asks
    await pause(5);
    assert.equal(client.state, "open");
  });
}

for (const code of [1000, 1001, 1006, 1011, 4000, 4499]) {
  test(`close code ${code} alone is not`, async (t) => {
    const { sockets, client } = begin(t);
    await pause(5);
    sockets[0].drop(code);
    await pause(60);
    assert.deepEqual([sockets.length, client.state], [2, "open"]);
  });
}

test("connected again after an end for good, the channels go on where they were", async (t) => {
  const { sockets, client } = begin(t);
  const channel = client.channel("chat:a");
  await channel.subscribe({ last: 5 });
  sockets[0].push(message(7));
  sockets[0].drop(4501, "revoked");
  assert.equal(client.state, "closed");
  client.connect();
  await pause(5);
  assert.deepEqual(sockets[1].sent[1], { type: "subscribe", id: 2, channel: "chat:a", after: "e:7" });
  assert.equal(channel.state, "live");
});

test("an announced delay is kept exactly, and nothing is sent after the announcement", async (t) => {
  const { client, sockets, states } = begin(t);
  await pause(5);
  const [socket] = sockets;
  socket.push({ type: "disconnect", code: 4000, reason: "leaving", reconnect: true, delay: 0.15 });
  const publish = client.channel("chat:a").publish(1);
  assert.equal(socket.publishes().length, 0);
  socket.drop(4000);
  const waiting = states.at(-1);
  assert.deepEqual([waiting.state, waiting.delay, waiting.reason], ["waiting", 0.15, "leaving"]);
  await pause(100);
  assert.equal(sockets.length, 1);
  await pause(100);
  const [command] = sockets[1].publishes();
  sockets[1].reply(command, { offset: 1 });
  assert.equal((await publish).offset, 1);
});

test("a server that sends away at once and again is not rushed back to", async (t) => {
  const { sockets, states } = begin(t, { minDelay: 0.02, maxDelay: 0.2 });
  for (let round = 0; round < 6; round++) {
    while (states.at(-1)?.state !== "open") await pause(5);
    sockets.at(-1).push({ type: "disconnect", code: 4001, reason: "stalled", reconnect: true, delay: 0 });
    sockets.at(-1).drop(4001);
  }
  const delays = states.filter(({ state }) => state === "waiting").map(({ delay }) => delay);
  assert.equal(delays[0], 0);
  assert.ok(delays.slice(1).every((delay) => delay > 0));
});

test("refused for now: the same key again, and everything behind it waits", async (t) => {
  const { client, sockets } = begin(t, { window: 2 });
  const channel = client.channel("chat:a");
  await pause(5);
  const [socket] = sockets;
  const all = Promise.all([channel.publish("a"), channel.publish("b"), channel.publish("c")]);
  const data = () => socket.publishes().map((command) => command.data);
  assert.deepEqual(data(), ["a", "b"]);
  const [a, b] = socket.publishes();
  socket.refuse(a, { code: "outcome_unknown", retry_after: 0.05 });
  socket.refuse(b, { code: "unavailable", retry_after: 0.05 });
  const late = channel.publish("d");
  await pause(20);
  assert.deepEqual(data(), ["a", "b"]);
  await pause(60);
  assert.deepEqual(data(), ["a", "b", "a", "b"]);
  assert.deepEqual(
    socket
      .publishes()
      .slice(2)
      .map((command) => command.key),
    [a.key, b.key],
  );
  for (let index = 2; index < 6; index++) socket.reply(socket.publishes()[index], { offset: index - 1 });
  assert.deepEqual(
    (await all).map((reply) => reply.offset),
    [1, 2, 3],
  );
  assert.equal((await late).offset, 4);
});

test("a retry carries the data as they were", async (t) => {
  const { client, sockets } = begin(t);
  await pause(5);
  const data = { text: "first" };
  const publish = client.channel("chat:a").publish(data);
  data.text = "second";
  sockets[0].drop(1006);
  await pause(60);
  const [command] = sockets[1].publishes();
  assert.deepEqual(command.data, { text: "first" });
  sockets[1].reply(command, { offset: 1, duplicate: true });
  assert.equal((await publish).duplicate, true);
});

test("what waits is bounded", async (t) => {
  const { client, sockets } = begin(t, { maxQueue: 2 });
  const channel = client.channel("chat:a");
  const kept = [channel.publish(1), channel.publish(2)];
  await assert.rejects(channel.publish(3), { code: "limit_exceeded" });
  client.close();
  for (const publish of kept) await assert.rejects(publish, { code: "closed" });
  assert.equal(sockets.length, 1);
});

test("a history asked for while away is answered later", async (t) => {
  const { client, sockets } = begin(t);
  await pause(5);
  const history = client.channel("chat:a").history({ limit: 5 });
  sockets[0].drop(1006);
  await pause(60);
  const command = sockets[1].sent.find(({ type }) => type === "history");
  assert.equal(command.limit, 5);
  sockets[1].reply(command, { messages: [], more: false });
  assert.equal((await history).more, false);
});

test("a token is asked for at every connection; no token, no connection", async (t) => {
  let count = 0;
  const token = async () => {
    if (++count === 2) throw new Error("not now");
    return `token ${count}`;
  };
  const { sockets, states } = begin(t, { token });
  await pause(5);
  assert.equal(sockets[0].sent[0].token, "token 1");
  sockets[0].drop(4002, "token expired");
  await pause(120);
  assert.equal(sockets[1].sent[0].token, "token 3");
  assert.ok(states.some(({ state, reason }) => state === "waiting" && reason.includes("not now")));
});

test("pauses grow at random, and only a connection that lasted starts afresh", async (t) => {
  const { sockets, states } = begin(t, { minDelay: 0.004, maxDelay: 0.03 });
  for (let round = 0; round < 12; round++) {
    await pause(35);
    sockets.at(-1).drop(1006);
  }
  const delays = states.filter(({ state }) => state === "waiting").map(({ delay }) => delay);
  assert.equal(delays.length, 12);
  assert.ok(delays[0] <= 0.004);
  assert.ok(delays.every((delay) => delay <= 0.03));
  assert.ok(Math.max(...delays) > 0.008, String(delays));
});

test("a kept cursor: the next client goes on there, and not before what was handed on", async (t) => {
  const kept = new Map();
  const storage = { getItem: (name) => kept.get(name) ?? null, setItem: (name, value) => kept.set(name, value) };
  const first = begin(t, { storage });
  await first.client.channel("chat:a").subscribe({ last: 5 });
  first.sockets[0].push(message(3));
  first.client.close();
  assert.deepEqual([...kept], [["waterspout.cursor.chat:a", "e:3"]]);
  const second = begin(t, { storage });
  await second.client.channel("chat:a").subscribe({ last: 5 });
  assert.equal(second.sockets[0].sent[1].after, "e:3");
  const refusing = { getItem: () => null, setItem: () => assert.fail("full") };
  const third = begin(t, { storage: refusing });
  await third.client.channel("chat:a").subscribe();
  third.sockets[0].push(message(1));
  third.client.close();
});

test("a new token in time, on the same connection", async (t) => {
  let count = 0;
  const { client, sockets } = begin(t, { token: () => `token ${++count}` });
  sockets[0].send = function (text) {
    const command = JSON.parse(text);
    this.sent.push(command);
    const expires = Math.ceil(Date.now() / 1000) + (count === 1 ? 2 : 3600);
    this.reply(command, { expires });
  };
  // By this machine's clock all tokens have expired: it is the clock that is wrong.
  const wrong = begin(t, { token: () => "token" });
  wrong.sockets[0].send = function (text) {
    const command = JSON.parse(text);
    this.sent.push(command);
    this.reply(command, { expires: 1 });
  };
  await pause(2200);
  assert.deepEqual(
    wrong.sockets[0].sent.map(({ type }) => type),
    ["connect"],
  );
  assert.deepEqual(
    sockets[0].sent.map(({ type, token }) => [type, token]),
    [
      ["connect", "token 1"],
      ["refresh", "token 2"],
    ],
  );
  assert.equal(client.state, "open");
  assert.equal(sockets.length, 1);
});

test("MessagePack by the library that is given", async (t) => {
  const { encode, decode } = await import("./msgpack.mjs");
  const told = [];
  class Socket {
    constructor(url, protocols) {
      told.push(protocols);
      queueMicrotask(() => this.onopen());
    }
    send(bytes) {
      const command = decode(bytes);
      told.push(command.type);
      this.onmessage({ data: encode({ type: "reply", id: command.id, offset: 1 }).buffer });
    }
    close() {}
  }
  const client = new Waterspout("ws://localhost/v1/ws", { WebSocket: Socket, msgpack: { encode, decode } });
  t.after(() => client.close());
  assert.equal((await client.channel("chat:a").publish({ a: [1, -2.5, "ü", null, true] })).offset, 1);
  assert.deepEqual(told, [["waterspout.msgpack"], "connect", "publish"]);
});

test("ephemeral is now or not at all", async (t) => {
  const { client, sockets } = begin(t);
  const channel = client.channel("chat:a");
  await assert.rejects(channel.publish({ typing: "Ann" }, { ephemeral: true }), { code: "disconnected" });
  await pause(5);
  const publish = channel.publish({ typing: "Ann" }, { ephemeral: true });
  const [command] = sockets[0].publishes();
  assert.deepEqual([command.ephemeral, command.key], [true, undefined]);
  sockets[0].drop(1006);
  await assert.rejects(publish, { code: "disconnected" });
  await pause(60);
  assert.equal(sockets[1].publishes().length, 0);
});

test("a copy of documents: a snapshot in pages, changes, a resumption, a new beginning", async (t) => {
  const { client, sockets } = begin(t);
  await pause(5);
  const events = [];
  const commands = () => sockets.at(-1).sent.filter(({ type }) => type === "subscribe");
  const answer = (socket, snapshot) => {
    const command = commands().at(-1);
    const place = snapshot ? { cursor: null, snapshot: true } : { cursor: command.after, snapshot: false };
    socket.reply(command, { head: "e:9", recovered: true, ...place });
  };
  for (const socket of sockets) socket.send = (text) => socket.sent.push(JSON.parse(text));
  const copy = client.watch("orders", { status: "paid" });
  for (const name of ["reset", "ready", "change"]) copy.on(name, (event) => events.push(event?.op ?? name));
  assert.deepEqual(commands()[0].where, { status: "paid" });
  assert.equal(commands()[0].snapshot, true);
  answer(sockets[0], true);
  const page = (documents, more, rest) =>
    sockets.at(-1).push({ type: "snapshot", channel: "docs:orders", documents, more, ...rest });
  page([{ _id: "a", _rev: "1" }], true, { start: true });
  assert.equal(copy.ready, false);
  assert.equal(copy.documents.size, 0);
  page([{ _id: "b", _rev: "1" }], false, { cursor: "e:12" });
  assert.deepEqual([[...copy.documents.keys()], copy.ready, copy.channel.state], [["a", "b"], true, "live"]);
  const change = (op, id, cursor) =>
    sockets.at(-1).push({
      type: "message",
      channel: "docs:orders",
      cursor,
      data: { op, id, rev: "2", document: op === "put" ? { _id: id, _rev: "2" } : null },
    });
  change("put", "c", "e:13");
  change("delete", "a", "e:14");
  assert.deepEqual([...copy.documents.keys()], ["b", "c"]);
  const [old] = sockets;
  const send = old.constructor.prototype.send;
  old.drop(1006);
  old.constructor.prototype.send = function (text) {
    const command = JSON.parse(text);
    if (command.type === "subscribe") this.sent.push(command);
    else send.call(this, text);
  };
  await pause(60);
  assert.equal(commands()[0].after, "e:14");
  answer(sockets[1], false);
  assert.equal(copy.channel.state, "live");
  change("put", "b", "e:15");
  sockets[1].drop(1006);
  await pause(60);
  answer(sockets[2], true);
  page([{ _id: "z", _rev: "1" }], false, { start: true, cursor: "e:40" });
  assert.deepEqual([...copy.documents.keys()], ["z"]);
  assert.deepEqual(events, ["reset", "ready", "put", "delete", "put", "reset", "ready"]);
  // Lost between a gap and the snapshot that makes up for it: behind the gap the copy must not go on.
  sockets[2].push({ type: "gap", channel: "docs:orders", from: 41, to: 60, cursor: "e:60" });
  page([{ _id: "y", _rev: "1" }], true, { start: true });
  sockets[2].drop(1006);
  await pause(60);
  assert.equal(commands()[0].after, undefined);
  answer(sockets[3], true);
  page([{ _id: "y", _rev: "1" }], false, { start: true, cursor: "e:61" });
  assert.deepEqual([...copy.documents.keys()], ["y"]);
});

// --- what may come in between ----------------------------------------------------------------------------------------

const subscriptions = (socket) => socket.sent.filter(({ type }) => type === "subscribe");
/** A socket that answers nothing but `connect` by itself. */
const reticent = (sockets) => {
  sockets[0].send = function (text) {
    const command = JSON.parse(text);
    this.sent.push(command);
    if (command.type === "connect") this.reply(command, {});
  };
};

test("a subscription made by a listener of `open` is asked for once", async (t) => {
  const { client, sockets } = begin(t);
  const channel = client.channel("chat:a");
  client.on("open", () => channel.subscribe());
  await pause(5);
  assert.equal(subscriptions(sockets[0]).length, 1);
  sockets[0].drop(1006);
  await pause(60);
  assert.equal(subscriptions(sockets[1]).length, 1);
});

test("unsubscribed while away, a channel can be subscribed again", async (t) => {
  const { client, sockets } = begin(t);
  const channel = client.channel("chat:a");
  await channel.subscribe();
  sockets[0].push(message(3));
  sockets[0].drop(1006);
  await channel.unsubscribe();
  assert.equal(channel.state, "idle");
  await channel.subscribe();
  assert.deepEqual([channel.state, subscriptions(sockets[1])[0].after], ["live", "e:3"]);
});

test("the last word of subscribe and unsubscribe counts", async (t) => {
  const { client, sockets } = begin(t);
  reticent(sockets);
  await pause(5);
  const [socket] = sockets;
  const channel = client.channel("chat:a");
  const first = channel.subscribe();
  const left = channel.unsubscribe();
  const again = channel.subscribe({ last: 3 });
  void channel.unsubscribe();
  await assert.rejects(again, { code: "closed" });
  const third = channel.subscribe({ last: 4 });
  const [subscribe, unsubscribe, ...rest] = socket.sent.slice(1);
  assert.deepEqual([subscribe.type, unsubscribe.type, rest], ["subscribe", "unsubscribe", []]);
  socket.refuse(subscribe, { code: "unavailable", retry_after: 0 }); // must not be tried again: it is being left
  await pause(20);
  assert.equal(subscriptions(socket).length, 1);
  socket.reply(unsubscribe, {});
  await left;
  await assert.rejects(first, { code: "closed" });
  socket.reply(subscriptions(socket)[1], { cursor: "e:1", head: "e:1" });
  assert.equal((await third).head, "e:1");
  assert.deepEqual([subscriptions(socket)[1].last, channel.state], [4, "live"]);
});

test("a listener may end everything", async (t) => {
  const { client, sockets } = begin(t);
  const channel = client.channel("chat:a");
  channel.on("message", () => {
    client.close();
    void channel.unsubscribe();
  });
  await channel.subscribe();
  sockets[0].push(message(1));
  assert.deepEqual([client.state, channel.state], ["closed", "idle"]);
});

test("nothing is left running behind a closed client", async (t) => {
  const timers = () => process.getActiveResourcesInfo().filter((one) => one === "Timeout").length;
  const before = timers();
  const { client, sockets } = begin(t);
  reticent(sockets);
  await pause(5);
  const channel = client.channel("chat:a");
  channel.subscribe();
  const publish = channel.publish(1);
  const [, subscribe, command] = sockets[0].sent;
  sockets[0].refuse(subscribe, { code: "unavailable", retry_after: 30 });
  sockets[0].refuse(command, { code: "rate_limited", retry_after: 30 });
  client.close();
  await assert.rejects(publish, { code: "closed" });
  assert.equal(timers(), before);
});

test("whoever has to wait longest decides when publishing goes on", async (t) => {
  const { client, sockets } = begin(t);
  const channel = client.channel("chat:a");
  await pause(5);
  const [socket] = sockets;
  const all = Promise.all([channel.publish("a"), channel.publish("b")]);
  const [a, b] = socket.publishes();
  socket.refuse(a, { code: "rate_limited", retry_after: 5 });
  socket.refuse(b, { code: "rate_limited", retry_after: 0.01 });
  await pause(50);
  assert.equal(socket.publishes().length, 2);
  socket.drop(1006); // a new connection is another matter
  await pause(40);
  assert.deepEqual(
    sockets[1].publishes().map(({ data }) => data),
    ["a", "b"],
  );
  for (const command of sockets[1].publishes()) sockets[1].reply(command, { offset: 1 });
  await all;
});

test("no token is no reason to give WebSockets up", async (t) => {
  let count = 0;
  const token = () => (++count < 6 ? Promise.reject(new Error("not now")) : "token");
  const { client, sockets } = begin(t, { token });
  while (client.state !== "open") await pause(5);
  assert.deepEqual([client.transport, sockets.length, count], ["websocket", 1, 6]);
});

test("an expired token: a function is asked for another, a fixed one stays expired", async (t) => {
  let count = 0;
  const refuse = (sockets) => {
    sockets[0].send = function (text) {
      this.push({ type: "error", id: JSON.parse(text).id, code: "token_expired", reason: "expired", retry: false });
      this.push({ type: "disconnect", code: 4500, reason: "expired", reconnect: false });
      this.drop(4500);
    };
  };
  const asked = begin(t, { token: () => `token ${++count}` });
  refuse(asked.sockets);
  const fixed = begin(t, { token: "token" });
  refuse(fixed.sockets);
  await pause(60);
  assert.deepEqual([asked.client.state, asked.sockets[1].sent[0].token], ["open", "token 2"]);
  assert.deepEqual([fixed.client.state, fixed.sockets.length], ["closed", 1]);
});

test("refused for now at `connect`: the delay that follows is kept", async (t) => {
  const { sockets, states } = begin(t);
  sockets[0].send = function (text) {
    this.refuse(JSON.parse(text), { code: "unavailable", retry_after: 1 });
    this.push({ type: "disconnect", code: 4004, reason: "not now", reconnect: true, delay: 0.07 });
    this.drop(4004);
  };
  await pause(5);
  assert.equal(states.at(-1).delay, 0.07);
});

test("too large a frame is refused to who sent it", async (t) => {
  const { client, sockets } = begin(t);
  await pause(5);
  const publish = client.channel("chat:a").publish("small");
  const put = client.collection("orders").put("x", { text: "x".repeat(5000) });
  sockets[0].drop(1009);
  await assert.rejects(put, { code: "too_large" });
  await pause(60);
  assert.equal(sockets[1].sent.filter(({ type }) => type === "put").length, 0);
  sockets[1].reply(sockets[1].publishes()[0], { offset: 1 });
  assert.equal((await publish).offset, 1);
});

test("what the server would not take is not sent", async (t) => {
  const { client, sockets } = begin(t);
  sockets[0].send = function (text) {
    const command = JSON.parse(text);
    this.sent.push(command);
    this.reply(command, { message_bytes: 100 });
  };
  await pause(5);
  const channel = client.channel("chat:a");
  await assert.rejects(channel.publish("x".repeat(200)), { code: "too_large" });
  await channel.publish("x");
  assert.deepEqual([client.state, sockets[0].publishes().length], ["open", 1]);
});

test("a write that is sent again is the write that was made", async (t) => {
  const { client, sockets } = begin(t);
  await pause(5);
  const order = { total: 1 };
  const create = client.collection("orders").create(order);
  order.total = 2;
  sockets[0].drop(1006);
  await pause(60);
  const [before, after] = [0, 1].map((index) => sockets[index].sent.find(({ type }) => type === "put"));
  assert.deepEqual([after.document, after.key], [{ total: 1 }, before.key]);
  sockets[1].reply(after, { document: { _id: "a", total: 1 } });
  assert.equal((await create)._id, "a");
});

test("nothing undefined reaches a MessagePack library, for which it may be something", async (t) => {
  const { encode, decode } = await import("./msgpack.mjs");
  const strict = (value) => {
    assert.ok(!JSON.stringify(value, (_, one) => (one === undefined ? "undefined" : one)).includes('"undefined"'));
    return encode(value);
  };
  const commands = [];
  class Socket {
    constructor() {
      queueMicrotask(() => this.onopen());
    }
    send(bytes) {
      const command = decode(bytes);
      commands.push(command);
      const reply = { type: "reply", id: command.id, cursor: "e:1", head: "e:1", document: {} };
      this.onmessage({ data: encode(reply).buffer });
    }
    close() {}
  }
  const client = new Waterspout("ws://localhost/v1/ws", { WebSocket: Socket, msgpack: { encode: strict, decode } });
  t.after(() => client.close());
  await client.channel("chat:a").subscribe({ last: 5 });
  await client.channel("chat:a").unsubscribe();
  await client.channel("chat:a").subscribe({ last: undefined });
  await client.channel("chat:a").publish({ a: undefined }, { tag: undefined });
  await client.collection("orders").put("x", { a: undefined });
  assert.equal(commands.at(-1).type, "put");
});

test("where this tab stopped goes before what another tab has kept", async (t) => {
  const kept = new Map();
  const storage = { getItem: (name) => kept.get(name) ?? null, setItem: (name, value) => kept.set(name, value) };
  const { client, sockets } = begin(t, { storage });
  const channel = client.channel("chat:a");
  await channel.subscribe();
  sockets[0].push(message(3));
  const left = channel.unsubscribe();
  sockets[0].reply(sockets[0].sent.at(-1), {});
  await left;
  client._cursors.save();
  kept.set("waterspout.cursor.chat:a", "e:9");
  await channel.subscribe({ last: 5 });
  assert.equal(sockets[0].sent.at(-1).after, "e:3");
});

test("several copies of one collection, each on a channel of its own", async (t) => {
  const { client, sockets } = begin(t);
  await pause(5);
  const [socket] = sockets;
  const own = client.channel("docs:orders");
  const first = client.watch("orders");
  const open = client.collection("orders").watch({ status: "open" });
  assert.deepEqual([first.channel.name, open.channel.name], ["docs:orders", "docs:orders#2"]);
  const snapshot = (channel, ...ids) =>
    socket.push({ type: "snapshot", channel, documents: ids.map((_id) => ({ _id })), more: false, cursor: "e:1" });
  snapshot("docs:orders", "a", "b");
  snapshot("docs:orders#2", "a");
  const ids = (copy) => [...copy.documents.keys()];
  assert.deepEqual([ids(first), ids(open)], [["a", "b"], ["a"]]);
  const closing = first.close();
  const third = client.watch("orders");
  assert.equal(third.channel.name, "docs:orders#3", "the first one's is not free before the reply");
  socket.reply(socket.sent.find(({ type }) => type === "unsubscribe"), {});
  await closing;
  const fourth = client.watch("orders");
  assert.equal(fourth.channel.name, "docs:orders");
  assert.deepEqual([ids(fourth), fourth.ready], [[], false]);
  await first.close(); // again: the channel is another copy's
  const ended = [];
  open.on("ended", ({ code }) => ended.push(code));
  socket.push({ type: "unsubscribed", channel: "docs:orders#2", code: "permission_denied", reason: "" });
  assert.deepEqual(ended, ["permission_denied"]);
  const fifth = client.watch("orders");
  assert.equal(fifth.channel.name, "docs:orders#2");
  await open.close(); // ended before
  snapshot("docs:orders#2", "z");
  assert.deepEqual([ids(open), ids(fifth)], [["a"], ["z"]]);
  assert.equal(socket.sent.filter(({ type }) => type === "unsubscribe").length, 1);
  assert.equal(own, fourth.channel);
});

test("a channel that a user subscribes is none that a copy takes", async (t) => {
  const { client } = begin(t);
  await client.channel("docs:orders").subscribe();
  assert.equal(client.watch("orders").channel.name, "docs:orders#2");
});

test("who is here is asked again whenever something may have been missed", async (t) => {
  const { client, sockets } = begin(t);
  const channel = client.channel("chat:a");
  const members = channel.members();
  await channel.subscribe();
  const [socket] = sockets;
  const asked = () => socket.sent.filter(({ type }) => type === "presence");
  const here = async (...users) => {
    const list = users.map((user) => ({ user, sessions: 1 }));
    socket.reply(asked().at(-1), { users: list, count: users.length, guests: 0 });
    await pause(1);
  };
  socket.push({ type: "dropped", channel: "chat:a", count: 3 }); // while the first answer is on its way
  await here("ann");
  assert.equal(asked().length, 2);
  await here("ann", "bob");
  assert.deepEqual([[...members.users.keys()], members.count, asked().length], [["ann", "bob"], 2, 2]);
  socket.push({ type: "occupancy", channel: "chat:a", count: 2000, guests: 1 });
  assert.deepEqual([members.users.size, members.count], [0, 2000]);
  socket.push({ type: "leave", channel: "chat:a", user: "eve" }); // they have names again
  assert.equal(asked().length, 3);
  await here("ann");
  assert.deepEqual([[...members.users.keys()], members.count], [["ann"], 1]);
});

test("a where means to the client what it means to the server", async () => {
  const { matches } = await import("../../static/waterspout/where.js");
  const document = {
    _id: "a",
    n: 5,
    s: "b",
    none: null,
    tags: ["x", "y"],
    lines: [{ q: 1 }, { q: 3 }],
    at: { city: "Rome" },
  };
  for (const where of [
    {},
    { n: 5 },
    { n: { $gt: 4, $lte: 5 } },
    { n: { $in: [1, 5] }, s: { $ne: "c" } },
    { missing: null, none: null },
    { none: { $gte: null } },
    { tags: "y" },
    { "lines.q": { $gte: 3 } },
    { "at.city": "Rome" },
    { $and: [{ n: 5 }, { s: "b" }] },
  ]) {
    assert.ok(matches(document, where), JSON.stringify(where));
  }
  for (const where of [
    { n: "5" },
    { n: { $gt: "4" } },
    { n: { $gt: null } },
    { tags: { $ne: "x" } },
    { missing: { $gt: 0 } },
    { "at.city.name": "Rome" },
    { "lines.q": 2 },
    { $and: [{ n: 5 }, { s: "c" }] },
  ]) {
    assert.ok(!matches(document, where), JSON.stringify(where));
  }
});

test("every export has a type, and every type an export", async () => {
  const { readFile } = await import("node:fs/promises");
  const types = await readFile(new URL("../../static/waterspout.d.ts", import.meta.url), "utf8");
  const declared = [...types.matchAll(/^export (?:class|function) (\w+)/gm)].map((match) => match[1]);
  const module = await import("../../static/waterspout.js");
  assert.deepEqual(declared.sort(), Object.keys(module).sort());
  for (const name of declared.filter((one) => module[one].prototype)) {
    const [, body] = new RegExp(`^export class ${name}\\b[^\\n]*\\{\\n([^]*?)^\\}`, "m").exec(types) ?? [];
    if (!body) continue;
    const typed = [...body.matchAll(/^ {2}(\w+)(?:<[^(]*>)?\(/gm)].map((match) => match[1]);
    const methods = Object.getOwnPropertyNames(module[name].prototype).filter(
      (one) =>
        !one.startsWith("_") &&
        typeof Object.getOwnPropertyDescriptor(module[name].prototype, one).value === "function",
    );
    assert.deepEqual(
      typed.filter((one) => one !== "constructor").sort(),
      methods.filter((one) => one !== "constructor").sort(),
      name,
    );
  }
});

test("a worker is told of gaps, and what it has not done when it throws is given back", async (t) => {
  const { client, sockets } = begin(t);
  const gaps = [{ channel: "chat:a", from: 1, to: 3 }];
  const messages = [4, 5, 6].map((offset) => ({ id: `id ${offset}`, channel: "chat:a", offset, data: offset, delivery: 1 }));
  const said = () => sockets[0].sent.filter(({ type }) => ["fetch", "ack", "nack"].includes(type));
  const told = [];
  const work = (async () => {
    for await (const { data } of client.consume("jobs", { limit: 3, onGap: (gap) => told.push(gap) })) {
      told.push(data);
      if (data === 5) throw new Error("mine");
    }
  })();
  const answer = async (fields) => {
    while (!said().length || said().at(-1).answered) await pause(1);
    const command = said().at(-1);
    sockets[0].reply(command, fields);
    command.answered = true;
    return command;
  };
  const { id: _, answered: __, ...fetch } = await answer({ messages, gaps });
  assert.deepEqual(fetch, { type: "fetch", consumer: "jobs", limit: 3, wait: 30 });
  assert.deepEqual((await answer({})).ids, ["id 4"]);
  assert.deepEqual((await answer({})).ids, ["id 5", "id 6"]);
  await assert.rejects(work, /mine/);
  assert.deepEqual(told, [...gaps, 4, 5]);
  assert.deepEqual(said().map(({ type }) => type), ["fetch", "ack", "nack"]);
});
