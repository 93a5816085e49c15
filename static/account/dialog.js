/** The dialog in which one signs in, or makes an account. @module */

import { element } from "../page.js";

/** @typedef {import("./session.js").Session} Session */
/** @typedef {import("./session.js").Ways} Ways */

const WORDS = {
  "/login": { title: "Sign in", button: "Sign in", other: "Make an account", complete: "current-password" },
  "/register": { title: "Make an account", button: "Make it", other: "I have an account", complete: "new-password" },
};
let numbered = 0;

/** A field with its label. @param {string} words @param {Record<string, string | boolean>} attributes */
export function field(words, attributes) {
  const input = element("input");
  Object.assign(input, { id: `account-${numbered++}`, spellcheck: false, required: true, ...attributes });
  input.setAttribute("autocapitalize", "none");
  const label = element("label", "", words);
  label.htmlFor = input.id;
  return { input, row: element("p", "account-field", label, input) };
}

/** What an error is to a person. @param {any} error */
export function said(error) {
  if (error.code === "rate_limited") return `Too many attempts. Try again in ${Math.ceil(error.retryAfter ?? 1)} s.`;
  if (error.code === undefined) return "The server does not answer. Try again.";
  const reason = error.message.replace(/^user, password: they/, "Name and password");
  return `${reason[0].toUpperCase()}${reason.slice(1)}.`;
}

export class SignInDialog {
  #session;
  #ways;
  /** @type {"/login" | "/register"} */
  #mode = "/login";
  #dialog = element("dialog", "account-dialog card");
  #title = element("h2");
  #why = element("p", "hint");
  #problem = element("p", "problem");
  #name = field("Name", { name: "username", autocomplete: "username", maxLength: 64 });
  #password = field("Password", { name: "password", type: "password" });
  #hint = element("p", "hint", "A name of letters (a–z), digits and . _ @ + -, a password of at least 8 characters.");
  #button = element("button", "primary");
  #other = element("button", "quiet-button");
  /** @type {((signedIn: boolean) => void)[]} */
  #waiting = [];

  /** @param {Session} session @param {Ways} ways */
  constructor(session, ways) {
    this.#session = session;
    this.#ways = ways;
    this.#title.id = "account-title";
    this.#dialog.setAttribute("aria-labelledby", this.#title.id);
    this.#problem.setAttribute("role", "alert");
    this.#hint.id = "account-hint";
    this.#password.input.setAttribute("aria-describedby", this.#hint.id);
    this.#other.type = "button";
    this.#other.addEventListener("click", () => this.#show(this.#mode === "/login" ? "/register" : "/login"));
    const close = element("button", "icon account-close", "×");
    close.type = "button";
    close.ariaLabel = "Close";
    close.addEventListener("click", () => this.#dialog.close());
    const form = element("form", "account-form", this.#name.row, this.#password.row, this.#hint, this.#problem, this.#button);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const body = { user: this.#name.input.value.trim(), password: this.#password.input.value };
      void this.#attempt(this.#mode, body);
    });
    this.#dialog.append(close, this.#title, this.#why, form, element("p", "account-more", this.#other), ...this.#examples());
    this.#dialog.addEventListener("close", () => {
      this.#password.input.value = "";
      for (const done of this.#waiting.splice(0)) done(this.#session.user !== null);
    });
    document.body.append(this.#dialog);
  }

  /** Whether somebody has signed in when it closes. @param {string} [why] @returns {Promise<boolean>} */
  ask(why = "") {
    this.#why.textContent = why;
    this.#why.hidden = !why;
    if (!this.#dialog.open) {
      this.#show("/login");
      this.#dialog.showModal();
      this.#name.input.focus();
    }
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  /** In development: one click, no password. */
  #examples() {
    if (!this.#ways.examples.length) return [];
    const buttons = this.#ways.examples.map((user) => {
      const button = element("button", "quiet-button", user);
      button.type = "button";
      button.addEventListener("click", () => void this.#attempt("/example", { user }));
      return button;
    });
    const row = element("p", "account-examples", ...buttons);
    row.setAttribute("role", "group");
    row.ariaLabel = "Example users";
    return [element("p", "hint", "In development, as an example user:"), row];
  }

  /** @param {"/login" | "/register"} mode */
  #show(mode) {
    const words = WORDS[(this.#mode = mode)];
    this.#title.textContent = words.title;
    this.#button.textContent = words.button;
    this.#other.textContent = words.other;
    this.#password.input.autocomplete = /** @type {AutoFill} */ (words.complete);
    this.#password.input.minLength = mode === "/register" ? 8 : 0;
    this.#hint.hidden = mode !== "/register";
    this.#problem.textContent = "";
  }

  /** @param {string} path @param {object} body */
  async #attempt(path, body) {
    this.#problem.textContent = "";
    this.#button.disabled = true;
    try {
      await this.#session.signIn(path, body);
      this.#dialog.close();
    } catch (/** @type {any} */ error) {
      this.#problem.textContent = said(error);
      if (error.code === "unauthenticated") this.#password.input.select();
    } finally {
      this.#button.disabled = false;
    }
  }
}
