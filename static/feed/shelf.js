/** The shelf: products with what is left of them, by category. @module */

import { $, button, element, framed } from "../page.js";
import { editable, write } from "./cells.js";
import { List } from "./list.js";

/** @typedef {import("../waterspout.js").Document} Document */
/** @typedef {import("./feed.js").Shop} Shop */

const LOW = 8;
/** What a full shelf holds, for the bars. */
const FULL = 60;
export const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
export const money = new Intl.NumberFormat(undefined, { style: "currency", currency: "EUR" });

/** Restart the mark of a change. @param {HTMLElement | undefined} row @param {string} [kind] */
export function mark(row, kind = "changed") {
  if (!row) return;
  row.classList.remove("changed", "less", "more");
  void row.offsetWidth; // or the browser sees no change of the class, and no new animation
  row.classList.add(kind);
}

export class Shelf {
  list;
  #shop;
  /** @type {Map<string, HTMLElement>} by id */
  #rows = new Map();
  draw = framed(() => this.#show());

  /** @param {Shop} shop */
  constructor(shop) {
    this.#shop = shop;
    $("shelf").replaceChildren();
    this.list = new List($("shelf"), () => shop.chosen());
  }

  /** @param {string} id */
  row(id) {
    return this.#rows.get(id);
  }

  /** How many are left of it, if that is known. @param {string} id @returns {number | undefined} */
  #left(id) {
    return this.#shop.shown("stock", id)?.left;
  }

  #show() {
    const { state } = this.#shop.views;
    const text = state.q.trim().toLowerCase();
    const all = this.#shop.products?.documents ?? new Map();
    const wanted = [...all.keys()]
      .map((id) => /** @type {Document} */ (this.#shop.shown("products", id)))
      .filter((one) => !text || String(one.name).toLowerCase().includes(text))
      .filter((one) => !state.low || (this.#left(one._id) ?? Infinity) < LOW)
      .sort((one, other) => String(one.category).localeCompare(String(other.category)) || String(one.name).localeCompare(String(other.name)));
    /** @type {Map<string, import("./list.js").Group>} by title */
    const groups = new Map();
    for (const one of wanted) {
      const title = String(one.category ?? "");
      if (!groups.has(title)) groups.set(title, { title, rows: [] });
      groups.get(title)?.rows.push([one._id, this.#row(one)]);
    }
    this.list.show([...groups.values()]);
    for (const id of this.#rows.keys()) if (!all.has(id)) this.#rows.delete(id);
    const sold = [...(this.#shop.stock?.documents.values() ?? [])].filter((one) => one.left === 0).length;
    const words = all.size ? `${all.size} products${sold ? `, ${sold} sold out` : ""}` : "";
    if (state.view === "shelf") $("summary").textContent = words;
    const filtered = text !== "" || state.low || state.category !== "";
    this.#empty(wanted.length === 0 && this.#shop.products?.ready === true, filtered);
  }

  /** @param {boolean} empty @param {boolean} filtered */
  #empty(empty, filtered) {
    $("no-products").hidden = !empty;
    if (!empty) return;
    if (!filtered) {
      const command = element("code", "", ".venv/bin/python run.py seed --simulate");
      const lead = element("p", "", "The shop is empty. This fills it, and sells:");
      return $("no-products").replaceChildren(element("b", "", "Nothing here yet"), lead, element("p", "", command));
    }
    if ($("no-products").querySelector("button")) return;
    const clear = button("quiet-button", "Show all");
    clear.addEventListener("click", () => this.#shop.views.go({ q: "", category: "", low: false }));
    $("no-products").replaceChildren(element("b", "", "Nothing on the shelf is like that."), element("p", "", clear));
  }

  /** @param {Document} product */
  #row({ _id, name, price }) {
    const row = this.#rows.get(_id) ?? this.#make(_id);
    const left = this.#left(_id);
    const title = String(name ?? _id);
    const part = (/** @type {string} */ selector) => /** @type {any} */ (row.querySelector(selector));
    write(row, "h4", title);
    part(".pick").ariaLabel = `Select ${title}`;
    write(row, ".cost", Number.isFinite(price) ? money.format(price) : "");
    write(row, ".left", left === undefined ? "" : left === 0 ? "Sold out" : `${left} left`);
    part(".bar-of i").style.width = `${Math.min(100, (100 * (left ?? 0)) / FULL)}%`;
    const order = part(".order-one");
    order.hidden = !this.#shop.open || left === undefined;
    order.disabled = left === 0 || this.#shop.ordering.has(_id);
    order.ariaLabel = `Order one: ${title}`;
    for (const [selector, may] of [[".cost", this.#shop.may.products], [".left", this.#shop.may.stock]]) {
      const cell = part(`button${selector}`);
      if (cell) cell.disabled = !may;
    }
    row.classList.toggle("busy", this.#shop.edits.busy("products", _id) || this.#shop.edits.busy("stock", _id));
    row.dataset.left = left === undefined ? "" : left === 0 ? "none" : left < LOW ? "low" : "fine";
    return row;
  }

  /** @param {string} id */
  #make(id) {
    const name = () => String(this.#shop.shown("products", id)?.name ?? id);
    const cost = editable("cost", {
      name: () => `Price of ${name()}`,
      value: () => String(this.#shop.shown("products", id)?.price ?? 0),
      save: (price) => this.price([id], () => price, `${name()} costs ${money.format(price)}`),
      step: "0.01",
    });
    const left = editable("left", {
      name: () => `How many are left of ${name()}`,
      value: () => String(this.#left(id) ?? 0),
      save: (typed) => this.restock([id], Math.round(typed), `${name()}: ${Math.round(typed)} left`),
    });
    const bar = element("span", "bar-of", element("i"));
    const order = button("quiet-button order-one", "Order one");
    order.addEventListener("click", () => void this.#shop.place(id));
    const box = this.list.box(id, id);
    const row = element("li", "item product", box, element("h4"), bar, left, cost, order);
    this.#rows.set(id, row);
    return row;
  }

  /** @param {string[]} ids @param {number} left @param {string} words */
  restock(ids, left, words) {
    const edits = this.#shop.changing("stock", ids, () => ({ left })); // whatever is sold meanwhile: it was counted
    return this.#shop.edits.write("stock", edits, words);
  }

  /** @param {string[]} ids @param {(price: number) => number} change @param {string} words */
  price(ids, change, words) {
    const edits = this.#shop.changing("products", ids, ({ price }) => ({ price: Math.round(100 * change(price)) / 100 }), true);
    return this.#shop.edits.write("products", edits, words);
  }

  /** Open the field of the active row. @param {"left" | "cost"} what */
  edit(what) {
    const row = this.list.active === null ? undefined : this.#rows.get(this.list.active);
    row?.querySelector(`button.${what}:enabled`)?.dispatchEvent(new MouseEvent("click", { bubbles: true }));
  }

  /** What can be done with those that are meant. */
  get deeds() {
    const ids = this.list.meant;
    if (!ids.length) return [];
    const many = ids.length > 1 ? `${ids.length} products` : String(this.#shop.shown("products", ids[0])?.name ?? ids[0]);
    const deeds = [];
    if (this.#shop.may.stock) deeds.push({ words: "Restock to 60", of: many, does: () => this.restock(ids, FULL, `${many}: restocked`) });
    if (this.#shop.may.products) {
      for (const [words, factor] of /** @type {[string, number][]} */ ([["Price −10 %", 0.9], ["Price +10 %", 1.1]])) {
        deeds.push({ words, of: many, does: () => this.price(ids, (price) => price * factor, `${many}: ${words.toLowerCase()}`) });
      }
    }
    return deeds;
  }
}
