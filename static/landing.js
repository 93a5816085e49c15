/**
 * The landing page: what runs here, and what happens on the other pages at this moment.
 *
 * @module
 */

import { enter } from "./account/account.js";
import { $, element, followConnection, framed } from "./page.js";
import { demonstrate } from "./plug.js";

const LOOK_EVERY = 5000;
const WORDS = new Map([
  ["ready", "Ready"],
  ["degraded", "Degraded"],
  ["down", "Down"],
]);
const price = new Intl.NumberFormat(undefined, { maximumSignificantDigits: 6 });

// The addresses of the chat's rooms were here once.
const move = () => location.hash && location.replace(`/chat/${location.hash}`);
addEventListener("hashchange", move);
move();

const client = (await enter({ ask: false })).client();
followConnection(client);
let shown = false;
client.on("open", () => {
  if (!shown && client.transport === "websocket") demonstrate();
  shown = true;
  $("node").textContent = client.session?.node ?? "behind HTTP";
  void look();
});
client.on("closed", () => {
  for (const id of ["node", "trip"]) $(id).textContent = "–";
});
void look();
setInterval(() => document.hidden || void look(), LOOK_EVERY);

/** Ask how it is. A server that does not answer is told by the connection's state. */
async function look() {
  try {
    const { status, reasons = [] } = await (await fetch("/readyz")).json();
    show(status, reasons);
  } catch {
    if (client.state !== "open") show("down", []);
    return;
  }
  if (client.state !== "open") return;
  try {
    const began = performance.now();
    await client.request("ping");
    const took = performance.now() - began;
    $("trip").textContent = took < 10 ? `${took.toFixed(1)} ms` : `${Math.round(took)} ms`;
    const { count, guests = 0 } = await client.channel("chat:lobby").presence();
    const here = count + guests;
    $("chat-now").textContent = here ? `${here} in #lobby now` : "Nobody in #lobby yet";
  } catch {
    // lost just now: the next look tells
  }
}

/** @param {string} status @param {string[]} reasons */
function show(status, reasons) {
  $("status").textContent = WORDS.get(status) ?? status;
  $("status").dataset.status = status;
  $("reasons").hidden = !reasons.length;
  $("reasons").replaceChildren(...reasons.map((reason) => element("li", "", reason)));
}

async function version() {
  try {
    const { info } = await (await fetch("/openapi.json")).json();
    $("version").textContent = info.version;
  } catch {
    $("version").parentElement.hidden = true;
  }
}
void version();

/** The newest change of a collection, in words. @param {string} collection @param {string} id @param {(document: any) => string} say */
function follow(collection, id, say) {
  let words = "";
  const put = framed(() => ($(id).textContent = words));
  const copy = client.watch(collection, undefined, { conflate: 0.5 });
  const take = (/** @type {any} */ document) => {
    if (!document) return;
    words = say(document);
    put();
  };
  copy.on("ready", () => {
    words = "Empty as yet";
    take([...copy.documents.values()][0]);
    put();
  });
  copy.on("change", ({ document }) => take(document));
}
follow("stock", "feed-now", ({ _id, left }) => `${_id}: ${left} left`);
follow("instruments", "dashboard-now", (one) => `${one._id} at ${price.format(one.price)}`);

$("shell").textContent = `curl ${location.origin}/v1/channels/chat:lobby/messages \\
  -d '{"data": {"name": "Shell", "text": "Hello"}}'`;
$("script").textContent = `import { Waterspout } from "${location.origin}/static/waterspout.js";

const lobby = new Waterspout("${location.origin}/v1/ws").channel("chat:lobby");
lobby.on("message", ({ data }) => console.log(data.name, data.text));
await lobby.subscribe({ last: 10 });`;
for (const button of document.querySelectorAll("button.copy")) {
  // Only pages served over TLS or from this machine may write to the clipboard.
  if (!navigator.clipboard) button.remove();
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText($(/** @type {HTMLElement} */ (button).dataset.of ?? "").textContent);
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy"), 2000);
  });
}
