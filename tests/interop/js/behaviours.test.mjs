// What npm's `centrifuge` has to see of a server, over each transport and encoding.
import assert from "node:assert/strict";
import { createHmac, randomUUID } from "node:crypto";
import { afterEach, test } from "node:test";
import { Centrifuge as Json } from "centrifuge";
import { Centrifuge as Protobuf } from "centrifuge/build/protobuf";
import EventSource from "eventsource";
import WebSocket from "ws";

const BASE = process.env.INTEROP_BASE;
const SECRET = "secret";
const now = () => Math.floor(Date.now() / 1000);
const event = (emitter, name) => new Promise((resolve) => emitter.once(name, resolve));
const base64 = (value) => Buffer.from(value).toString("base64url");

function token(claims) {
  const signed = `${base64('{"alg":"HS256","typ":"JWT"}')}.${base64(JSON.stringify(claims))}`;
  return `${signed}.${createHmac("sha256", SECRET).update(signed).digest("base64url")}`;
}

function endpoint(transport) {
  const ws = BASE.replace("http", "ws") + "/connection/websocket";
  if (transport === "websocket") return ws;
  return [{ transport, endpoint: `${BASE}/connection/${transport}` }];
}

const WAYS = [
  { name: "WebSocket, JSON", kind: Json, transport: "websocket" },
  { name: "WebSocket, Protobuf", kind: Protobuf, transport: "websocket", binary: true },
  { name: "HTTP streaming, JSON", kind: Json, transport: "http_stream" },
  { name: "server-sent events, JSON", kind: Json, transport: "sse" },
];

const clients = [];

// Those of a test that has failed as well: they would come back again and again, and the process would never end.
afterEach(() => clients.splice(0).forEach((client) => client.disconnect()));

function open(way, options = {}) {
  const client = new way.kind(endpoint(way.transport), {
    websocket: WebSocket,
    eventsource: EventSource,
    fetch,
    readableStream: ReadableStream,
    emulationEndpoint: `${BASE}/emulation`,
    minReconnectDelay: 50,
    maxReconnectDelay: 200,
    ...options,
  });
  client.on("error", () => {});
  clients.push(client);
  return client;
}

async function connected(way, options) {
  const client = open(way, options);
  const context = event(client, "connected");
  client.connect();
  return [client, await context];
}

async function subscribed(client, channel, options) {
  const subscription = client.newSubscription(channel, options);
  subscription.on("error", () => {});
  const context = event(subscription, "subscribed");
  subscription.subscribe();
  return [subscription, await context];
}

const encode = (way, value) => (way.binary ? new TextEncoder().encode(JSON.stringify(value)) : value);
const decode = (way, data) => (way.binary ? JSON.parse(new TextDecoder().decode(data)) : data);
const channel = () => `behaviour-${randomUUID().slice(0, 8)}`;

function collect(way, subscription, count) {
  const found = [];
  return new Promise((resolve) =>
    subscription.on("publication", ({ data }) => found.push(decode(way, data)) === count && resolve(found)),
  );
}

for (const way of WAYS) {
  const it = (title, work) => test(`${way.name}: ${title}`, { timeout: 20000 }, work);

  it("connects and disconnects", async () => {
    const [client, context] = await connected(way);
    assert.ok(context.client);
    const gone = event(client, "disconnected");
    client.disconnect();
    assert.equal((await gone).code, 0);
  });

  it("publishes and receives", async () => {
    const [client] = await connected(way);
    const [subscription, context] = await subscribed(client, channel());
    assert.ok(context.recoverable && context.positioned);
    const publication = event(subscription, "publication");
    await subscription.publish(encode(way, { text: "grüß dich" }));
    const { data, offset, info } = await publication;
    assert.deepEqual([decode(way, data), offset, info.client], [{ text: "grüß dich" }, 1, context.client ?? info.client]);
    client.disconnect();
  });

  it("reads history both ways", async () => {
    const [client] = await connected(way);
    const [subscription] = await subscribed(client, channel());
    for (let n = 1; n <= 5; n++) await subscription.publish(encode(way, { n }));
    const numbers = async (options) =>
      (await subscription.history(options)).publications.map(({ data }) => decode(way, data).n);
    const { offset, epoch } = await subscription.history({ limit: 0 });
    assert.equal(offset, 5);
    assert.deepEqual(await numbers({ limit: 2 }), [1, 2]);
    assert.deepEqual(await numbers({ limit: 2, reverse: true }), [5, 4]);
    assert.deepEqual(await numbers({ limit: 10, since: { offset: 3, epoch } }), [4, 5]);
    await assert.rejects(subscription.history({ limit: 1, since: { offset: 1, epoch: "another" } }), { code: 112 });
    client.disconnect();
  });

  it("shows presence, client by client", async () => {
    const [client, { client: id }] = await connected(way, { token: token({ sub: "ann" }) });
    const [subscription] = await subscribed(client, channel());
    const { clients } = await subscription.presence();
    assert.equal(clients[id].user, "ann");
    assert.deepEqual(await subscription.presenceStats(), { numClients: 1, numUsers: 1 });
    client.disconnect();
  });

  it("tells joins and leaves", async () => {
    const name = channel();
    const [watcher] = await connected(way);
    const [watched] = await subscribed(watcher, name, { joinLeave: true });
    const [client, { client: id }] = await connected(way, { token: token({ sub: "bob" }) });
    const joined = new Promise((resolve) => watched.on("join", ({ info }) => info.client === id && resolve(info)));
    const left = new Promise((resolve) => watched.on("leave", ({ info }) => info.client === id && resolve(info)));
    const [subscription] = await subscribed(client, name);
    assert.equal((await joined).user, "bob");
    subscription.unsubscribe();
    assert.equal((await left).user, "bob");
    client.disconnect();
    watcher.disconnect();
  });

  it("recovers what came while it was away", async () => {
    const name = channel();
    const [client] = await connected(way);
    const [subscription] = await subscribed(client, name);
    const [other] = await connected(way);
    const first = event(subscription, "publication");
    const all = collect(way, subscription, 4);
    await other.publish(name, encode(way, { n: 1 }));
    await first;
    client.disconnect();
    for (let n = 2; n <= 4; n++) await other.publish(name, encode(way, { n }));
    const back = event(subscription, "subscribed");
    client.connect();
    const context = await back;
    assert.ok(context.wasRecovering && context.recovered);
    assert.deepEqual((await all).map(({ n }) => n), [1, 2, 3, 4]);
    client.disconnect();
    other.disconnect();
  });

  it("renews its token", async () => {
    let asked;
    const renewed = new Promise((resolve) => (asked = resolve));
    const getToken = async () => (asked(), token({ sub: "ann", exp: now() + 3600 }));
    const [client] = await connected(way, { token: token({ sub: "ann", exp: now() + 2 }), getToken });
    await renewed;
    await client.presence(channel());
    assert.equal(client.state, "connected");
    client.disconnect();
  });

  it("is refused with a token that is none", async () => {
    const client = open(way, { token: "nonsense" });
    const gone = event(client, "disconnected");
    client.connect();
    assert.equal((await gone).code, 3500);
  });

  it("subscribes with a token of the channel", async () => {
    const [client] = await connected(way, { token: token({ sub: "ann" }) });
    const name = channel();
    const good = token({ sub: "ann", channel: name, exp: now() + 60 });
    await subscribed(client, name, { token: good });
    const wrong = client.newSubscription(channel(), { token: good });
    const ended = event(wrong, "unsubscribed");
    wrong.on("error", () => {});
    wrong.subscribe();
    assert.equal((await ended).code, 103);
    client.disconnect();
  });

  it("is subscribed by the server", async () => {
    const name = channel();
    const client = open(way, { token: token({ sub: "ann", channels: [name] }) });
    const began = event(client, "subscribed");
    const publication = event(client, "publication");
    client.connect();
    assert.equal((await began).channel, name);
    await client.publish(name, encode(way, { n: 1 }));
    const { channel: from, data } = await publication;
    assert.deepEqual([from, decode(way, data)], [name, { n: 1 }]);
    client.disconnect();
  });

  it("is told what it may not do, and what there is not", async () => {
    const [client] = await connected(way);
    await assert.rejects(client.publish("nowhere:x", encode(way, 1)), { code: 102 });
    await assert.rejects(client.rpc("none", encode(way, 1)), { code: 108 });
    client.disconnect();
  });

  it("keeps many subscriptions apart", async () => {
    const [client] = await connected(way);
    const names = Array.from({ length: 20 }, channel);
    const all = await Promise.all(names.map((name) => subscribed(client, name)));
    const first = all.map(([subscription]) => event(subscription, "publication"));
    await Promise.all(names.map((name) => client.publish(name, encode(way, { name }))));
    const found = await Promise.all(first);
    assert.deepEqual(found.map(({ data }) => decode(way, data).name), names);
    client.disconnect();
  });
}
