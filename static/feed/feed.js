/**
 * The shop: its products, stock and orders as live documents. The server selects (`where`), the page keeps the copies.
 * `run.py seed --simulate` is the back end that sells; where there is the one of `examples/shop`, one may order oneself, by
 * a call. Orders are not for everybody: guests are asked for a token, which stays in this tab.
 *
 * @module
 */

import { enter } from "../account/account.js";
import { $, element, followConnection, framed, recall, remember } from "../page.js";
import { randomKey, Waterspout } from "../waterspout.js";

/** @typedef {import("../waterspout.js").Document} Document */
/** @typedef {import("../waterspout.js").LiveCopy} LiveCopy */

const account = await enter();

const STEPS = ["placed", "paid", "packed", "shipped"];
const LOW = 8;
/** What a full shelf holds, for the bars. */
const FULL = 60;
const LOGGED = 40;
/** Orders on the page; the rest is only counted. */
const SHOWN = 60;

const money = new Intl.NumberFormat(undefined, { style: "currency", currency: "EUR" });
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });

/** Restart the mark of a change. @param {HTMLElement} row @param {string} [kind] */
function mark(row, kind = "changed") {
  row.classList.remove("changed", "less", "more");
  void row.offsetWidth; // or the browser sees no change of the class, and no new animation
  row.classList.add(kind);
}

/** Buttons of which one is pressed. @param {HTMLElement} place @param {string[]} values @param {string} chosen @param {(value: string) => void} choose */
function chips(place, values, chosen, choose) {
  const buttons = ["", ...values].map((value) => {
    const button = element("button", "chip", value || "All");
    button.type = "button";
    button.ariaPressed = String(value === chosen);
    button.addEventListener("click", () => {
      for (const other of buttons) other.ariaPressed = String(other === button);
      choose(value);
    });
    return button;
  });
  place.replaceChildren(...buttons);
}

class Shop {
  client;
  /** @type {LiveCopy | null} */
  products = null;
  /** @type {LiveCopy | null} */
  stock = null;
  /** @type {LiveCopy | null} */
  orders = null;
  category = "";
  status = "";
  /** @type {Set<string>} all that were ever seen: a filter must not take away its own alternatives */
  #categories = new Set();
  /** @type {Map<string, HTMLElement>} by id */
  #shelf = new Map();
  /** @type {Map<string, HTMLElement>} by id */
  #list = new Map();
  /** @type {Set<string>} ids of what is being ordered here */
  #ordering = new Set();
  /** Whether anybody takes orders here, as far as is known. */
  #open = true;
  #drawShelf = framed(() => this.#showShelf());
  #drawOrders = framed(() => this.#showOrders());

  /** @param {string | null} token */
  constructor(token) {
    this.client = token ? new Waterspout(undefined, { token }) : account.client();
    this.signedIn = token !== null || account.user !== null;
    followConnection(this.client);
    this.client.on("closed", ({ reason }) => shop === this && this.#turnedAway(reason));
    this.#watchProducts();
    this.#watchStock();
    this.#watchOrders();
  }

  close() {
    this.client.close();
  }

  // --- the shelf ----------------------------------------------------------------------------------------------------

  async #watchProducts() {
    await this.products?.close();
    this.products = this.client.watch("products", this.category ? { category: this.category } : undefined);
    this.products.on("reset", () => this.#productsCame());
    this.products.on("change", () => this.#productsCame());
    this.products.on("ended", (error) => this.#lacking(error));
  }

  #productsCame() {
    const known = this.#categories.size;
    for (const { category } of this.products?.documents.values() ?? []) {
      if (typeof category === "string") this.#categories.add(category);
    }
    if (this.#categories.size !== known) {
      chips($("categories"), [...this.#categories].sort(), this.category, (category) => {
        this.category = category;
        void this.#watchProducts();
      });
    }
    this.#drawShelf();
  }

  #watchStock() {
    this.stock = this.client.watch("stock");
    this.stock.on("reset", () => this.#drawShelf());
    this.stock.on("change", ({ id, document, before }) => {
      this.#drawShelf();
      if (document && before && document.left !== before.left)
        this.#moved(id, document.left - before.left, document.left);
    });
  }

  /** @param {string} id @param {number} by @param {number} left */
  #moved(id, by, left) {
    const row = this.#shelf.get(id);
    if (row) mark(row, by < 0 ? "less" : "more");
    const name = this.products?.documents.get(id)?.name ?? id;
    const words = by < 0 ? `${-by} × ${name} sold` : `${by} × ${name} delivered`;
    this.log(words, left ? `${left} left` : "sold out");
  }

  /** @param {string} words @param {string} [more] */
  log(words, more = "") {
    $("no-log").hidden = true;
    const time = element("time", "", clock.format(Date.now()));
    $("log").prepend(element("li", "", time, element("span", "", words), element("small", "", more)));
    while ($("log").childElementCount > LOGGED) $("log").lastElementChild.remove();
  }

  #wanted() {
    const text = $("name").value.trim().toLowerCase();
    const low = $("low").checked;
    const left = (/** @type {Document} */ one) => this.stock?.documents.get(one._id)?.left;
    return [...(this.products?.documents.values() ?? [])]
      .filter((one) => !text || String(one.name).toLowerCase().includes(text))
      .filter((one) => !low || (left(one) ?? Infinity) < LOW)
      .sort((one, other) => String(one.name).localeCompare(String(other.name)));
  }

  redraw() {
    this.#drawShelf();
  }

  #showShelf() {
    const wanted = this.#wanted();
    const rows = wanted.map((one) => this.#product(one));
    // In place, so that what has the focus or a mark keeps it.
    rows.forEach((row, index) => {
      if ($("shelf").children[index] !== row) $("shelf").insertBefore(row, $("shelf").children[index] ?? null);
    });
    while ($("shelf").childElementCount > rows.length) $("shelf").lastElementChild.remove();
    const ids = new Set(this.products?.documents.keys());
    for (const id of this.#shelf.keys()) if (!ids.has(id)) this.#shelf.delete(id);
    const all = this.products?.documents.size ?? 0;
    const sold = [...(this.stock?.documents.values() ?? [])].filter((one) => one.left === 0).length;
    $("summary").textContent = all ? `${all} products${sold ? `, ${sold} sold out` : ""}` : "";
    this.#empty(rows.length === 0 && this.products?.ready === true, all > 0);
  }

  /** @param {boolean} empty @param {boolean} filtered */
  #empty(empty, filtered) {
    $("no-products").hidden = !empty;
    if (!empty) return;
    const command = element("code", "", ".venv/bin/python run.py seed --simulate");
    $("no-products").replaceChildren(
      ...(filtered ? ["Nothing on the shelf is like that."] : ["The shop is empty. ", command, " fills it and sells."]),
    );
  }

  /** @param {any} error */
  #lacking(error) {
    $("no-products").hidden = false;
    $("no-products").textContent = `There is no shop here: ${error.reason}.`;
  }

  /** @param {Document} product */
  #product({ _id, name, category, price }) {
    let row = this.#shelf.get(_id);
    if (!row) {
      const bar = element("span", "bar-of");
      bar.append(element("i"));
      row = element(
        "li",
        "card product",
        element("h3"),
        element("p", "category"),
        element("b", "cost"),
        bar,
        element("p", "left"),
        this.#orderButton(_id),
      );
      this.#shelf.set(_id, row);
    }
    const left = this.stock?.documents.get(_id)?.left;
    const [heading, kind, cost, bar, words, order] = /** @type {any} */ (row.children);
    heading.textContent = String(name ?? _id);
    kind.textContent = String(category ?? "");
    cost.textContent = Number.isFinite(price) ? money.format(price) : "";
    bar.firstElementChild.style.width = `${Math.min(100, (100 * (left ?? 0)) / FULL)}%`;
    words.textContent = left === undefined ? "" : left === 0 ? "Sold out" : `${left} left`;
    order.hidden = !this.#open || left === undefined;
    order.disabled = left === 0 || this.#ordering.has(_id);
    order.ariaLabel = `Order one: ${heading.textContent}`;
    row.dataset.left = left === undefined ? "" : left === 0 ? "none" : left < LOW ? "low" : "fine";
    return row;
  }

  /** @param {string} id */
  #orderButton(id) {
    const button = element("button", "quiet-button", "Order one");
    button.type = "button";
    button.addEventListener("click", () => void this.#place(id));
    return button;
  }

  /** With a key: however often the call has to be made, it is one order. @param {string} id */
  async #place(id) {
    const name = this.products?.documents.get(id)?.name ?? id;
    this.#ordering.add(id);
    this.#drawShelf();
    try {
      const lines = [{ product: id, quantity: 1 }];
      const order = await this.client.call("shop.place", { lines }, { key: randomKey(), timeout: 20 });
      this.log(`You have ordered 1 × ${name}`, money.format(order.total));
    } catch (/** @type {any} */ error) {
      this.#open = error.code !== "not_found";
      this.log(
        this.#open ? `Not ordered: ${name}` : "Nobody takes orders here",
        this.#open ? error.reason : "the shop of examples/shop does",
      );
    } finally {
      this.#ordering.delete(id);
      this.#drawShelf();
    }
  }

  // --- orders -------------------------------------------------------------------------------------------------------

  async #watchOrders() {
    await this.orders?.close();
    const copy = (this.orders = this.client.watch("orders", this.status ? { status: this.status } : undefined));
    copy.on("reset", () => {
      $("enter").hidden = true;
      $("orders").hidden = false;
      $("leave").hidden = !this.signedIn || account.on;
      this.#list.clear();
      this.#drawOrders();
    });
    copy.on("change", ({ id, document, before }) => {
      if (document && !before && !this.status) this.log(`${document.customer} ordered`, money.format(document.total));
      this.#drawOrders();
      requestAnimationFrame(() => this.#list.get(id) && mark(/** @type {HTMLElement} */ (this.#list.get(id))));
    });
    copy.on("ended", (error) => this.#askForToken(error));
  }

  #showOrders() {
    const orders = [...(this.orders?.documents.values() ?? [])].sort(
      (one, other) => (other.created ?? 0) - (one.created ?? 0),
    );
    const rows = orders.slice(0, SHOWN).map((one) => this.#order(one));
    rows.forEach((row, index) => {
      if ($("order-list").children[index] !== row)
        $("order-list").insertBefore(row, $("order-list").children[index] ?? null);
    });
    while ($("order-list").childElementCount > rows.length) $("order-list").lastElementChild.remove();
    for (const id of this.#list.keys()) if (!this.orders?.documents.has(id)) this.#list.delete(id);
    $("no-orders").hidden = orders.length > 0;
    $("orders-title").textContent = orders.length ? `Orders (${orders.length})` : "Orders";
  }

  /** @param {Document} order */
  #order({ _id, customer, status, lines, total, created }) {
    let row = this.#list.get(_id);
    if (!row) {
      const time = element("time", "", Number.isFinite(created) ? clock.format(created) : "");
      const goods = Array.isArray(lines)
        ? lines.map(({ quantity, product }) => `${quantity} × ${product}`).join(", ")
        : "";
      const head = element(
        "p",
        "",
        element("b", "", String(customer ?? _id)),
        time,
        element("span", "total", money.format(total)),
      );
      row = element("li", "order", head, element("small", "", goods), element("ol", "way"));
      this.#list.set(_id, row);
    }
    const reached = STEPS.indexOf(status);
    const way = STEPS.map((step, index) =>
      element("li", index < reached ? "done" : index === reached ? "here" : "", step),
    );
    way[reached]?.setAttribute("aria-current", "step");
    if (row.dataset.status !== status) row.lastElementChild?.replaceChildren(...way);
    row.dataset.status = status;
    return row;
  }

  /** @param {string} status */
  choose(status) {
    this.status = status;
    void this.#watchOrders();
  }

  // --- who may see them ---------------------------------------------------------------------------------------------

  /** @param {any} error */
  #askForToken(error) {
    if (account.on) return this.#askForAccount(error);
    $("enter").hidden = false;
    $("orders").hidden = true;
    $("why").textContent =
      error.code === "permission_denied" && !this.signedIn
        ? "Guests see the shelf; orders are for users. Start the server with an auth.secret (--set auth.secret=…, 32 characters or more); run.py token --user ann with the same then prints a token."
        : `They cannot be shown: ${error.reason}.`;
  }

  /** @param {any} error */
  #askForAccount(error) {
    const words = this.signedIn ? `They cannot be shown: ${error.reason}.` : "Guests see the shelf; orders are for users.";
    const button = element("button", "primary", "Sign in");
    button.type = "button";
    button.addEventListener("click", () => void account.signIn());
    $("enter").replaceChildren(element("p", "hint", words), ...(this.signedIn ? [] : [button]));
    $("enter").hidden = false;
    $("orders").hidden = true;
  }

  /** Not by us. A guest may still have a token. @param {string} reason */
  #turnedAway(reason) {
    if (!this.signedIn || account.on) return this.#askForToken({ reason });
    begin(null);
    $("refused").textContent = `This token is not taken: ${reason}.`;
    $("refused").hidden = false;
    $("enter").hidden = false;
  }
}

/** @type {Shop | null} */
let shop = null;

/** @param {string | null} token */
function begin(token) {
  const old = shop;
  shop = null;
  old?.close();
  remember("sessionStorage", "feed.token", token);
  $("refused").hidden = true;
  $("orders").hidden = true;
  shop = new Shop(token);
  chips($("steps"), STEPS, "", (status) => shop?.choose(status));
}

for (const id of ["filters", "status", "enter"])
  $(id).addEventListener("submit", (/** @type {Event} */ event) => event.preventDefault());
$("name").addEventListener("input", () => shop?.redraw());
$("low").addEventListener("change", () => shop?.redraw());
$("enter").addEventListener("submit", () => {
  const token = $("token").value.trim();
  $("token").value = "";
  if (token) begin(token);
});
$("leave").addEventListener("click", () => begin(null));

begin(account.on ? null : recall("sessionStorage", "feed.token"));
