/** The words above the first message of a room. @module */

import { element } from "../page.js";
import { COMMAND } from "./shortcuts.js";
import { isDirect, nameOf } from "./words.js";

/** @param {import("./room.js").Room} room @param {string | null} me @param {boolean} thread @returns {(Node | string)[]} */
export function edgeOf(room, me, thread) {
  const first = room.oldest;
  if (room.more) return ["Older messages appear as you scroll up"];
  if (thread) return first || room.channel.state !== "live" ? [] : ["No replies yet"];
  if (first && first.offset > 1) return ["Older messages are no longer kept"];
  if (!first && room.channel.state !== "live") return [];
  const name = nameOf(room.name, me);
  const direct = isDirect(room.name);
  const title = first ? (direct ? `You and ${name}` : `Welcome to ${name}`) : "Nothing here yet";
  const words = first ? "This is where the conversation began." : `Say the first word ${direct ? "to" : "in"} ${name}.`;
  return [element("strong", "", title), words, ...(first ? [] : [guidance(direct)])];
}

/** For who is here for the first time. @param {boolean} direct */
function guidance(direct) {
  const second = element("span", "", "Open this address in a second window, or send it to somebody: that is all it takes to be two.");
  const marks = [element("strong", "", "*bold*"), ", ", element("em", "", "_italic_"), ", ", element("code", "", "`code`")];
  const written = element("span", "", "Write ", ...marks, " or three backticks around many lines.");
  const keys = [element("kbd", "", COMMAND), " ", element("kbd", "", "K")];
  const jumps = element("span", "keyed", ...keys, " jumps to any room or person; what you have begun to write waits for you.");
  return element("span", "guidance", ...(direct ? [] : [second]), written, jumps);
}

/** iOS lays its keyboard over the page; pinching changes the same height, and is left alone. */
export function followKeyboard() {
  const viewport = window.visualViewport;
  viewport?.addEventListener("resize", () => {
    if (viewport.scale > 1.01) return;
    document.documentElement.style.setProperty("--height", `${viewport.height}px`);
    window.scrollTo(0, 0);
  });
}
