/** Who belongs to a room, with which role; and, for who may, changing that. @module */

import { button, element } from "../page.js";
import { avatar, sure } from "./parts.js";
import { isDirect, nameOf, some } from "./words.js";

/** @typedef {import("./room.js").Room} Room */
/** @typedef {{user: string, role: string, joined: number}} Member */

const PAGE = 100;
const RANKS = ["owner", "moderator", "member"];

export class MembersPanel {
  #room;
  #me;
  #panel;
  #say;
  #onleave;
  #talk;
  /** @type {Member[]} */
  #members = [];
  #more = false;
  #list = element("ul", "members");
  #note = element("p", "hint");
  #off;

  /**
   * @param {import("./panel.js").Panel} panel @param {Room} room @param {string} me
   * @param {{say: (words: string) => void, onleave: () => void, row: import("./memberships.js").Row | null,
   *   talk: ((user: string) => void) | null}} ways  what went wrong; one is a member no more; how one sees the room; to
   *   write to one of them alone
   */
  constructor(panel, room, me, { say, onleave, row, talk }) {
    this.#panel = panel;
    this.#room = room;
    this.#me = me;
    this.#say = say;
    this.#onleave = onleave;
    this.#talk = talk;
    this.#note.setAttribute("role", "status");
    this.#off = room.channel.members().on("change", () => this.#draw());
    const content = [...this.#adding(), this.#note, this.#list, ...this.#wishes(row), ...this.#leaving()];
    panel.open("members", `Members of ${nameOf(room.name, me)}`, content, () => this.#off());
    void this.#load();
  }

  /** Who has become what is not told to all, so it is asked for again. */
  refresh() {
    this.#members = [];
    void this.#load();
  }

  get #rules() {
    return this.#room.role === "owner" || this.#room.role === "moderator";
  }

  async #load() {
    try {
      const after = this.#members.at(-1)?.user;
      const page = await this.#room.channel.memberships({ limit: PAGE, ...(after ? { after } : {}) });
      this.#members.push(...page.members);
      this.#more = page.more;
      this.#draw();
    } catch (/** @type {any} */ error) {
      this.#note.textContent = error.reason ?? String(error);
    }
  }

  #draw() {
    const { users, guests } = this.#room.channel.members();
    const here = this.#members.filter(({ user }) => users.has(user)).length;
    const strangers = [...users.keys()].filter((user) => !this.#members.some((member) => member.user === user)).length + guests;
    const count = `${this.#members.length}${this.#more ? "+" : ""}`;
    this.#note.textContent =
      `${count} ${count === "1" ? "member" : "members"}, ${here} here now` + (strangers && !this.#more ? `, and ${some(strangers, "visitor")}.` : ".");
    const focused = /** @type {HTMLElement | null} */ (document.activeElement)?.dataset.for;
    const rank = (/** @type {Member} */ { role }) => (RANKS.includes(role) ? RANKS.indexOf(role) : RANKS.length);
    const sorted = [...this.#members].sort((one, other) => rank(one) - rank(other) || one.user.localeCompare(other.user));
    const rows = sorted.map((member) => this.#row(member, users.has(member.user)));
    if (this.#more) {
      const more = button("quiet-button", "Show more");
      more.addEventListener("click", () => void this.#load());
      rows.push(element("li", "", more));
    }
    this.#list.replaceChildren(...rows);
    if (focused) /** @type {any} */ (this.#list.querySelector(`[data-for="${CSS.escape(focused)}"]`))?.focus();
  }

  /** @param {Member} member @param {boolean} here */
  #row({ user, role }, here) {
    const name = element("b", "", user);
    name.dir = "auto";
    const face = avatar(user, here ? "here" : "");
    const words = element("span", "who", name, element("small", "", user === this.#me ? `${role}, you` : role));
    if (here) words.append(element("span", "hidden-label", ", here now"));
    const row = element("li", "", face, words);
    if (this.#talk && user !== this.#me && !isDirect(this.#room.name)) {
      const talk = button("quiet-button", "Message");
      talk.ariaLabel = `Message ${user}`;
      talk.addEventListener("click", () => this.#talk?.(user));
      row.append(talk);
    }
    if (this.#rules && user !== this.#me && (this.#room.role === "owner" || role === "member")) row.append(this.#choice(user, role));
    return row;
  }

  /** @param {string} user @param {string} role */
  #choice(user, role) {
    const select = element("select");
    select.ariaLabel = `Role of ${user}`;
    select.dataset.for = user;
    const roles = this.#room.role === "owner" ? RANKS : ["member"];
    for (const one of roles.includes(role) ? roles : [role, ...roles]) select.append(new Option(one, one, false, one === role));
    select.append(new Option("Remove", ""));
    select.addEventListener("change", () => void this.#set(user, select.value || null));
    return select;
  }

  /** @param {string} user @param {string | null} role */
  async #set(user, role) {
    try {
      await this.#room.channel.setMember(user, role);
    } catch (/** @type {any} */ error) {
      this.#say(`${user}: ${error.reason ?? error}`);
    }
    this.refresh();
  }

  /** How one wants to see the room. @param {import("./memberships.js").Row | null} row */
  #wishes(row) {
    if (!row) return [];
    const wish = (/** @type {"mute" | "pin"} */ name, /** @type {string} */ words) => {
      const box = element("input");
      box.type = "checkbox";
      box.checked = row[name];
      box.addEventListener("change", async () => {
        try {
          await this.#room.channel.prefer({ [name]: box.checked });
        } catch (/** @type {any} */ error) {
          box.checked = !box.checked;
          this.#say(error.reason ?? String(error));
        }
      });
      return element("label", "wish", box, ` ${words}`);
    };
    return [element("div", "wishes", wish("pin", "Keep it on top of the list"), wish("mute", "Count only what mentions me"))];
  }

  #adding() {
    if (!this.#rules) return [];
    const input = element("input");
    input.id = "member-name";
    input.autocapitalize = "none";
    input.autocomplete = "off";
    input.spellcheck = false;
    input.required = true;
    const label = element("label", "", "Add somebody");
    label.htmlFor = input.id;
    const form = element("form", "inline", label, input, element("button", "quiet-button", "Add"));
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      const user = input.value.trim();
      if (!user) return;
      input.value = "";
      await this.#set(user, "member");
    });
    return [form];
  }

  #leaving() {
    if (this.#room.role === null) return [];
    const leave = button("quiet-button leave-room", "Leave this room");
    leave.addEventListener("click", () =>
      sure(leave, async () => {
        try {
          await this.#room.channel.leave();
          this.#panel.close(false);
          this.#onleave();
        } catch (/** @type {any} */ error) {
          this.#say(error.reason ?? String(error));
        }
      }),
    );
    return [leave];
  }
}
