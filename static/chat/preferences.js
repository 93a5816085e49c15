/** What one wants of the page: notifications, whom one does not want to hear, and which keys there are. @module */

import { button, element } from "../page.js";
import { avatar } from "./parts.js";
import { COMMAND } from "./shortcuts.js";

/** What is pressed, and what for. @type {[string[], string][]} */
const KEYS = [
  [[COMMAND, "K"], "Jump to a room, a person, a thread"],
  [["Alt", "↑"], "To the room above, or with ↓ below"],
  [["↑"], "Edit what one has said last, from an empty field"],
  [["Esc"], "Cancel, close what stands beside"],
  [["Shift", "Enter"], "A new line"],
  [[COMMAND, "B"], "Bold: *words*"],
  [[COMMAND, "I"], "Italic: _words_"],
  [[COMMAND, "E"], "Code: `words`"],
  [[COMMAND, "Shift", "X"], "Struck: ~words~"],
];

export class PreferencesPanel {
  #blocked = element("ul", "members");
  #note = element("p", "hint");

  /**
   * @param {import("./panel.js").Panel} panel
   * @param {import("./notices.js").Notices | null} notices @param {import("./blocks.js").Blocks | null} blocks  null: of a guest
   */
  constructor(panel, notices, blocks) {
    this.#note.setAttribute("role", "status");
    const mine = notices && blocks ? [this.#notifications(notices), this.#blocks(blocks)] : [];
    panel.open("preferences", "Preferences", [...mine, this.#keys()]);
  }

  /** @param {string} title @param {...Node} content */
  #section(title, ...content) {
    return element("section", "preference", element("h3", "", title), ...content);
  }

  /** @param {import("./notices.js").Notices} notices */
  #notifications(notices) {
    const box = element("input");
    box.type = "checkbox";
    box.checked = notices.on;
    box.disabled = notices.hindrance !== "";
    const hint = element("p", "hint", notices.hindrance || "Only while you look at something else.");
    box.addEventListener("change", async () => {
      box.checked = await notices.set(box.checked);
      hint.textContent = notices.hindrance || hint.textContent;
    });
    return this.#section("Notifications", element("label", "wish", box, " When I am mentioned, or written to alone"), hint);
  }

  /** @param {import("./blocks.js").Blocks} blocks */
  #blocks(blocks) {
    const input = element("input");
    Object.assign(input, { id: "block-name", autocapitalize: "none", autocomplete: "off", spellcheck: false, required: true });
    const label = element("label", "", "Block somebody");
    label.htmlFor = input.id;
    const form = element("form", "inline", label, input, element("button", "quiet-button", "Block"));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const user = input.value.trim();
      input.value = "";
      if (user) void this.#block(blocks, user, true);
    });
    this.#draw(blocks);
    return this.#section("Blocked people", this.#note, this.#blocked, form);
  }

  /** @param {import("./blocks.js").Blocks} blocks */
  #draw(blocks) {
    const { users } = blocks;
    this.#note.textContent = users.length
      ? "They cannot write to you alone, and what they say in rooms is hidden. They are not told."
      : "Nobody. Whom you block cannot write to you alone, and is not told of it.";
    this.#blocked.replaceChildren(
      ...users.map((user) => {
        const undo = button("quiet-button", "Unblock");
        undo.ariaLabel = `Unblock ${user}`;
        undo.addEventListener("click", () => void this.#block(blocks, user, false));
        const name = element("b", "", user);
        name.dir = "auto";
        return element("li", "", avatar(user), element("span", "who", name), undo);
      }),
    );
  }

  /** @param {import("./blocks.js").Blocks} blocks @param {string} user @param {boolean} on */
  async #block(blocks, user, on) {
    try {
      await blocks.set(user, on);
      this.#draw(blocks);
      if (!on) document.getElementById("block-name")?.focus();
    } catch (/** @type {any} */ error) {
      this.#note.textContent = error.reason ?? String(error);
    }
  }

  #keys() {
    const rows = KEYS.map(([keys, words]) => {
      const pressed = keys.flatMap((key, place) => (place ? [" ", element("kbd", "", key)] : [element("kbd", "", key)]));
      return element("div", "", element("dt", "", ...pressed), element("dd", "", words));
    });
    return this.#section("Keys", element("dl", "keys", ...rows));
  }
}
