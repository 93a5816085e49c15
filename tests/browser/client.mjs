// Drives static/waterspout.js for test_client_node.py: commands on stdin, events and results on stdout, JSON lines.

import { createInterface } from "node:readline";
import { Waterspout } from "../../static/waterspout.js";
import * as msgpack from "./msgpack.mjs";

const [url, options] = process.argv.slice(2);
const tell = (event) => console.log(JSON.stringify(event));

const { packed, blocked, ...given } = JSON.parse(options ?? "{}");
if (packed) given.msgpack = msgpack;
if (blocked) {
  // A network without WebSockets.
  given.WebSocket = class {
    constructor() {
      setTimeout(() => this.onclose({ code: 1006, reason: "blocked" }), 5);
    }
    close() {}
  };
}
const client = new Waterspout(url, given);
client.on("state", (event) => tell({ event: "state", ...event }));
for (const type of ["resumed", "limited"]) client.on(type, (event) => tell({ event: type, ...event }));

client.on("subscribed", ({ channel: { name, state } }) => {
  channel(name);
  tell({ event: "served", channel: name, state });
});

const heard = new Set();

function channel(name) {
  const subscription = client.channel(name);
  if (!heard.has(name)) {
    heard.add(name);
    for (const type of ["message", "amend", "gap", "dropped", "live", "subscribed"]) {
      subscription.on(type, (event) => tell({ ...event, event: type, channel: name }));
    }
    subscription.on("ended", ({ code, reason }) => tell({ event: "ended", channel: name, code, reason }));
  }
  return subscription;
}

/** Copies, by the name that the test gives them: else that of the collection. */
const copies = new Map();

function watch({ name, where, as = name }) {
  const copy = client.watch(name, where);
  copies.set(as, copy);
  copy.on("reset", () => tell({ event: "reset", collection: name }));
  copy.on("change", ({ op, id, before }) => tell({ event: "change", op, document: id, known: before !== null }));
  copy.on("ended", ({ code, reason }) => tell({ event: "ended", code, reason }));
}

/** Timelines, likewise. */
const timelines = new Map();
const shown = ({ offset, data, version, edited, deleted, pinned, pending, error, reactions, mine, replies, thread }) => ({
  ...{ offset, data, version, edited, pinned, pending, thread, error: error?.code },
  ...(replies ? { replies: [replies.count, replies.users] } : {}),
  ...(reactions ? { reactions: reactions.map(({ k, n }) => [k, n]), mine } : {}),
  ...(deleted ? { deleted: true } : {}),
});

function show(timeline, name, options) {
  timelines.set(name, timeline);
  timeline.on("change", () => tell({ event: "shown", messages: timeline.messages.map(shown) }));
  timeline.on("refused", ({ error, message }) => tell({ event: "refused", code: error.code, offset: message?.offset }));
  return timeline.start(options);
}

const commands = {
  watch,
  copy: ({ name }) => [...copies.get(name).documents.values()],
  ready: ({ name }) => copies.get(name).ready,
  unwatch: ({ name }) => copies.get(name).close(),
  collection: ({ name, call, args }) => client.collection(name)[call](...args),
  members: ({ name }) => {
    const { users, count, guests } = channel(name).members();
    return { users: [...users.keys()].sort(), count, guests };
  },
  transport: () => client.transport,
  subscribe: ({ name, options }) => channel(name).subscribe(options),
  unsubscribe: ({ name }) => channel(name).unsubscribe(),
  publish: ({ name, data, options }) => channel(name).publish(data, options),
  edit: ({ name, of, data, options }) => channel(name).edit(of, data, options),
  append: ({ name, of, text, options }) => channel(name).append(of, text, options),
  write: async ({ name, of, pieces }) => {
    const writer = timelines.get(name).append(of).getWriter();
    writer.closed.catch(() => {});
    for (const piece of pieces) await writer.write(piece);
    await writer.close();
  },
  remove: ({ name, of, options }) => channel(name).remove(of, options),
  pin: ({ name, of, pinned }) => channel(name).pin(of, pinned),
  react: ({ name, of, kind, on = true }) => (on ? channel(name).react(of, kind) : channel(name).unreact(of, kind)),
  timeline: ({ name, as = name, options }) => show(channel(name).timeline(), as, options),
  threadOf: async ({ name, message }) => {
    const timeline = timelines.get(name).thread(message);
    if (!timelines.has(timeline.channel.name)) await show(timeline, timeline.channel.name);
    return timeline.channel.name;
  },
  shown: ({ name }) => timelines.get(name).messages.map(shown),
  inTimeline: ({ name, call, args }) => timelines.get(name)[call](...args),
  history: ({ name, options }) => channel(name).history(options),
  cancel: ({ name }) => client.cancel(name),
  consume: async ({ name, nack, until, ack }) => {
    const got = [];
    for await (const job of client.consume(name)) {
      got.push([job.data, job.delivery]);
      if (job.data === nack && job.delivery === 1) await job.nack();
      if (job.delivery < until) continue;
      if (ack) await job.ack();
      break;
    }
    return got;
  },
  search: ({ q, options }) => client.search(q, options),
  call: ({ name, data, options }) => client.call(name, data, options),
  cursor: ({ name }) => channel(name).cursor,
  connect: () => client.connect(),
  close: () => client.close(),
};

for await (const line of createInterface({ input: process.stdin })) {
  const { id, command, ...rest } = JSON.parse(line);
  // Not awaited: the next command may be the one that lets this one end.
  Promise.resolve()
    .then(() => commands[command](rest))
    .then((result) => tell({ id, result: result ?? null }))
    .catch(({ code, reason, message, retry, details }) =>
      tell({ id, error: { code, reason: reason ?? message, retry, details } }),
    );
}
client.close();
