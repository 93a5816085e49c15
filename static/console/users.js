/** The console's users: accounts to find, and what an operator does with one. @module */

import { browser, field, said } from "../account/dialog.js";
import { $, element } from "../page.js";
import { button, link } from "./button.js";
import { when } from "./words.js";

const PAGE = 50;
/** @param {number | null} time */
const at = (time) => (time ? when(time) : "–");

/** @typedef {(path: string, body?: object, method?: string) => Promise<any>} Call */

export class Users {
  #call;
  #openPerson;
  #shown = PAGE;
  /** @type {string | null} the one that is looked at */
  #user = null;

  /** @param {Call} call @param {(user: string) => void} openPerson */
  constructor(call, openPerson) {
    this.#call = call;
    this.#openPerson = openPerson;
    $("users").hidden = false;
    $("user-search").onsubmit = (/** @type {Event} */ event) => {
      event.preventDefault();
      this.#shown = PAGE;
      void this.show();
    };
    $("users-more").onclick = () => {
      this.#shown += 4 * PAGE;
      void this.show();
    };
    $("user-new").onclick = () => this.#make();
    void this.show();
  }

  close() {
    $("users").hidden = true;
    for (const id of ["user-rows", "user"]) $(id).replaceChildren();
  }

  /** @param {string} words @param {boolean} [bad] */
  #say(words, bad = false) {
    $("user-outcome").textContent = words;
    $("user-outcome").classList.toggle("problem", bad);
  }

  /** @param {() => Promise<void>} work */
  async #try(work) {
    try {
      await work();
    } catch (/** @type {any} */ error) {
      this.#say(said(error), true);
    }
  }

  show() {
    return this.#try(async () => {
      const query = new URLSearchParams({ prefix: $("user-prefix").value.trim(), limit: String(Math.min(this.#shown, 1000)) });
      const { accounts, next } = await this.#call(`/v1/accounts?${query}`);
      $("user-rows").replaceChildren(...accounts.map((/** @type {any} */ account) => this.#row(account)));
      $("users-note").textContent = accounts.length ? "" : "Nobody's name begins like that.";
      $("users-more").hidden = next === null || this.#shown >= 1000;
    });
  }

  /** @param {any} account */
  #row({ user, email, verified, roles, signed_in, disabled }) {
    const name = element("th", "", link(user, () => this.open(user)));
    name.scope = "row";
    const state = disabled ? element("td", "status", "disabled") : element("td");
    state.dataset.status = "silent";
    const texts = [roles.join(", "), email ? `${email}${verified ? "" : " (not verified)"}` : "", at(signed_in)];
    return element("tr", "", name, ...texts.map((text) => element("td", "", text)), state);
  }

  /** @param {string} user @param {boolean} [focus] */
  open(user, focus = true) {
    this.#user = user;
    return this.#try(async () => {
      const path = `/v1/accounts/${encodeURIComponent(user)}`;
      const wanted = [path, `${path}/sessions`, `${path}/passkeys`];
      const [account, { sessions }, { passkeys }] = await Promise.all(wanted.map((one) => this.#call(one)));
      if (this.#user === user) this.#showOne(path, account, sessions, passkeys, focus);
    });
  }

  /** Do it, and show what has become of the user. @param {string} words @param {() => Promise<any>} work @param {boolean} [there] */
  async #do(words, work, there = true) {
    await this.#try(async () => {
      await work();
      this.#say(words);
      if (there && this.#user) await this.open(this.#user);
      else $("user").replaceChildren();
      await this.show();
    });
  }

  /** @param {string} path @param {any} account @param {any[]} sessions @param {any[]} passkeys @param {boolean} focus */
  #showOne(path, account, sessions, passkeys, focus) {
    const { user, disabled, roles } = account;
    const title = element("h3", "", user);
    title.tabIndex = -1;
    const given = field("Roles", { value: roles.join(" "), required: false, autocomplete: "off" });
    const save = element("button", "quiet-button", "Save");
    const form = element("form", "row", given.row, save);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const wanted = given.input.value.split(/[\s,]+/).filter(Boolean);
      void this.#do(`${user} has other roles.`, () => this.#call(path, { roles: wanted }, "PATCH"));
    });
    const users = `/v1/users/${encodeURIComponent(user)}`;
    const actions = element(
      "p",
      "actions",
      disabled
        ? button("Enable", () => this.#do(`${user} may sign in again.`, () => this.#call(path, { disabled: false }, "PATCH")))
        : button("Disable", () => this.#do(`${user} is out.`, () => this.#call(path, { disabled: true }, "PATCH")), true),
      button("Disconnect", () => this.#do(`${user} was disconnected.`, () => this.#call(`${users}/disconnect`, { reconnect: true }))),
      button("Sign out everywhere", () => this.#do(`${user} is signed out.`, () => this.#call(`${path}/sessions`, undefined, "DELETE")), true),
      button("Reset the password", () => this.#try(() => this.#reset(path, user))),
      button("Bans and tokens", () => this.#openPerson(user)),
      button("Delete", () => this.#do(`${user} is deleted.`, () => this.#call(path, undefined, "DELETE"), false), true),
    );
    const list = sessions.map((one) => {
      const words = element("span", "", `${browser(one.agent)} `, element("small", "", `${one.address} · used ${at(one.used)}`));
      const end = button("Sign out", () =>
        this.#do("Signed out there.", () => this.#call(`${path}/sessions/${one.session}`, undefined, "DELETE")),
      );
      return element("li", "row", words, end);
    });
    const keys = passkeys.map(({ passkey, name, used }) => {
      const words = element("span", "", `${name} `, element("small", "", used ? `a passkey · used ${at(used)}` : "a passkey"));
      const remove = button("Remove", () =>
        this.#do(`${user} has that passkey no longer.`, () => this.#call(`${path}/passkeys/${passkey}`, undefined, "DELETE")),
        true,
        name,
      );
      return element("li", "row", words, remove);
    });
    const none = list.length ? [] : [element("p", "hint", "Signed in nowhere.")];
    $("user").replaceChildren(title, actions, form, element("ul", "present", ...list), ...none, ...(keys.length ? [element("ul", "present", ...keys)] : []));
    if (focus) title.focus();
  }

  /** @param {string} path @param {string} user */
  async #reset(path, user) {
    const { link } = await this.#call(`${path}/reset`, {});
    this.#handOver(user, link);
  }

  /** @param {string} user @param {string} link */
  #handOver(user, link) {
    const shown = field(`For ${user} alone, once, within a week`, { value: link, readOnly: true, required: false });
    shown.input.addEventListener("focus", () => shown.input.select());
    $("user").append(shown.row);
    shown.input.focus();
    this.#say(`A link for ${user} to set a password.`);
  }

  #make() {
    const name = field("Name", { maxLength: 64, autocomplete: "off" });
    const roles = field("Roles", { required: false, autocomplete: "off" });
    const make = element("button", "primary", "Make it");
    const form = element("form", "account-form", name.row, roles.row, make);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const body = { user: name.input.value.trim(), roles: roles.input.value.split(/[\s,]+/).filter(Boolean) };
      void this.#try(async () => {
        const { user, invitation } = await this.#call("/v1/accounts", body);
        await this.open(user);
        this.#handOver(user, invitation.link);
        await this.show();
      });
    });
    this.#user = null;
    $("user").replaceChildren(element("h3", "", "A new user"), form);
    name.input.focus();
  }
}
