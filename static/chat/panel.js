/** What stands beside the conversation: one thing at a time. On a narrow screen it lies over it. @module */

import { $ } from "../page.js";

export class Panel {
  /** @type {(() => void) | null} */
  #onclose = null;
  /** Who gets the focus back. @type {HTMLElement | null} */
  #opener = null;
  /** What is shown. */
  kind = "";

  /** Where it lies over the whole page, what is below it is out of reach. */
  #covers = matchMedia("(max-width: 760px)");

  constructor() {
    this.#covers.addEventListener("change", () => this.#cover());
    $("panel-close").addEventListener("click", () => this.close());
    $("panel").addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      if (event.key !== "Escape" || event.defaultPrevented) return;
      event.stopPropagation();
      this.close();
    });
  }

  /**
   * @param {string} kind @param {string} title @param {(Node | string)[]} content
   * @param {() => void} [onclose]  when something else is shown, too
   */
  open(kind, title, content, onclose) {
    if ($("panel").hidden) this.#opener = /** @type {HTMLElement | null} */ (document.activeElement);
    this.#end();
    this.kind = kind;
    this.#onclose = onclose ?? null;
    $("panel-title").textContent = title;
    $("panel").dataset.kind = kind;
    $("panel-body").replaceChildren(...content);
    $("panel").hidden = false;
    this.#cover();
    $("panel-title").focus();
  }

  #cover() {
    $("main").inert = this.#covers.matches && !$("panel").hidden;
  }

  /** @param {boolean} [refocus] */
  close(refocus = true) {
    if ($("panel").hidden) return;
    this.#end();
    $("panel").hidden = true;
    this.#cover();
    $("panel-body").replaceChildren();
    const back = this.#opener?.checkVisibility({ visibilityProperty: true }) ? this.#opener : $("text");
    if (refocus) back.focus();
  }

  #end() {
    this.kind = "";
    const onclose = this.#onclose;
    this.#onclose = null;
    onclose?.();
  }
}
