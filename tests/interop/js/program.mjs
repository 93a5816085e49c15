// A user of npm's `centrifuge`, as README.md of this folder describes them.
import { Centrifuge as Json } from "centrifuge";
import { Centrifuge as Protobuf } from "centrifuge/build/protobuf";
import WebSocket from "ws";

const env = process.env;
const binary = env.INTEROP_PROTOCOL === "protobuf";
const encode = (value) => (binary ? new TextEncoder().encode(JSON.stringify(value)) : value);
const decode = (data) => (binary ? JSON.parse(new TextDecoder().decode(data)) : data);
const say = (line) => process.stdout.write(JSON.stringify(line) + "\n");
const event = (emitter, name) => new Promise((resolve) => emitter.once(name, resolve));

async function step(name, work) {
  try {
    await work();
    say({ step: name });
  } catch (error) {
    say({ step: name, failed: String(error?.message ?? error) });
  }
}

function check(condition, why) {
  if (!condition) throw new Error(why);
}

let renewed;
const refreshed = new Promise((resolve) => (renewed = resolve));
const client = new (binary ? Protobuf : Json)(env.INTEROP_URL, {
  websocket: WebSocket,
  token: env.INTEROP_TOKEN,
  getToken: async () => (renewed(), env.INTEROP_NEXT_TOKEN),
  minReconnectDelay: 100,
  maxReconnectDelay: 1000,
});
const own = client.newSubscription(env.INTEROP_CHANNEL);

await step("connect", async () => {
  const connected = event(client, "connected");
  client.connect();
  await connected;
});
await step("subscribe", async () => {
  const subscribed = event(own, "subscribed");
  own.subscribe();
  check((await subscribed).recoverable, "the subscription is not recoverable");
});
await step("publish", async () => {
  const publication = event(own, "publication");
  await own.publish(encode({ hello: "world" }));
  check(decode((await publication).data).hello === "world", "another publication came");
});
await step("history", async () => {
  const history = await own.history({ limit: 10 });
  check(decode(history.publications[0].data).hello === "world" && history.offset === 1, "the publication is not in it");
});
await step("presence", async () => {
  const { clients } = await own.presence();
  check(Object.values(clients).some((one) => one.user === env.INTEROP_USER), "the client is not there");
});
await step("refresh", async () => {
  await refreshed;
  await own.presence();
  check(client.state === "connected", `the client is ${client.state}`);
});

const storm = client.newSubscription(env.INTEROP_STORM);
const seen = [];
const all = new Promise((resolve) => {
  storm.on("publication", ({ data }) => {
    seen.push(decode(data).n);
    if (new Set(seen).size >= Number(env.INTEROP_COUNT)) resolve();
  });
});
const listening = event(storm, "subscribed");
storm.subscribe();
await listening;
say({ step: "ready" });
await all;
const distinct = new Set(seen).size;
say({ step: "storm", received: seen.length, distinct, ordered: seen.every((n, at) => n === at + 1) });
client.disconnect();
