/**
 * The shop: its products, stock and orders as live documents. The server selects (`where`), the page keeps the copies.
 * `run.py seed --simulate` is the back end that sells; where there is the one of `examples/shop`, one may order oneself, by
 * a call. Orders are not for everybody: guests are asked for a token, which stays in this tab. Who may write (the rules
 * of config.yaml: API keys, and users with the role `agent`) edits in place.
 *
 * @module
 */

import { enter } from "../account/account.js";
import { request } from "../account/session.js";
import { $, button, element, followConnection, recall, remember } from "../page.js";
import { toast } from "../toasts.js";
import { randomKey, Waterspout } from "../waterspout.js";
import { Edits } from "./edits.js";
import { listen } from "./keys.js";
import { Orders } from "./orders.js";
import { clock, mark, money, Shelf } from "./shelf.js";
import { STEPS, Views } from "./views.js";

/** @typedef {import("../waterspout.js").Document} Document */
/** @typedef {import("../waterspout.js").LiveCopy} LiveCopy */
/** @typedef {import("./views.js").State} State */
/** @typedef {"products" | "stock" | "orders"} Collection */

const account = await enter();

const LOGGED = 40;
const COLLECTIONS = /** @type {const} */ (["products", "stock", "orders"]);

/** Buttons of which one is pressed. @param {HTMLElement} place @param {[string, string][]} values  what it is, and what is said @param {string} chosen @param {(value: string) => void} choose */
function chips(place, values, chosen, choose) {
  const known = [...place.children].map((one) => one.dataset.value).join();
  if (known === values.map(([value]) => value).join()) {
    for (const one of place.children) one.ariaPressed = String(one.dataset.value === chosen);
    return;
  }
  const buttons = values.map(([value, words]) => {
    const made = button("chip", words);
    made.dataset.value = value;
    made.ariaPressed = String(value === chosen);
    made.addEventListener("click", () => choose(value));
    return made;
  });
  place.replaceChildren(...buttons);
}

export class Shop {
  client;
  views;
  edits;
  /** @type {LiveCopy | null} */
  products = null;
  /** @type {LiveCopy | null} */
  stock = null;
  /** @type {LiveCopy | null} */
  orders = null;
  /** Which of them may be written. */
  may = { products: false, stock: false, orders: false };
  /** All that were ever seen: a filter must not take away its own alternatives. @type {Set<string>} */
  #categories = new Set();
  /** Ids of what is being ordered here. @type {Set<string>} */
  ordering = new Set();
  /** Whether anybody takes orders here, as far as is known. */
  open = true;
  /** What is watched now. */
  #category = "";
  #status = "";
  #token;

  /** @param {string | null} token @param {Views} views */
  constructor(token, views) {
    this.#token = token;
    this.views = views;
    this.client = token ? new Waterspout(undefined, { token }) : account.client();
    this.signedIn = token !== null || account.user !== null;
    this.edits = new Edits(this.client, () => this.redraw());
    this.shelf = new Shelf(this);
    this.ordersPage = new Orders(this);
    followConnection(this.client);
    this.client.on("closed", ({ reason }) => shop === this && this.#turnedAway(reason));
    this.#category = views.state.category;
    this.#status = views.state.status;
    this.#watchProducts();
    this.#watchStock();
    void this.#watchOrders();
    if (this.signedIn) this.client.on("open", () => void this.#askRights()); // whose token is not taken has none
    this.show(views.state);
  }

  close() {
    this.client.close();
  }

  get categories() {
    return [...this.#categories].sort();
  }

  /** The list that is looked at. */
  get present() {
    return this.views.state.view === "orders" ? this.ordersPage : this.shelf;
  }

  /** A document as it will be, if it is here. @param {Collection} name @param {string} id */
  shown(name, id) {
    const one = this[name]?.documents.get(id);
    return one ? this.edits.shown(name, one) : null;
  }

  /** What changes those of them that are here. @param {Collection} name @param {string[]} ids
   * @param {(document: Document) => Record<string, any>} change @param {boolean} [guarded]  as they are shown, or not at all */
  changing(name, ids, change, guarded) {
    const documents = ids.flatMap((id) => this[name]?.documents.get(id) ?? []);
    return documents.map((document) => ({ document, changes: change(document), guarded }));
  }

  /** What may be edited, so that nothing is offered that would be refused. */
  async #askRights() {
    const token = this.#token ?? (await account.token());
    for (const name of COLLECTIONS) {
      try {
        const { may } = await request(`/v1/channels/docs:${name}`, undefined, { token });
        this.may[name] = may.includes("write");
      } catch {
        // then nothing is
      }
    }
    $("may").textContent = Object.values(this.may).some(Boolean) ? "" : "You may look, and not edit: that is for users with the role agent.";
    this.redraw();
  }

  // --- what is shown ------------------------------------------------------------------------------------------------

  /** @param {State} state */
  show(state) {
    const orders = state.view === "orders";
    $("shelf-page").hidden = orders;
    $("orders-page").hidden = !orders;
    for (const tab of document.querySelectorAll(".tabs a")) {
      if (tab.getAttribute("data-view") === state.view) tab.setAttribute("aria-current", "page");
      else tab.removeAttribute("aria-current");
    }
    if (document.activeElement !== $("name")) $("name").value = state.q;
    $("name").placeholder = orders ? "Customer or goods" : "Name";
    $("low").checked = state.low;
    $("low-box").hidden = $("categories-box").hidden = orders;
    $("steps-box").hidden = !orders || $("orders").hidden;
    if (this.#category !== state.category) {
      this.#category = state.category;
      this.#watchProducts();
    }
    if (this.#status !== state.status) {
      this.#status = state.status;
      void this.#watchOrders();
    }
    this.#showChips();
    this.chosen();
    this.redraw();
  }

  #showChips() {
    const { category, status } = this.views.state;
    const all = /** @type {[string, string][]} */ ([["", "All"], ...this.categories.map((one) => [one, one])]);
    chips($("categories"), all, category, (value) => this.views.go({ category: value }));
    const steps = /** @type {[string, string][]} */ ([["", "All"], ["open", "Open"], ...STEPS.map((one) => [one, one])]);
    chips($("steps"), steps, status, (value) => this.views.go({ status: value }));
  }

  redraw() {
    this.shelf.draw();
    this.ordersPage.draw();
  }

  /** Something else is selected: what can be done with it. */
  chosen() {
    const { list, deeds } = this.present;
    const some = list.selected.size;
    $("bulk").hidden = !some;
    if (!some) return;
    const buttons = deeds.map(({ words, does }) => {
      const made = button("quiet-button", words);
      made.addEventListener("click", () => {
        void does();
        list.none();
      });
      return made;
    });
    const clear = button("icon", "×");
    clear.ariaLabel = "Select none";
    clear.addEventListener("click", () => list.none());
    const none = deeds.length ? [] : [element("span", "hint", "You may not edit them.")];
    $("bulk").replaceChildren(element("b", "", `${some} selected`), ...buttons, ...none, clear);
  }

  // --- the shelf ----------------------------------------------------------------------------------------------------

  async #watchProducts() {
    const category = this.#category;
    await this.products?.close();
    if (category !== this.#category) return; // somebody was faster
    this.products = this.client.watch("products", this.#category ? { category: this.#category } : undefined);
    this.products.on("reset", () => this.#productsCame());
    this.products.on("change", ({ id }) => {
      this.edits.heard("products", id);
      this.#productsCame();
    });
    this.products.on("ended", (error) => this.#lacking(error));
  }

  #productsCame() {
    const known = this.#categories.size;
    for (const { category } of this.products?.documents.values() ?? []) {
      if (typeof category === "string") this.#categories.add(category);
    }
    if (this.#categories.size !== known) this.#showChips();
    this.shelf.draw();
  }

  #watchStock() {
    this.stock = this.client.watch("stock");
    this.stock.on("reset", () => this.shelf.draw());
    this.stock.on("ended", ({ code, reason }) => {
      if (code !== "closed") toast(`What is left is not followed any more: ${reason}.`, { bad: true });
    });
    this.stock.on("change", ({ id, document, before }) => {
      this.edits.heard("stock", id);
      this.shelf.draw();
      if (document && before && document.left !== before.left)
        this.#moved(id, document.left - before.left, document.left);
    });
  }

  /** @param {string} id @param {number} by @param {number} left */
  #moved(id, by, left) {
    mark(this.shelf.row(id), by < 0 ? "less" : "more");
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

  /** @param {any} error */
  #lacking(error) {
    $("no-products").hidden = false;
    $("no-products").textContent = `There is no shop here: ${error.reason}.`;
  }

  /** With a key: however often the call has to be made, it is one order. @param {string} id */
  async place(id) {
    const name = this.products?.documents.get(id)?.name ?? id;
    if (this.ordering.has(id) || this.stock?.documents.get(id)?.left === 0) return;
    this.ordering.add(id);
    this.shelf.draw();
    try {
      const lines = [{ product: id, quantity: 1 }];
      const order = await this.client.call("shop.place", { lines }, { key: randomKey(), timeout: 20 });
      this.log(`You have ordered 1 × ${name}`, money.format(order.total));
    } catch (/** @type {any} */ error) {
      this.open = error.code !== "not_found";
      if (this.open) this.log(`Not ordered: ${name}`, error.reason);
      else toast("Nobody takes orders here: the shop of examples/shop does.");
    } finally {
      this.ordering.delete(id);
      this.shelf.draw();
    }
  }

  // --- orders -------------------------------------------------------------------------------------------------------

  async #watchOrders() {
    const wanted = this.#status;
    await this.orders?.close();
    if (wanted !== this.#status) return;
    const status = this.#status === "open" ? { $in: STEPS.slice(0, -1) } : this.#status;
    const copy = (this.orders = this.client.watch("orders", status ? { status } : undefined));
    copy.on("reset", () => {
      $("enter").hidden = true;
      $("orders").hidden = false;
      $("steps-box").hidden = this.views.state.view !== "orders";
      $("leave").hidden = !this.signedIn || account.on;
      this.ordersPage.clear();
    });
    copy.on("change", ({ id, document, before }) => {
      this.edits.heard("orders", id);
      if (document && !before && !this.#status) this.log(`${document.customer} ordered`, money.format(document.total));
      this.ordersPage.draw();
      this.ordersPage.mark(id);
    });
    copy.on("ended", (error) => this.#askForToken(error));
  }

  // --- who may see them ---------------------------------------------------------------------------------------------

  /** @param {any} error */
  #askForToken(error) {
    if (account.on) return this.#askForAccount(error);
    $("enter").hidden = false;
    $("orders").hidden = $("steps-box").hidden = true;
    $("why").textContent =
      error.code === "permission_denied" && !this.signedIn
        ? "Guests see the shelf; orders are for users. Start the server with an auth.secret (--set auth.secret=…, 32 characters or more); run.py token --user ann with the same then prints a token."
        : `They cannot be shown: ${error.reason}.`;
  }

  /** @param {any} error */
  #askForAccount(error) {
    const words = this.signedIn ? `They cannot be shown: ${error.reason}.` : "Guests see the shelf; orders are for users.";
    const made = button("primary", "Sign in");
    made.addEventListener("click", () => void account.signIn());
    $("enter").replaceChildren(element("p", "hint", words), ...(this.signedIn ? [] : [made]));
    $("enter").hidden = false;
    $("orders").hidden = $("steps-box").hidden = true;
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
const views = new Views((state) => shop?.show(state));

/** @param {string | null} token */
function begin(token) {
  const old = shop;
  shop = null;
  old?.close();
  remember("sessionStorage", "feed.token", token);
  $("refused").hidden = true;
  $("orders").hidden = $("steps-box").hidden = true;
  $("may").textContent = "";
  shop = new Shop(token, views);
}

for (const id of ["filters", "enter"]) $(id).addEventListener("submit", (/** @type {Event} */ event) => event.preventDefault());
for (const tab of document.querySelectorAll(".tabs a")) {
  tab.addEventListener("click", (/** @type {any} */ event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    views.go({ view: tab.getAttribute("data-view") === "orders" ? "orders" : "shelf", q: "" });
  });
}
$("name").addEventListener("input", () => views.go({ q: $("name").value }, false));
$("low").addEventListener("change", () => views.go({ low: $("low").checked }));
$("help").addEventListener("click", () => $("keys").showModal());
$("enter").addEventListener("submit", () => {
  const token = $("token").value.trim();
  $("token").value = "";
  if (token) begin(token);
});
$("leave").addEventListener("click", () => begin(null));
$("welcome").hidden = recall("localStorage", "feed.welcomed") === true;
$("welcomed").addEventListener("click", () => {
  remember("localStorage", "feed.welcomed", true);
  $("welcome").hidden = true;
  $("main").focus();
});
listen(() => shop);

begin(account.on ? null : recall("sessionStorage", "feed.token"));
