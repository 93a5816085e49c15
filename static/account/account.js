/**
 * How a page knows its visitor. `await enter()` first: it knows whether somebody is signed in, asks for it where guests
 * are not let in, and puts a button or the user's menu into the page's bar. Where `auth.accounts` is off, everybody is
 * a guest, and nothing is shown.
 *
 *     const account = await enter();
 *     const client = account.client();      // a Waterspout with the user's token, whenever one is needed
 *
 * Who signs in or out later gets the page anew.
 *
 * @module
 */

import { $, button, element } from "../page.js";
import { Waterspout } from "../waterspout.js";
import { call, Session } from "./session.js";

/** @typedef {import("./session.js").Ways} Ways */

/** Codes with which a connection ends for good whose token was revoked: with the next token it may be taken again. */
const REVOKED = 4501;
const REFUSED = 4500;

export class Account {
  #session = new Session();
  #ways;
  /** @type {import("./dialog.js").SignInDialog | null} */
  #dialog = null;
  /** As of when the page was opened; null: a guest. */
  user = this.#session.user;

  /** @param {Ways} ways */
  constructor(ways) {
    this.#ways = ways;
    if (!this.on) this.user = null;
    this.#session.onchange = () => location.reload();
  }

  /** Whether this server has accounts. */
  get on() {
    return this.#ways.accounts;
  }

  /** What the server says of the user: `roles`, `info`. */
  get claims() {
    return this.user ? this.#session.claims : {};
  }

  /** For requests of one's own: the user's token, or null for a guest. @param {string} [spent] */
  async token(spent) {
    return this.on ? this.#session.token(spent) : null;
  }

  /** @param {object} [options]  of the client */
  client(options = {}) {
    if (!this.user) return new Waterspout(undefined, options);
    /** @type {string | undefined} */
    let given;
    let refused = false;
    const token = async () => {
      const fresh = await this.#session.token(refused ? given : undefined);
      if (fresh === null) throw new Error("signed out");
      refused = false;
      return (given = fresh);
    };
    const client = new Waterspout(undefined, { ...options, token });
    client.on("waiting", ({ code }) => (refused = code === 4002)); // expired, whatever this clock says
    let retried = false;
    client.on("open", () => (retried = false));
    client.on("closed", async ({ code }) => {
      if ((code !== REVOKED && code !== REFUSED) || retried) return; // another token has not helped
      retried = true;
      try {
        refused = true;
        if (await token()) client.connect();
      } catch (/** @type {any} */ error) {
        if (this.#session.user === null) void this.signIn("You have been signed out.");
      }
    });
    return client;
  }

  /** A request to `/v1/auth…` as the user. @param {string} path @param {any} [body] @param {string} [method] @returns {Promise<any>} */
  async call(path, body, method) {
    const token = await this.token();
    try {
      return await call(path, body, { token, method });
    } catch (/** @type {any} */ error) {
      if (error.status !== 401 || token === null) throw error;
    }
    try {
      return await call(path, body, { token: await this.token(token), method });
    } catch (/** @type {any} */ error) {
      if (error.status === 401) void this.signIn("You have been signed out.");
      throw error;
    }
  }

  /** New tokens for the same user. @param {any} tokens  as the server has answered them */
  renew(tokens) {
    this.#session.take(tokens);
  }

  /** Whether mails are sent here. */
  get mail() {
    return this.#ways.mail;
  }

  /** The domain of passkeys here, or null. */
  get passkeys() {
    return this.#ways.passkeys;
  }

  /** Ask for it; then the page begins anew. @param {string} [why] */
  async signIn(why) {
    if (await this.#ask(why)) location.reload();
  }

  async signOut() {
    await this.#session.signOut();
    location.reload();
  }

  /** @param {string} [why] */
  async #ask(why) {
    const { SignInDialog } = await import("./dialog.js"); // most visits need none
    this.#dialog ??= new SignInDialog(this.#session, this.#ways);
    return this.#dialog.ask(why);
  }

  /** From a provider, if this is such a page. */
  async comeBack() {
    if (!this.on) return;
    this.#refused = await this.#session.comeBack();
    this.user = this.#session.user;
  }

  /** Why a provider has not let somebody in. */
  #refused = "";

  /** Resolves when somebody may go on: a user, or a guest where guests may. */
  async admit() {
    if (!this.on) return;
    this.#showMenu();
    if (this.#ways.guests && this.#refused && !this.user) void this.signIn(`${this.#refused}.`);
    while (!this.#ways.guests && !this.user) {
      this.#away();
      // Closed without signing in: the button in the bar asks again.
      if (await this.#ask(this.#refused ? `${this.#refused}.` : "This server lets in users only.")) this.user = this.#session.user;
      else await new Promise((resolve) => (this.#again = resolve));
    }
    this.#showMenu();
  }

  /** The button or the menu, and no question. */
  showOnly() {
    if (this.on) this.#showMenu();
  }

  /** @type {((value?: any) => void) | null} */
  #again = null;

  #away() {
    document.body.dataset.state = "closed";
    const word = $("state")?.querySelector(".word");
    if (word) word.textContent = "Signed out";
  }

  #showMenu() {
    const bar = document.querySelector("header.bar");
    bar?.querySelector(".account-menu")?.remove();
    bar?.append(this.user ? this.#menu(this.user) : this.#button());
  }

  #button() {
    const made = button("quiet-button account-menu", "Sign in");
    made.addEventListener("click", () => {
      if (this.#again) this.#again();
      else void this.signIn();
      this.#again = null;
    });
    return made;
  }

  /** @param {string} user */
  #menu(user) {
    const name = button("quiet-button account-name", user);
    name.setAttribute("popovertarget", "account-popover");
    const out = button("quiet-button", "Sign out");
    out.addEventListener("click", () => void this.signOut());
    const own = element("a", "quiet-button", "Your account");
    own.href = "/account/";
    const popover = element("div", "account-popover card", element("p", "hint", "Signed in as "), own, out);
    popover.firstElementChild?.append(element("b", "", user));
    popover.id = "account-popover";
    popover.popover = "auto";
    return element("div", "account-menu", name, popover);
  }
}

/** @param {{ask?: boolean}} [options]  not `ask`: a page that is of use to anybody @returns {Promise<Account>} */
export async function enter({ ask = true } = {}) {
  /** @type {Ways} */
  let ways = { guests: true, accounts: false, mail: false, providers: [], passkeys: null, examples: [] };
  try {
    ways = await call("");
  } catch {
    // The server is away: the page's connection says so.
  }
  const account = new Account(ways);
  await account.comeBack();
  if (ask || ways.guests) await account.admit();
  else account.showOnly();
  return account;
}
