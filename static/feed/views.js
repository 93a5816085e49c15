/** What is looked at, as the address says it: so a view can be sent to somebody, kept, and gone back to. @module */

import { $, button, element, recall, remember } from "../page.js";

/** @typedef {{ view: "shelf" | "orders", q: string, category: string, low: boolean, status: string }} State */

export const STEPS = ["placed", "paid", "packed", "shipped"];
const NAME = "feed.views";
const MOST = 12;
/** @type {[string, string][]} */
const GIVEN = [
  ["On the shelf", ""],
  ["Nearly sold out", "low=1"],
  ["Open orders", "view=orders&status=open"],
  ["All orders", "view=orders"],
];

/** @param {string} text  what is behind the question mark @returns {State} */
export function parse(text) {
  const query = new URLSearchParams(text);
  const status = query.get("status") ?? "";
  return {
    view: query.get("view") === "orders" ? "orders" : "shelf",
    q: query.get("q") ?? "",
    category: query.get("category") ?? "",
    low: query.get("low") === "1",
    status: status === "open" || STEPS.includes(status) ? status : "",
  };
}

/** The shortest that says it. @param {State} state */
export function format({ view, q, category, low, status }) {
  const query = new URLSearchParams();
  if (view === "orders") query.set("view", view);
  if (view === "orders" && status) query.set("status", status);
  if (view === "shelf" && category) query.set("category", category);
  if (view === "shelf" && low) query.set("low", "1");
  if (q) query.set("q", q);
  return query.toString();
}

export class Views {
  state = parse(location.search);
  #change;

  /** @param {(state: State) => void} change  called when something else is to be shown */
  constructor(change) {
    this.#change = change;
    addEventListener("popstate", () => {
      this.state = parse(location.search);
      this.show();
      change(this.state);
    });
    $("save-view").addEventListener("click", () => this.#ask());
    this.show();
  }

  /** @param {Partial<State>} changes @param {boolean} [push]  whether there is a way back to what was before */
  go(changes, push = true) {
    this.state = { ...this.state, ...changes };
    const query = format(this.state);
    const address = location.pathname + (query ? `?${query}` : "");
    if (push && address !== location.pathname + location.search) history.pushState(null, "", address);
    else history.replaceState(null, "", address);
    this.show();
    this.#change(this.state);
  }

  /** @returns {[string, string][]} */
  get all() {
    return [...GIVEN, ...this.#own];
  }

  /** @returns {[string, string][]} */
  get #own() {
    const kept = recall("localStorage", NAME);
    const good = (/** @type {any} */ one) => Array.isArray(one) && one.every((part) => typeof part === "string");
    return Array.isArray(kept) ? kept.filter(good).slice(0, MOST) : [];
  }

  show() {
    const present = format(this.state);
    const own = new Set(this.#own.map(([, query]) => query));
    const links = this.all.map(([name, query]) => {
      const link = element("a", "view", name);
      link.href = query ? `?${query}` : location.pathname;
      if (format(parse(query)) === present) link.setAttribute("aria-current", "true");
      link.addEventListener("click", (event) => {
        if (event.ctrlKey || event.metaKey || event.shiftKey) return;
        event.preventDefault();
        this.go(parse(query));
        [...$("views").querySelectorAll("a")].find((one) => one.textContent === name)?.focus();
      });
      const item = element("li", "", link);
      if (own.has(query)) item.append(this.#forget(name));
      return item;
    });
    $("views").replaceChildren(...links);
    $("save-view").hidden = this.all.some(([, query]) => format(parse(query)) === present);
    $("name-view").hidden = true;
  }

  /** @param {string} name */
  #forget(name) {
    const made = button("forget", "×");
    made.ariaLabel = `Forget the view ${name}`;
    made.addEventListener("click", () => {
      remember("localStorage", NAME, this.#own.filter(([other]) => other !== name));
      this.show();
    });
    return made;
  }

  #ask() {
    const form = $("name-view");
    const input = form.querySelector("input");
    form.hidden = false;
    $("save-view").hidden = true;
    input.value = "";
    input.focus();
    form.onsubmit = (/** @type {Event} */ event) => {
      event.preventDefault();
      const name = input.value.trim();
      const others = this.#own.filter(([other]) => other !== name);
      if (name) remember("localStorage", NAME, [...others, [name, format(this.state)]].slice(-MOST));
      this.show();
    };
    input.onkeydown = (/** @type {KeyboardEvent} */ event) => {
      if (event.key === "Escape") this.show();
    };
  }
}
