/** The shop's keyboard, and the menu of all that can be done. @module */

import { $ } from "../page.js";
import { toast } from "../toasts.js";
import { ring } from "./cells.js";
import { parse } from "./views.js";

/** @typedef {import("./feed.js").Shop} Shop */
/** @typedef {import("./commands.js").Command} Command */

const apple = /Mac|iP(hone|ad)/.test(navigator.platform);
export const MENU = apple ? "⌘K" : "Ctrl K";

/** @type {Promise<import("./commands.js").CommandMenu> | null} */
let menu = null;

/** @param {() => Shop | null} present  the shop at the moment */
export function listen(present) {
  const open = () => void openCommands(present());
  for (const place of document.querySelectorAll(".menu-key")) place.textContent = MENU;
  $("commands").addEventListener("click", open);
  document.addEventListener("keydown", (event) => {
    const shop = present();
    if (!shop || document.querySelector("dialog[open]")) return;
    const mod = apple ? event.metaKey : event.ctrlKey;
    const key = event.key.toLowerCase();
    if (mod && key === "k") {
      event.preventDefault();
      return open();
    }
    const typing = event.target instanceof HTMLInputElement && event.target.type !== "checkbox";
    if (typing) {
      if (key === "escape") event.target.blur();
      else if (key === "arrowdown" && event.target.id === "name") shop.present.list.move(0);
      return;
    }
    if (document.querySelector(":popover-open") || event.altKey) return;
    if (mod ? controlled(shop, key) : plain(shop, event, key)) event.preventDefault();
  });
}

/** @param {Shop} shop @param {string} key */
function controlled(shop, key) {
  if (key === "z" && shop.edits.undoable) void shop.edits.undo();
  else if (key === "a") shop.present.list.all();
  else return false;
  return true;
}

/** @param {Shop} shop @param {KeyboardEvent} event @param {string} key */
function plain(shop, event, key) {
  if (event.ctrlKey || event.metaKey) return false;
  const { list } = shop.present;
  const step = { j: 1, arrowdown: 1, k: -1, arrowup: -1, home: -1e6, end: 1e6 }[key];
  if (step !== undefined) list.move(step, event.shiftKey);
  else if (key === "x" && list.active !== null) list.select(list.active);
  else if (key === "escape" && list.selected.size) list.none();
  else if (key === "/") $("name").focus();
  else if (key === "?") $("keys").showModal();
  else if (key === "1") shop.views.go({ view: "shelf", q: "" });
  else if (key === "2") shop.views.go({ view: "orders", q: "" });
  else if (key === "z" && shop.edits.undoable) void shop.edits.undo();
  else if (shop.views.state.view === "orders") {
    if (key !== "s") return false;
    shop.ordersPage.menu();
  } else if (key === "e") shop.shelf.edit("left");
  else if (key === "p") shop.shelf.edit("cost");
  else if (key === "o" && list.active !== null) void shop.place(list.active);
  else return false;
  return true;
}

/** It is there when it is asked for, or what is typed into it would go to the page. Null: the server is away. */
async function loadMenu() {
  try {
    return await (menu ??= import("./commands.js").then(({ CommandMenu }) => new CommandMenu()));
  } catch {
    return (menu = null); // the next time, perhaps
  }
}
setTimeout(() => void loadMenu(), 1500);

/** @param {Shop | null} shop */
async function openCommands(shop) {
  if (!shop) return;
  const loaded = await loadMenu();
  if (loaded) loaded.open(commands(shop));
  else toast("The menu could not be loaded. Try again in a moment.", { bad: true });
}

/** What can be done here and now. @param {Shop} shop @returns {Command[]} */
function commands(shop) {
  const { views, present, edits } = shop;
  const meant = present.list.selected.size ? "With what is selected" : "With this one";
  /** @type {Command[]} */
  const all = present.deeds.map((deed) => ({ ...deed, icon: "icon" in deed ? ring(String(deed.icon)) : undefined, group: meant }));
  if (views.state.view === "shelf") {
    const id = present.list.active;
    const name = id === null ? "" : String(shop.shown("products", id)?.name ?? id);
    if (id !== null && shop.open) all.push({ words: "Order one", of: name, keys: "O", group: meant, does: () => shop.place(id) });
    if (id !== null && shop.may.stock) all.push({ words: "Edit how many are left", of: name, keys: "E", group: meant, does: () => shop.shelf.edit("left") });
    if (id !== null && shop.may.products) all.push({ words: "Edit the price", of: name, keys: "P", group: meant, does: () => shop.shelf.edit("cost") });
  }
  const undo = edits.undoable;
  if (undo) all.push({ words: "Undo", of: undo, keys: "Z", group: "Edits", does: () => edits.undo() });
  all.push({ words: "Select all", keys: apple ? "⌘A" : "Ctrl A", group: "Edits", does: () => present.list.all() });
  for (const [name, query] of views.all) all.push({ words: name, group: "Views", does: () => views.go(parse(query)) });
  for (const category of shop.categories) {
    all.push({ words: `Category: ${category}`, group: "Filters", does: () => views.go({ view: "shelf", category }) });
  }
  all.push({ words: "Find by name", keys: "/", group: "Filters", does: () => $("name").focus() });
  if (!$("save-view").hidden) all.push({ words: "Keep this view", group: "Filters", does: () => $("save-view").click() });
  if (!$("leave").hidden) all.push({ words: "Sign out", group: "You", does: () => $("leave").click() });
  all.push({ words: "Keyboard", keys: "?", group: "Help", does: () => $("keys").showModal() });
  for (const [words, path] of [["Chat", "/chat/"], ["Market", "/dashboard/"], ["Console", "/console/"], ["Documentation", "/docs/quick-start.md"]]) {
    all.push({ words, group: "Go to", does: () => location.assign(path) });
  }
  return all;
}
