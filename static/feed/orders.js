/** The orders, by how far they are, the newest first. @module */

import { $, button, element, framed } from "../page.js";
import { openMenu, ring, write } from "./cells.js";
import { List } from "./list.js";
import { clock, mark, money } from "./shelf.js";
import { STEPS } from "./views.js";

/** @typedef {import("../waterspout.js").Document} Document */
/** @typedef {import("./feed.js").Shop} Shop */

/** Orders of a group on the page; the rest is only counted. */
const SHOWN = 40;

export class Orders {
  list;
  #shop;
  /** @type {Map<string, HTMLElement>} by id */
  #rows = new Map();
  draw = framed(() => this.#show());

  /** @param {Shop} shop */
  constructor(shop) {
    this.#shop = shop;
    $("order-list").replaceChildren();
    this.list = new List($("order-list"), () => shop.chosen());
  }

  clear() {
    this.#rows.clear();
    this.draw();
  }

  /** @param {string} id */
  mark(id) {
    requestAnimationFrame(() => mark(this.#rows.get(id)));
  }

  #show() {
    const { state } = this.#shop.views;
    const text = state.q.trim().toLowerCase();
    const all = this.#shop.orders?.documents ?? new Map();
    const wanted = [...all.keys()]
      .map((id) => /** @type {Document} */ (this.#shop.shown("orders", id)))
      .filter((one) => !text || `${one.customer} ${goods(one)}`.toLowerCase().includes(text))
      .sort((one, other) => (other.created ?? 0) - (one.created ?? 0));
    const groups = [...STEPS, ""].map((step) => {
      const these = wanted.filter(({ status }) => (STEPS.includes(status) ? status : "") === step);
      const rows = these.slice(0, SHOWN).map((one) => /** @type {[string, HTMLElement]} */ ([one._id, this.#row(one)]));
      return { title: step || "others", rows, more: these.length - rows.length };
    });
    this.list.show(groups);
    for (const id of this.#rows.keys()) if (!all.has(id)) this.#rows.delete(id);
    $("orders-count").textContent = all.size ? String(all.size) : "";
    const open = [...all.values()].filter(({ status }) => status !== STEPS.at(-1)).length;
    if (state.view === "orders") $("summary").textContent = all.size ? `${all.size} orders${open && open < all.size ? `, ${open} open` : ""}` : "";
    $("no-orders").hidden = wanted.length > 0 || !this.#shop.orders?.ready;
    $("no-orders-why").textContent = all.size ? "No order is like that." : "No orders like that at the moment. New ones come in by themselves.";
  }

  /** @param {Document} order */
  #row(order) {
    const { _id, status, total, created } = order;
    const customer = String(order.customer ?? _id);
    const row = this.#rows.get(_id) ?? this.#make(_id, customer);
    write(row, "h4", customer);
    write(row, ".goods", goods(order));
    write(row, ".total", Number.isFinite(total) ? money.format(total) : "");
    write(row, "time", Number.isFinite(created) ? clock.format(created) : "");
    const button = /** @type {HTMLButtonElement} */ (row.querySelector(".step"));
    button.disabled = !this.#shop.may.orders;
    row.classList.toggle("busy", this.#shop.edits.busy("orders", _id));
    if (row.dataset.status === status) return row;
    row.dataset.status = status;
    button.replaceChildren(ring(status), element("span", "", String(status)));
    button.ariaLabel = `${status}: the order of ${customer}`;
    return row;
  }

  /** @param {string} id @param {string} customer */
  #make(id, customer) {
    const step = button("step");
    step.addEventListener("click", () => this.menu(step, [id]));
    const box = this.list.box(id, `the order of ${customer}`);
    const row = element(
      "li", "item order", box, step, element("h4"), element("span", "goods"), element("time"), element("b", "total"),
    ); // prettier-ignore
    this.#rows.set(id, row);
    return row;
  }

  /** Which step they are to be at. @param {HTMLElement} [at] @param {string[]} [ids] */
  menu(at, ids = this.list.meant) {
    const place = at ?? this.#rows.get(ids[0])?.querySelector("button");
    if (!place || !ids.length || !this.#shop.may.orders) return;
    const present = new Set(ids.map((id) => this.#shop.shown("orders", id)?.status));
    const items = STEPS.map((step) => ({ words: step, icon: ring(step), chosen: present.size === 1 && present.has(step), does: () => this.set(ids, step) }));
    openMenu(place, "Status", items);
  }

  /** @param {string[]} ids @param {string} status */
  set(ids, status) {
    const edits = this.#shop.changing("orders", ids, () => ({ status }), true).filter(({ document }) => document.status !== status);
    const many = edits.length === 1 ? `The order of ${edits[0].document.customer}` : `${edits.length} orders`;
    return this.#shop.edits.write("orders", edits, `${many}: ${status}`);
  }

  /** What can be done with those that are meant. */
  get deeds() {
    const ids = this.list.meant;
    if (!ids.length || !this.#shop.may.orders) return [];
    const many = ids.length > 1 ? `${ids.length} orders` : `the order of ${this.#shop.shown("orders", ids[0])?.customer}`;
    return STEPS.map((step) => ({ words: `Mark as ${step}`, icon: step, of: many, does: () => this.set(ids, step) }));
  }
}

/** @param {Document} order */
function goods({ lines }) {
  return Array.isArray(lines) ? lines.map(({ quantity, product }) => `${quantity} × ${product}`).join(", ") : "";
}
