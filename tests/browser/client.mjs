// Drives static/waterspout.js for test_client_node.py: commands on stdin, events and results on stdout, JSON lines.

import { createInterface } from "node:readline";
import { Waterspout } from "../../static/waterspout.js";

const [url, options] = process.argv.slice(2);
const tell = (event) => console.log(JSON.stringify(event));

const client = new Waterspout(url, JSON.parse(options ?? "{}"));
client.on("state", (event) => tell({ event: "state", ...event }));
client.on("resumed", (event) => tell({ event: "resumed", ...event }));

const heard = new Set();

function channel(name) {
  const subscription = client.channel(name);
  if (!heard.has(name)) {
    heard.add(name);
    for (const type of ["message", "gap", "dropped", "live", "subscribed"]) {
      subscription.on(type, (event) => tell({ ...event, event: type, channel: name }));
    }
    subscription.on("ended", ({ code, reason }) => tell({ event: "ended", channel: name, code, reason }));
  }
  return subscription;
}

const commands = {
  subscribe: ({ name, options }) => channel(name).subscribe(options),
  unsubscribe: ({ name }) => channel(name).unsubscribe(),
  publish: ({ name, data, options }) => channel(name).publish(data, options),
  history: ({ name, options }) => channel(name).history(options),
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
    .catch(({ code, reason, message, retry }) => tell({ id, error: { code, reason: reason ?? message, retry } }));
}
client.close();
