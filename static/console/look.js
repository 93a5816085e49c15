/** A look into one channel: who is there, its newest messages, a test message. @module */

import { $, element } from "../page.js";
import { button, link } from "./button.js";
import { at, count } from "./words.js";

/** @typedef {import("../waterspout.js").Waterspout} Waterspout */
/** @typedef {(path: string, body?: object) => Promise<any>} Call  a request with the operator's key */

const HISTORY = 20;
/** Messages that are kept while a channel is followed. */
const FOLLOWED = 200;

export class Look {
  #client;
  #call;
  #channel;
  /** What the server has refused is not asked for again: that would only fill the list of refusals. */
  #noHistory = "";
  /** The newest first. @type {any[]} */
  #messages = [];
  #openPerson;
  #following = false;
  #ours = new AbortController();
  /** @type {(() => void)[]} */
  #off = [];

  /** @param {Waterspout} client @param {Call} call @param {string} name @param {(user: string) => void} openPerson */
  constructor(client, call, name, openPerson) {
    this.#openPerson = openPerson;
    this.#client = client;
    this.#call = call;
    this.#channel = client.channel(name);
    $("channel-title").textContent = name;
    for (const id of ["present", "history"]) $(id).replaceChildren();
    for (const id of ["present-note", "history-note"]) $(id).textContent = "";
    // What stands there is the server's or the database's own.
    const { signal } = this.#ours;
    $("filter").value = "";
    $("filter").addEventListener("input", () => this.#draw(), { signal });
    $("follow").addEventListener("click", () => this.#follow(!this.#following), { signal });
    $("follow").hidden = name.startsWith("$sys:"); // these are followed above
    this.#follow(false);
    $("publish").hidden = /^(docs:|\$sys:)/.test(name);
    this.say("");
  }

  close() {
    this.#ours.abort();
    this.#follow(false);
  }

  /** As they come, ephemeral ones too. @param {boolean} on */
  #follow(on) {
    if (this.#following && !on) void this.#channel.unsubscribe();
    this.#following = on;
    for (const off of this.#off.splice(0)) off();
    $("follow").setAttribute("aria-pressed", String(on));
    $("follow").textContent = on ? "Stop following" : "Follow live";
    if (!on) return;
    this.#off = [
      this.#channel.on("message", (message) => {
        this.#messages = [message, ...this.#messages].slice(0, FOLLOWED);
        this.#draw();
      }),
      this.#channel.on("ended", (error) => {
        this.#following = false;
        this.#follow(false);
        $("history-note").textContent = error.reason;
      }),
    ];
    this.#messages = [];
    this.#draw();
    void this.#channel.subscribe({ last: HISTORY });
  }

  get name() {
    return this.#channel.name;
  }

  /** @param {string} text @param {boolean} [bad] */
  say(text, bad = false) {
    $("outcome").textContent = text;
    $("outcome").dataset.kind = bad ? "bad" : "";
  }

  /** Ask again. @param {() => boolean} stands  whether this is still the channel that is looked at */
  async refresh(stands) {
    const [present, history] = await Promise.allSettled([this.#presence(), this.#following ? null : this.#history()]);
    if (!stands()) return;
    if (present.status === "rejected") $("present-note").textContent = present.reason.reason ?? present.reason.message;
    else this.#showPresent(present.value);
    if (history.status === "rejected") $("history-note").textContent = history.reason.reason;
    else if (history.value) {
      this.#messages = [...history.value].reverse();
      this.#draw();
    }
  }

  /** Who is there; null where nobody is counted, as the list of channels tells. */
  async #presence() {
    const { channels } = await this.#call(`/v1/channels?${new URLSearchParams({ prefix: this.name, limit: "1" })}`);
    const row = channels.find((/** @type {any} */ one) => one.channel === this.name);
    if (!row) return { users: [], count: 0, guests: 0 };
    return row.users === undefined ? null : this.#channel.presence();
  }

  async #history() {
    if (this.#noHistory) throw { reason: this.#noHistory };
    try {
      return (await this.#channel.history({ limit: HISTORY })).messages;
    } catch (/** @type {any} */ error) {
      if (!error.retry) this.#noHistory = error.reason;
      throw error;
    }
  }

  /** Those that the filter lets through: with all its words, of the user whom it names. */
  #draw() {
    const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    const messages = this.#messages.filter(({ user, data, tag }) => {
      const text = `${JSON.stringify(data)} ${tag ?? ""}`.toLowerCase();
      return words.every((/** @type {string} */ word) =>
        word.startsWith("user:") ? (user ?? "").toLowerCase() === word.slice(5) : text.includes(word),
      );
    });
    const none = this.#following ? "Nothing yet." : "There are none.";
    $("history-note").textContent = messages.length ? "" : this.#messages.length ? "None are like that." : none;
    // Without a user a message is a guest's, but a change of documents the database's: whoever wrote is not in it.
    const nobody = this.name.startsWith("docs:") ? "change" : "guest";
    const items = messages.map((message) =>
      element(
        "li", "", at(message.time), `${message.user ?? nobody} · ${message.offset ?? "ephemeral"}`,
        element("pre", "", JSON.stringify(message.data)),
      ),
    ); // prettier-ignore
    // Nothing new, nothing moves: whoever reads or selects is left in peace.
    const old = [...$("history").children].map((item) => item.textContent);
    if (items.map((item) => item.textContent).join() !== old.join()) $("history").replaceChildren(...items);
  }

  /** @param {any} present */
  #showPresent(present) {
    if (present === null) {
      $("present-note").textContent = "Who is there is not counted in this channel.";
      return $("present").replaceChildren();
    }
    const { users, guests, count: number } = present;
    const names = `${count.format(number)} ${number === 1 ? "user" : "users"}`;
    const hidden = number > users.length ? " (too many for their names)" : "";
    $("present-note").textContent = `${names}${hidden}, ${count.format(guests)} ${guests === 1 ? "guest" : "guests"}`;
    const wanted = new Map(users.map((/** @type {any} */ user) => [user.user, user]));
    for (const item of [...$("present").children]) if (!wanted.has(item.dataset.user)) item.remove();
    const here = new Map([...$("present").children].map((item) => [item.dataset.user, item]));
    for (const { user, sessions } of users) {
      const item = here.get(user) ?? this.#person(user);
      item.querySelector("small").textContent =
        sessions === 0 ? " has just lost the connection" : sessions === 1 ? "" : ` ${sessions} sessions`;
      if (!item.isConnected) $("present").append(item);
    }
  }

  /** @param {string} user */
  #person(user) {
    const disconnect = button("Disconnect", () => this.#disconnect(user), true, user);
    const open = link(user, () => this.#openPerson(user));
    const item = element("li", "", element("span", "", open, element("small")), disconnect);
    item.dataset.user = user;
    return item;
  }

  /** @param {string} user */
  async #disconnect(user) {
    try {
      await this.#call(`/v1/users/${encodeURIComponent(user)}/disconnect`, {});
      this.say(`${user} was disconnected.`);
    } catch (/** @type {any} */ error) {
      this.say(error.status === 404 ? "This server cannot disconnect users." : `${user}: ${error.message}`, true);
    }
  }

  /** The test message, as it stands in the form. */
  async publish() {
    let data;
    try {
      data = JSON.parse($("data").value);
    } catch (/** @type {any} */ error) {
      return this.say(`This is not JSON: ${error.message}`, true);
    }
    try {
      const options = $("ephemeral").checked ? { ephemeral: true } : {};
      const reply = await this.#channel.publish(data, options);
      this.say(reply?.offset ? `Stored as number ${reply.offset}.` : "Passed on; it is not stored.");
    } catch (/** @type {any} */ error) {
      this.say(error.reason ?? String(error), true);
    }
  }
}
