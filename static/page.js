/** What the pages share. @module */

/** @typedef {import("./waterspout.js").Waterspout} Waterspout */

/** @param {string} id @returns {any} */
export const $ = (id) => document.getElementById(id);

/**
 * An element with classes and children; text goes in as text.
 *
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} tag @param {string} [classes] @param {...(Node | string)} children
 * @returns {HTMLElementTagNameMap[T]}
 */
export function element(tag, classes = "", ...children) {
  const made = document.createElement(tag);
  made.className = classes;
  made.append(...children);
  return made;
}

/** One that sends no form. @param {string} classes @param {...(Node | string)} children */
export function button(classes, ...children) {
  const made = element("button", classes, ...children);
  made.type = "button";
  return made;
}

/** @param {string} name @param {Record<string, string | number>} [attributes] @returns {SVGElement} */
export function svg(name, attributes = {}) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, String(value));
  return made;
}

/** The newest call of many, once a frame. @param {() => void} draw @returns {() => void} */
export function framed(draw) {
  let asked = false;
  return () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      draw();
    });
  };
}

const TRANSPORTS = new Map([
  ["websocket", "Live"],
  ["sse", "Live, by event stream"],
  ["poll", "Live, by polling"],
]);
const AWAY = "Away";

/** Show a client's state in the bar: `#state` with its word, and `#retry`, the way not to wait. @param {Waterspout} client */
export function followConnection(client) {
  /** @type {ReturnType<typeof setInterval> | undefined} */
  let ticking;
  const word = $("state").querySelector(".word");
  /** What is read out, when it is another, and what is not: seconds and attempts. @param {string} words @param {string} [more] */
  const say = (words, more = "") => {
    if (word.textContent !== words) word.textContent = words;
    $("state").querySelector(".more").textContent = more;
  };
  /** @param {any} event */
  const show = ({ state, at, reason }) => {
    document.body.dataset.state = state;
    clearInterval(ticking);
    $("retry").hidden = state !== "waiting" && state !== "closed";
    if (state === "open") say(TRANSPORTS.get(client.transport ?? "") ?? "Live");
    else if (state === "closed") say(`Disconnected: ${reason || "closed"}`);
    else if (state === "connecting" && word.textContent === AWAY) say(AWAY, ", trying");
    else if (state === "connecting") say("Connecting");
    else {
      const tick = () => say(AWAY, `, next try in ${Math.max(0, Math.ceil((at - Date.now()) / 1000))} s`);
      tick();
      ticking = setInterval(tick, 250);
    }
  };
  $("retry").onclick = () => client.connect();
  client.on("state", show);
  show({ state: client.state });
}

/** A value in the tab's or the browser's storage; without one (a browser may refuse it) a page only forgets more.
 *
 * @param {"localStorage" | "sessionStorage"} kind @param {string} name @returns {any} */
export function recall(kind, name) {
  try {
    return JSON.parse(window[kind].getItem(`waterspout.${name}`) ?? "null");
  } catch {
    return null;
  }
}

/** @param {"localStorage" | "sessionStorage"} kind @param {string} name @param {any} value */
export function remember(kind, name, value) {
  try {
    window[kind].setItem(`waterspout.${name}`, JSON.stringify(value));
  } catch {
    // full or refused
  }
}

/** @param {"localStorage" | "sessionStorage"} kind @param {string} name */
export function forget(kind, name) {
  try {
    window[kind].removeItem(`waterspout.${name}`);
  } catch {
    // refused
  }
}
