// static/waterspout.js against a scripted HTTP server: what proxies and bad moments do to it. Run by test_client_node.py.

import assert from "node:assert/strict";
import { test } from "node:test";
import { begin } from "./scripted-http.mjs";

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function until(condition) {
  const deadline = performance.now() + 20_000;
  while (!condition()) {
    assert.ok(performance.now() < deadline, `not in 20 s: ${condition}`);
    await pause(2);
  }
}

const event = (push) => `event: ${push.type}\nid: ${push.cursor}\ndata: ${JSON.stringify(push)}\n\n`;
const message = (offset, data, channel = "chat:a") =>
  event({ type: "message", channel, offset, cursor: `e:${offset}`, data });
const problem = (code, rest) => ({ code, reason: code, retry: false, ...rest });
const jwt = (exp) => `x.${Buffer.from(JSON.stringify({ exp, name: "ü" })).toString("base64url")}.y`;

test("a stream in pieces, cut in the middle of an event, goes on behind the last whole one", async (t) => {
  const text = "ü 😀 \u2028 \u2029 \n\n data: x";
  const { client, to } = await begin(t, async (call, count) => {
    if (call.path !== "/v1/events") return false;
    call.stream("");
    if (count === 1) {
      for (const byte of Buffer.from(message(1, text))) {
        call.response.write(Buffer.from([byte]));
        await pause(1);
      }
      call.response.end(Buffer.from(message(2, text)).subarray(0, -25));
    } else call.response.write(message(2, text));
    return true;
  });
  const channel = client.channel("chat:a");
  const seen = [];
  channel.on("message", ({ offset, data }) => seen.push([offset, data]));
  await channel.subscribe();
  await until(() => seen.length === 2);
  assert.deepEqual(seen, [
    [1, text],
    [2, text],
  ]);
  assert.deepEqual(
    to("/v1/events").map(({ after }) => after),
    [["e:0"], ["e:1"]],
  );
});

for (const path of ["/v1/events", "/v1/poll"]) {
  test(`sent away from ${path}: the server says for how long`, async (t) => {
    const transports = [path === "/v1/poll" ? "poll" : "sse"];
    const refuse = (call, count) =>
      call.path === path && count === 1 && !call.json(problem("unavailable", { retry: true, retry_after: 0.123 }), 503);
    const { client, states } = await begin(t, refuse, { transports });
    await client.channel("chat:a").subscribe();
    await until(() => states.some(({ state }) => state === "waiting"));
    assert.equal(states.find(({ state }) => state === "waiting").delay, 0.123);
    await until(() => client.state === "open");
  });
}

test("members, markers, blocks and my rooms over plain HTTP", async (t) => {
  const token = `x.${Buffer.from(JSON.stringify({ sub: "ann" })).toString("base64url")}.y`;
  const { client, calls, to } = await begin(
    t,
    (call) => {
      if (call.path === "/v1/rooms") {
        const first = calls.filter(({ path }) => path === "/v1/rooms").length % 2 === 1;
        const row = { channel: first ? "room:a" : "room:b", role: "member", read: "e:0", head: "e:1", count: 1, unread: 1 };
        call.json({ rooms: [{ ...row, mentions: 0, newest: "e:1", time: 1 }], more: first });
      } else if (/members|join|read|blocks/.test(call.path)) {
        if (call.method === "DELETE") call.response.writeHead(204).end();
        else call.json({ channel: "room:a", user: "ann", role: "member", members: [], more: false, blocked: ["bob"] });
      } else return false;
      return true;
    },
    { token },
  );
  const channel = client.channel("room:a");
  await channel.join();
  assert.deepEqual((await channel.setMember("bob", null)).role, null);
  await channel.setMember("bob", "moderator");
  await channel.prefer({ mute: true });
  assert.equal((await channel.memberships({ limit: 5 })).more, false);
  await channel.markRead("e:1");
  await client.block("bob");
  assert.equal((await client.block("bob", false)).blocked, false);
  assert.deepEqual(await client.blocked(), ["bob"]);
  await channel.publish("@bob", { mentions: ["bob"] });
  assert.equal((await channel.leave()).role, null);
  const path = "/v1/channels/room:a";
  const asked = calls.filter((call) => /room:a|blocks/.test(call.path)).map(({ method, path, body }) => [method, path, body]);
  const { key } = to(`${path}/messages`)[0].body;
  assert.deepEqual(asked, [
    ["POST", `${path}/join`, {}],
    ["DELETE", `${path}/members/bob`, ""],
    ["PUT", `${path}/members/bob`, { role: "moderator" }],
    ["PATCH", `${path}/members/ann`, { mute: true }],
    ["GET", `${path}/members`, ""],
    ["POST", `${path}/read`, { cursor: "e:1" }],
    ["PUT", "/v1/blocks/bob", ""],
    ["DELETE", "/v1/blocks/bob", ""],
    ["GET", "/v1/blocks", ""],
    ["POST", `${path}/messages`, { key, data: "@bob", mentions: ["bob"] }],
    ["DELETE", `${path}/members/ann`, ""],
  ]);
  const rooms = client.rooms();
  await until(() => rooms.ready);
  assert.deepEqual([[...rooms.rooms.keys()], rooms.unread], [["room:a", "room:b"], 2]);
  client.rooms({ threads: true });
  assert.equal(rooms.ready, false);
  await until(() => rooms.ready);
  assert.deepEqual(to("/v1/rooms").map(({ threads }) => threads), [null, null, "true", "true"]);
  await rooms.close();
});

test("a proxy's own refusals: later, with the same key, or not at all", async (t) => {
  const { client, calls, to } = await begin(t, (call, count) => {
    if (call.path === "/healthz" && count === 1) call.html(404);
    else if (call.path === "/v1/channels/chat:a/messages" && call.method === "POST" && count === 1)
      call.html(429, { "Retry-After": "0" });
    else if (call.path === "/v1/channels/chat:b/messages") call.html(403);
    else if (call.path === "/v1/channels/chat:c/messages") call.json(null, 403);
    else return false;
    return true;
  });
  assert.equal((await client.channel("chat:a").publish(1)).offset, 1);
  assert.equal(to("/healthz").length, 2);
  const [one, other] = to("/v1/channels/chat:a/messages");
  assert.equal(one.body.key, other.body.key);
  for (const name of ["chat:b", "chat:c"]) {
    await assert.rejects(client.channel(name).publish(1), { code: "unavailable", reason: "HTTP 403" });
  }
  assert.equal(calls.filter(({ path }) => path.startsWith("/v1/channels/chat:b")).length, 1);
});

test("a right to one of several channels that is lost ends that one, and a farewell for good all", async (t) => {
  let lost = false;
  const { client, states, to } = await begin(t, (call) => {
    if (!lost) return false;
    if (call.path === "/v1/channels/chat:b/messages") call.json(problem("permission_denied"), 403);
    else if (call.path === "/v1/events" && call.channels.includes("chat:b")) call.json(problem("permission_denied"), 403);
    else return false;
    return true;
  });
  const [a, b] = ["chat:a", "chat:b"].map((name) => client.channel(name));
  const ended = [];
  b.on("ended", ({ code }) => ended.push(code));
  await Promise.all([a.subscribe(), b.subscribe()]);
  // Two subscriptions share a stream if they are quick enough; if not, the second one has begun another.
  await until(() => to("/v1/events").at(-1)?.channels.length === 2 && to("/v1/events").at(-1).response.headersSent);
  lost = true;
  to("/v1/events").at(-1).response.end();
  await until(() => ended.length === 1 && a.state === "live" && client.state === "open");
  assert.deepEqual([ended, b.state], [["permission_denied"], "idle"]);
  await until(() => to("/v1/events").at(-1).channels.length === 1 && to("/v1/events").at(-1).response.headersSent);
  const farewell = { type: "disconnect", code: 4502, reason: "out", reconnect: false };
  to("/v1/events").at(-1).response.end(event(farewell));
  await until(() => client.state === "closed");
  assert.deepEqual(states.at(-1), { state: "closed", code: 4502, reason: "out" });
});

test("a stream that is held back: long polls, if they may be used", async (t) => {
  const hold = (call) => call.path === "/v1/events";
  const both = await begin(t, hold, { patience: 0.05 });
  await both.client.channel("chat:a").subscribe();
  await until(() => both.to("/v1/poll").length > 1 && both.client.transport === "poll");
  const one = await begin(t, hold, { patience: 0.05, transports: ["sse"] });
  await one.client.channel("chat:a").subscribe();
  await until(() => one.to("/v1/events").length > 2);
  assert.equal(one.to("/v1/poll").length, 0);
});

test("a poll goes on where the server says, also behind what it did not show", async (t) => {
  const polls = [[], [], [], []]; // by how many channels they are of: the first may be of one, if the other is late
  const { client } = await begin(
    t,
    (call) => {
      if (call.path !== "/v1/poll") return false;
      const count = polls[call.channels.length].push(call.after);
      if (call.channels.length !== 2) return true;
      if (count === 1) call.json({ messages: [], gaps: [{ channel: "chat:a", from: 1, to: 4 }], cursor: "~1" });
      else if (count === 2) call.json({ messages: [], gaps: [], cursor: "~2" });
      return true;
    },
    { transports: ["poll"] },
  );
  const channel = client.channel("chat:a");
  const gaps = [];
  channel.on("gap", ({ from, to }) => gaps.push([from, to]));
  await Promise.all([channel.subscribe(), client.channel("chat:b").subscribe()]);
  await until(() => polls[2].length === 3);
  assert.deepEqual(polls[2], [["e:0", "e:0"], ["~1"], ["~2"]]);
  await client.channel("chat:c").subscribe();
  await until(() => polls[3].length === 1);
  assert.deepEqual(polls[3], [["e:0", "e:0", "e:0"]]);
  assert.deepEqual(gaps, [[1, 4]]);
});

test("a copy whose changes are lost begins anew", async (t) => {
  let lost = false;
  const { client, to } = await begin(t, (call, count) => {
    if (call.path === "/v1/documents/orders") {
      call.json({ documents: [{ _id: lost ? "new" : "old", _rev: "1" }], page: null });
    } else if (call.path === "/v1/channels/docs:orders#2/messages" && lost) {
      const gap = { from: null, to: null, reason: "epoch" };
      call.json({ messages: [], cursor: "f:0", head: "f:0", more: false, gap: call.after.length ? gap : null });
    } else if (call.path === "/v1/events" && count === 2) {
      lost = true;
      call.stream(event({ type: "gap", channel: "docs:orders#2", from: null, to: null, cursor: "f:0" }));
    } else return false;
    return true;
  });
  const first = client.watch("orders");
  await until(() => first.ready && to("/v1/events").length === 1);
  const copy = client.watch("orders", { status: "open" });
  await until(() => copy.documents.has("new"));
  assert.deepEqual([...copy.documents.keys()], ["new"]);
});

test("commands on a channel or a document are carried out in order", async (t) => {
  const { client, calls, to } = await begin(t, async (call) => {
    await pause(call.body?.n === 1 || call.path.includes("chat:a") ? 20 : 0);
    if (call.method !== "PUT") return false;
    call.json({ _id: "x", ...call.body });
    return true;
  });
  await until(() => client.state === "open");
  const order = [];
  const collection = client.collection("orders");
  await Promise.all([1, 2].map((n) => collection.put("x", { n }).then(() => order.push(n))));
  assert.deepEqual(order, [1, 2]);
  const channel = client.channel("chat:a");
  const first = channel.subscribe();
  await until(() => to("/v1/channels/chat:a/messages").length === 1);
  const left = channel.unsubscribe();
  await channel.subscribe();
  await left;
  await assert.doesNotReject(first);
  assert.equal(channel.state, "live");
  await until(() => to("/v1/events").length >= 1);
  assert.equal(calls.filter(({ path }) => path.endsWith("chat:a/messages")).length, 2);
});

test("a publish that is refused for now keeps its place", async (t) => {
  const { client, to } = await begin(
    t,
    (call, count) => call.body && count === 1 && !call.json(problem("unavailable", { retry: true, retry_after: 0.02 }), 503),
  );
  const channel = client.channel("chat:a");
  await Promise.all([1, 2, 3].map((data) => channel.publish(data)));
  assert.deepEqual(
    to("/v1/channels/chat:a/messages").map(({ body }) => body.data),
    [1, 1, 2, 3],
  );
});

test("the newest messages, though a page has fewer", async (t) => {
  const parse = (push) => JSON.parse(push.split("data: ")[1]);
  const { client } = await begin(t, (call) => {
    if (call.path !== "/v1/channels/chat:a/messages") return false;
    const { before, limit } = call;
    const to = before === null ? 9 : Number(before.slice(2)) - 1;
    const offsets = Array.from({ length: Math.min(2, limit, to) }, (_, index) => to - index).reverse();
    const messages = offsets.map((offset) => parse(message(offset, offset)));
    call.json({ messages, cursor: "e:9", head: "e:9", more: offsets[0] > 1, gap: null });
    return true;
  });
  const channel = client.channel("chat:a");
  const seen = [];
  channel.on("message", ({ offset }) => seen.push(offset));
  await channel.subscribe({ last: 5 });
  assert.deepEqual([seen, channel.cursor, channel.state], [[5, 6, 7, 8, 9], "e:9", "live"]);
});

test("a new token in time, and a stream that lives by it", async (t) => {
  let count = 0;
  const now = Math.floor(Date.now() / 1000);
  // It is used for half of its time: long enough to have subscribed by then on a slow machine, too.
  const token = () => jwt(++count === 1 ? now + 6 : now + 3600);
  const { client, states, to } = await begin(t, () => false, { token });
  await client.channel("chat:a").subscribe();
  await until(() => to("/v1/events").length >= 2);
  assert.deepEqual(
    to("/v1/events").map(({ authorization }) => authorization),
    [`Bearer ${jwt(now + 6)}`, `Bearer ${jwt(now + 3600)}`],
  );
  assert.ok(states.every(({ state }) => state !== "waiting"));
});

test("an expired token: a function is asked for another, a fixed one stays expired", async (t) => {
  let count = 0;
  const refuse = (call) =>
    call.path !== "/healthz" && call.authorization !== "Bearer 2" && !call.json(problem("token_expired"), 401);
  const asked = await begin(t, refuse, { token: () => String(++count) });
  await asked.client.channel("chat:a").subscribe();
  assert.equal(asked.client.state, "open");
  const fixed = await begin(t, refuse, { token: "1" });
  await assert.rejects(fixed.client.channel("chat:a").publish(1), { code: "closed" });
});

test("what a stream cannot select is refused by the server, and so is a channel too many", async (t) => {
  const { client } = await begin(
    t,
    (call) => call.path === "/v1/documents/orders" && !call.json(problem("bad_request"), 400),
  );
  const refused = client.channel("docs:orders").subscribe({ where: { total: { $regex: "x" } } });
  await assert.rejects(refused, { code: "bad_request" });
  const names = Array.from({ length: 128 }, (_, index) => `chat:${index}`);
  await Promise.all(names.map((name) => client.channel(name).subscribe()));
  await assert.rejects(client.channel("chat:one-more").subscribe(), { code: "limit_exceeded" });
});

test("what JSON does not have is refused at once", async (t) => {
  const { client, states } = await begin(t, () => false);
  await until(() => client.state === "open");
  await assert.rejects(client.collection("orders").put("x", { n: 1n }), TypeError);
  assert.equal(states.at(-1).state, "open");
});
