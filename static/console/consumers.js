/** What follows channels and events for back ends: how far behind each is, and what an operator does with one. @module */

import { $, button, element } from "../page.js";
import { count } from "./words.js";

/** @typedef {(path: string, body?: object) => Promise<any>} Call  a request with the operator's rights */

/** @param {any} row */
function doing(row) {
  if (row.why) return `${row.state}: ${row.why}`;
  return row.error ? `${row.state}, ${count.format(row.attempts)} attempts: ${row.error}` : row.state;
}

export class Consumers {
  #call;
  #asked = 0;
  /** The question that what is shown answers: the answer to an older one comes too late. */
  #shown = 0;

  /** @param {Call} call */
  constructor(call) {
    this.#call = call;
    void this.show();
  }

  async show() {
    const asked = ++this.#asked;
    try {
      const { consumers } = await this.#call("/v1/consumers");
      if (asked < this.#shown) return;
      this.#shown = asked;
      const held = document.activeElement?.getAttribute("data-consumer");
      $("consumers").hidden = !consumers.length;
      $("consumer-rows").replaceChildren(...consumers.map((/** @type {any} */ row) => this.#row(row)));
      if (held) [...$("consumer-rows").querySelectorAll("button")].find((one) => one.dataset.consumer === held)?.focus();
    } catch (/** @type {any} */ error) {
      $("consumers-note").textContent = String(error.message);
    }
  }

  /** @param {any} row */
  #row(row) {
    const name = element("th", "", row.name);
    name.scope = "row";
    const running = row.state === "running";
    const made = button("quiet-button", running ? "Pause" : "Go on");
    made.dataset.consumer = row.name;
    made.setAttribute("aria-label", `${made.textContent} ${row.name}`);
    made.addEventListener("click", () => void this.#turn(row.name, running ? "pause" : "resume"));
    const numbers = [count.format(row.lag.messages), count.format(Math.round(row.lag.seconds))];
    return element(
      "tr",
      "",
      name,
      element("td", "", row.channels.join(", ")),
      ...numbers.map((text) => element("td", "number", text)),
      element("td", "", doing(row)),
      element("td", "", made),
    );
  }

  /** @param {string} name @param {"pause" | "resume"} how */
  async #turn(name, how) {
    let note = how === "pause" ? `${name} is paused.` : `${name} goes on.`;
    try {
      await this.#call(`/v1/consumers/${encodeURIComponent(name)}/${how}`, {});
    } catch (/** @type {any} */ error) {
      note = String(error.message);
    }
    await this.show();
    $("consumers-note").textContent = note;
  }

  close() {
    $("consumers").hidden = true;
    $("consumer-rows").replaceChildren();
    $("consumers-note").textContent = "";
  }
}
