/**
 * What people write, as elements: `*bold*`, `_italic_`, `~struck~`, `` `code` ``, blocks of code, `> quotes`, web addresses,
 * and who is called by name. A text is somebody else's data: all of it becomes text nodes, never markup.
 *
 * @module
 */

import { element } from "../page.js";

/** Three backticks around it; the first line may name a language. */
const BLOCK = /(?:^|\n)?```(?:[a-z0-9+#-]*\n)?([^]+?)\n?```\n?/;
/** Code; an address; a mark around words, doubled or not; a name that is called. The bound keeps a hostile text cheap. */
const INLINE = new RegExp(
  [
    /`([^`\n]+)`/,
    /(https?:\/\/[^\s<>"`]+[^\s<>"`.,;:!?'*_~)\]])/,
    /(?<![\p{L}\p{N}*_~])(\*\*?|__?|~~?)(?=[^\s*_~])([^\n]{0,1000}?[^\s])\3(?![\p{L}\p{N}*_~])/,
    /(?<![^\s(*_~])@([A-Za-z0-9][A-Za-z0-9._@+-]*)/,
  ]
    .map(({ source }) => source)
    .join("|"),
  "gu",
);
/** @type {Record<string, "strong" | "em" | "s">} */
const MARKS = { "*": "strong", _: "em", "~": "s" };

/** @param {string} text @param {string[]} [mentions]  whom it calls: others' names are left as they are @returns {(Node | string)[]} */
export function formatted(text, mentions = []) {
  const names = new Set(mentions.map((user) => (user === "*" ? "all" : user).toLowerCase()));
  return text.split(BLOCK).flatMap((part, index) => (index % 2 ? [codeBlock(part)] : quoted(part, names)));
}

/** @param {string} code */
function codeBlock(code) {
  const block = element("pre", "", element("code", "", code));
  block.dir = "ltr";
  block.tabIndex = 0; // it may be wider than the page: scrolled by the keyboard, too
  return block;
}

/** Lines that begin with `>`, those that follow each other together. @param {string} text @param {Set<string>} names */
function quoted(text, names) {
  if (!/^> ?/m.test(text)) return inline(text, names);
  /** @type {{quote: boolean, lines: string[]}[]} */
  const runs = [];
  for (const line of text.split("\n")) {
    const quote = /^> ?/.test(line);
    if (runs.at(-1)?.quote !== quote) runs.push({ quote, lines: [] });
    runs.at(-1)?.lines.push(quote ? line.replace(/^> ?/, "") : line);
  }
  return runs.flatMap(({ quote, lines }) => {
    const parts = inline(lines.join("\n"), names);
    return quote ? [element("blockquote", "", ...parts)] : parts;
  });
}

/** @param {string} text @param {Set<string>} names @returns {(Node | string)[]} */
function inline(text, names) {
  /** @type {(Node | string)[]} */
  const parts = [];
  let end = 0;
  for (const found of text.matchAll(INLINE)) {
    const [whole, code, address, mark, marked, name] = found;
    const called = name?.replace(/[.+-]+$/, "");
    if (called && !names.has(called.toLowerCase())) continue;
    parts.push(text.slice(end, found.index));
    end = found.index + (called ? called.length + 1 : whole.length);
    if (code) parts.push(element("code", "", code));
    else if (address) parts.push(link(address));
    else if (mark) parts.push(element(MARKS[mark[0]], "", ...inline(marked, names)));
    else parts.push(element("b", "call", `@${called}`));
  }
  parts.push(text.slice(end));
  return parts.filter((part) => part !== "");
}

/** Only http and https. @param {string} address */
function link(address) {
  const made = element("a", "", address);
  made.href = address;
  made.target = "_blank";
  made.rel = "noopener noreferrer nofollow";
  return made;
}

/** The marks of a text left away, for where one line of it is enough. @param {string} text */
export function plainly(text) {
  const words = formatted(text).map((part) => {
    if (typeof part === "string") return part;
    return /^(PRE|BLOCKQUOTE)$/.test(part.nodeName) ? ` ${part.textContent} ` : part.textContent;
  });
  return words.join("").replace(/\s+/g, " ").trim();
}
