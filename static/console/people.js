/** Any user by name, with an account or not: what an operator takes from one, and who is banned. @module */

import { field } from "../account/dialog.js";
import { $, element } from "../page.js";
import { button, link } from "./button.js";
import { ago, when } from "./words.js";

/** @typedef {(path: string, body?: object, method?: string) => Promise<any>} Call */
/** @typedef {{ user: string, channel: string | null, reason: string, by: string, since: number, until: number | null }} Ban */

const PAGE = 50;
const LASTS = new Map([
  ["3600", "1 hour"],
  ["86400", "1 day"],
  ["604800", "7 days"],
  ["2592000", "30 days"],
  ["", "until it is lifted"],
]);

export class People {
  #call;
  #shown = PAGE;
  #off = new AbortController();
  /** @type {string | null} */
  #user = null;

  /** @param {Call} call */
  constructor(call) {
    this.#call = call;
    const { signal } = this.#off;
    $("person-search").addEventListener(
      "submit",
      (/** @type {Event} */ event) => {
        event.preventDefault();
        const user = $("person-name").value.trim();
        if (user) void this.open(user);
      },
      { signal },
    );
    $("bans-more").addEventListener("click", () => ((this.#shown += 4 * PAGE), void this.showBans()), { signal });
    void this.showBans();
  }

  close() {
    this.#off.abort();
    this.#user = null;
    for (const id of ["bans", "person"]) $(id).replaceChildren();
    this.#say("");
  }

  /** @param {string} words @param {boolean} [bad] */
  #say(words, bad = false) {
    $("person-outcome").textContent = words;
    $("person-outcome").classList.toggle("problem", bad);
  }

  /** @param {string} words @param {() => Promise<any>} work */
  async #do(words, work) {
    try {
      await work();
      this.#say(words);
      if (this.#user) await this.#show(this.#user, false);
      await this.showBans();
    } catch (/** @type {any} */ error) {
      this.#say(String(error.reason ?? error.message), true);
    }
  }

  async showBans() {
    try {
      const { bans, next } = await this.#call(`/v1/bans?limit=${Math.min(this.#shown, 1000)}`);
      $("bans").replaceChildren(...bans.map((/** @type {Ban} */ ban) => this.#row(ban)));
      $("bans-table").hidden = !bans.length;
      $("bans-note").textContent = bans.length ? "" : "Nobody is banned.";
      $("bans-more").hidden = next === null || this.#shown >= 1000;
    } catch (/** @type {any} */ error) {
      $("bans-note").textContent = String(error.reason ?? error.message);
    }
  }

  /** @param {Ban} ban */
  #row(ban) {
    const name = element("th", "", link(ban.user, () => this.open(ban.user)));
    name.scope = "row";
    const texts = [ban.channel ?? "everything", ban.until ? when(ban.until) : "until it is lifted", ban.reason, ban.by, ago(ban.since)];
    const lift = button("Lift", () => this.#lift(ban), false, `${ban.user}'s ban`);
    return element("tr", "", name, ...texts.map((text) => element("td", "", text)), element("td", "", lift));
  }

  /** @param {Ban} ban */
  #lift({ user, channel }) {
    const body = channel === null ? {} : { channels: [channel] };
    return this.#do(`${user}'s ban is lifted.`, () => this.#call(`/v1/users/${encodeURIComponent(user)}/unban`, body));
  }

  /** @param {string} user */
  async open(user) {
    this.#user = user;
    $("person-name").value = user;
    this.#say("");
    try {
      await this.#show(user, true);
    } catch (/** @type {any} */ error) {
      this.#say(String(error.reason ?? error.message), true);
    }
  }

  /** @param {string} user @param {boolean} focus */
  async #show(user, focus) {
    const path = `/v1/users/${encodeURIComponent(user)}`;
    const { bans, log } = await this.#call(`${path}/bans`);
    if (this.#user !== user) return;
    const title = element("h3", "", user);
    title.tabIndex = -1;
    if (bans.length) title.append(element("small", "badge", bans.some((/** @type {Ban} */ one) => !one.channel) ? "banned" : "banned in channels"));
    const actions = element(
      "p", "actions",
      button("Disconnect", () => this.#do(`${user} was disconnected.`, () => this.#call(`${path}/disconnect`, { reconnect: true })), true),
      button("Revoke all tokens", () => this.#do(`All tokens of ${user} until now are revoked.`, () => this.#call(`${path}/revoke`, {})), true),
    ); // prettier-ignore
    const said = log.map((/** @type {any} */ one) => {
      const what = one.what === "ban" ? "Banned" : "Lifted";
      const where = one.channel ? ` in ${one.channel}` : "";
      const until = one.until ? ` until ${when(one.until)}` : "";
      return element("li", "", element("b", "", what), `${where}${until}${one.reason ? `: ${one.reason}` : ""}`, element("small", "", `by ${one.by}, ${ago(one.time)}`));
    });
    const past = said.length ? [element("h4", "", "What was said"), element("ol", "said", ...said)] : [];
    $("person").replaceChildren(title, actions, this.#form(user), ...past);
    if (focus) title.focus();
  }

  /** @param {string} user */
  #form(user) {
    const lasts = element("select");
    lasts.append(...[...LASTS].map(([value, words]) => new Option(words, value)));
    lasts.id = "ban-lasts";
    const label = element("label", "", "For how long");
    label.htmlFor = lasts.id;
    const where = field("Channels; none: everything", { required: false, autocomplete: "off", placeholder: "chat:*" });
    const reason = field("Reason, which the user is told", { required: false, maxLength: 100, autocomplete: "off" });
    const submit = element("button", "quiet-button danger", "Ban");
    const form = element("form", "ban", element("p", "account-field", label, lasts), where.row, reason.row, submit);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const channels = where.input.value.split(/[\s,]+/).filter(Boolean);
      const body = { channels, reason: reason.input.value.trim(), ...(lasts.value ? { seconds: Number(lasts.value) } : {}) };
      void this.#do(`${user} is banned.`, () => this.#call(`/v1/users/${encodeURIComponent(user)}/ban`, body));
    });
    return form;
  }
}
