/** The dialog in which one signs in, or makes an account. @module */

import { button, element } from "../page.js";
import { find, usable } from "./passkeys.js";
import { call } from "./session.js";

/** @typedef {import("./session.js").Session} Session */
/** @typedef {import("./session.js").Ways} Ways */

/** @typedef {"/login" | "/register" | "/forgot"} Mode */

const WORDS = {
  "/login": { title: "Sign in", button: "Sign in", other: "Make an account", complete: "current-password" },
  "/register": { title: "Make an account", button: "Make it", other: "I have an account", complete: "new-password" },
  "/forgot": { title: "A new password", button: "Send me a link", other: "Back to sign in", complete: "off" },
};
const SENT = "If there is such an account, and its e-mail address is verified, a link is on its way.";
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

/** A few words for what a browser says of itself. @param {string} agent */
export function browser(agent) {
  const name = /(Firefox|Edg|OPR|Chrome|Safari|curl|python)/i.exec(agent)?.[1] ?? "Another program";
  const system = /(Windows|Android|iPhone|iPad|Mac OS X|Linux)/.exec(agent)?.[1];
  return (name === "Edg" ? "Edge" : name === "OPR" ? "Opera" : name) + (system ? ` on ${system}` : "");
}

export class SignInDialog {
  #session;
  #ways;
  /** @type {Mode} */
  #mode = "/login";
  #dialog = element("dialog", "account-dialog card");
  #title = element("h2");
  #why = element("p", "hint");
  #problem = element("p", "problem");
  #name = field("Name", { name: "username", autocomplete: "username", maxLength: 64 });
  #password = field("Password", { name: "password", type: "password" });
  #email = field("E-mail, if you like", { name: "email", type: "email", autocomplete: "email", required: false });
  #forgot = button("quiet-button", "Forgot your password?");
  #sent = element("p", "hint");
  #hint = element("p", "hint", "A name of letters (a–z), digits and . _ @ + -, a password of at least 8 characters.");
  #button = element("button", "primary");
  #other = button("quiet-button");
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
    this.#other.addEventListener("click", () => this.#show(this.#mode === "/login" ? "/register" : "/login"));
    this.#forgot.addEventListener("click", () => this.#show("/forgot"));
    this.#sent.setAttribute("role", "status");
    const close = button("icon account-close", "×");
    close.ariaLabel = "Close";
    close.addEventListener("click", () => this.#dialog.close());
    const rows = [this.#name.row, this.#password.row, this.#email.row, this.#hint, this.#problem, this.#sent, this.#button];
    const form = element("form", "account-form", ...rows);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    const more = element("p", "account-more", this.#other, this.#forgot);
    this.#dialog.append(close, this.#title, this.#why, form, more, ...this.#elsewhere(), ...this.#examples());
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

  /** Without a password: with a passkey, or where one may have an account already. */
  #elsewhere() {
    const providers = crypto.subtle ? this.#ways.providers : []; // a page that came over plain HTTP cannot
    const buttons = providers.map(({ name, title }) => this.#way(title, () => this.#session.goElsewhere(name)));
    if (usable(this.#ways.passkeys)) {
      buttons.unshift(
        this.#way("a passkey", async () => {
          await this.#session.signIn("/passkey", await find(await call("/passkey/begin", {})));
          this.#dialog.close();
        }),
      );
    }
    return buttons.length ? [element("p", "account-providers", ...buttons)] : [];
  }

  /** @param {string} words @param {() => Promise<void>} work */
  #way(words, work) {
    const made = button("quiet-button", `Sign in with ${words}`);
    made.addEventListener("click", () => void this.#trying(work));
    return made;
  }

  /** In development: one click, no password. */
  #examples() {
    if (!this.#ways.examples.length) return [];
    const buttons = this.#ways.examples.map((user) => {
      const made = button("quiet-button", user);
      made.addEventListener("click", () => void this.#attempt("/example", { user }));
      return made;
    });
    const row = element("p", "account-examples", ...buttons);
    row.setAttribute("role", "group");
    row.ariaLabel = "Example users";
    return [element("p", "hint", "In development, as an example user:"), row];
  }

  #submit() {
    const user = this.#name.input.value.trim();
    const password = this.#password.input.value;
    const email = this.#email.input.value.trim();
    if (this.#mode === "/forgot") void this.#ask(user.includes("@") ? { email: user } : { user });
    else void this.#attempt(this.#mode, { user, password, ...(this.#mode === "/register" && email ? { email } : {}) });
  }

  /** @param {Mode} mode */
  #show(mode) {
    const words = WORDS[(this.#mode = mode)];
    this.#title.textContent = words.title;
    this.#button.textContent = words.button;
    this.#other.textContent = words.other;
    this.#password.input.autocomplete = /** @type {AutoFill} */ (words.complete);
    this.#password.input.minLength = mode === "/register" ? 8 : 0;
    this.#hint.hidden = mode !== "/register";
    this.#email.row.hidden = mode !== "/register" || !this.#ways.mail;
    this.#forgot.hidden = mode !== "/login" || !this.#ways.mail;
    const forgot = mode === "/forgot";
    this.#password.row.hidden = this.#password.input.disabled = forgot;
    this.#name.row.querySelector("label").textContent = forgot ? "Name or e-mail address" : "Name";
    this.#sent.textContent = "";
    this.#problem.textContent = "";
  }

  /** @param {object} body  whose password is forgotten */
  #ask(body) {
    return this.#trying(async () => {
      await call("/forgot", body);
      this.#sent.textContent = SENT;
    });
  }

  /** @param {string} path @param {object} body */
  #attempt(path, body) {
    return this.#trying(async () => {
      await this.#session.signIn(path, body);
      this.#dialog.close();
    });
  }

  /** @param {() => Promise<void>} work */
  async #trying(work) {
    this.#problem.textContent = this.#sent.textContent = "";
    this.#button.disabled = true;
    try {
      await work();
    } catch (/** @type {any} */ error) {
      this.#problem.textContent = said(error);
      if (error.code === "unauthenticated") this.#password.input.select();
    } finally {
      this.#button.disabled = false;
    }
  }
}
