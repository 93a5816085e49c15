/**
 * The documentation's pages: search in an index that the server makes of the files, the headings of this page beside it,
 * and code that can be copied. Without a script the pages only lack these.
 *
 * @module
 */

import { $, button, element } from "./page.js";

const MOST = 12;
/** Characters of a section that are shown around what was found. */
const AROUND = 60;

/** @typedef {{path: string, page: string, heading: string, id: string, text: string, low: string}} Section */

/** @type {Promise<Section[]> | undefined} */
let index;

/** @returns {Promise<Section[]>} */
async function load() {
  const { pages, sections } = await (await fetch("/docs/search.json")).json();
  return sections.map(([page, heading, id, text]) => ({
    path: pages[page][0], page: pages[page][1], heading, id, text, low: `${heading} ${text}`.toLowerCase(),
  })); // prettier-ignore
}

/** Sections with all the words, the best first: in the heading, then often, then early in the book.
 *
 * @param {Section[]} sections @param {string[]} words */
export function search(sections, words) {
  const found = [];
  for (const section of sections) {
    if (!words.every((word) => section.low.includes(word))) continue;
    const heading = section.heading.toLowerCase();
    let score = 0;
    for (const word of words) {
      const whole = new RegExp(`(^|[^\\p{L}\\d])${word.replace(/[^\p{L}\d]/gu, "\\$&")}($|[^\\p{L}\\d])`, "u");
      if (heading.includes(word)) score += whole.test(heading) ? 40 : 20;
      if (whole.test(section.low)) score += 8;
      score += Math.min(5, (section.low.split(word).length - 1) * Math.min(1, 600 / section.low.length));
    }
    score += 400 / (400 + section.text.length); // of two, the shorter one is more about it
    if (section.page === "Changelog") score -= 25;
    found.push({ section, score });
  }
  found.sort((one, other) => other.score - one.score);
  return found.slice(0, MOST).map(({ section }) => section);
}

/** The piece of a text around the first of the words, with all of them marked. @param {string} text @param {string[]} words */
function around(text, words) {
  const low = text.toLowerCase();
  const first = Math.min(...words.map((word) => low.indexOf(word)).filter((at) => at >= 0), low.length);
  const from = Math.max(0, first - AROUND);
  const piece = text.slice(from, first + 2 * AROUND);
  const pattern = words.map((word) => word.replace(/[^\p{L}\d]/gu, "\\$&")).join("|");
  const parts = piece.split(new RegExp(`(${pattern})`, "iu"));
  const marked = parts.map((part, at) => (at % 2 ? element("mark", "", part) : part));
  return element("small", "", from ? "…" : "", ...marked, from + piece.length < text.length ? "…" : "");
}

let chosen = -1;

/** @param {number} at */
function choose(at) {
  const rows = [...$("found").children];
  chosen = rows.length ? (at + rows.length) % rows.length : -1;
  for (const [number, row] of rows.entries()) {
    row.setAttribute("aria-selected", String(number === chosen));
    if (number === chosen) row.scrollIntoView({ block: "nearest" });
  }
  if (chosen < 0) $("words").removeAttribute("aria-activedescendant");
  else $("words").setAttribute("aria-activedescendant", rows[chosen].id);
}

function close() {
  $("found").hidden = true;
  $("words").setAttribute("aria-expanded", "false");
  choose(-1);
}

async function show() {
  const words = $("words").value.toLowerCase().split(/\s+/).filter(Boolean);
  if (!words.length) return close();
  const asked = $("words").value;
  try {
    index ??= load();
    const found = search(await index, words);
    if ($("words").value !== asked) return; // typed on meanwhile
    const rows = found.map((section, number) => {
      const link = element("a", "", element("b", "", section.heading), element("span", "", section.page));
      link.href = `${section.path}#${section.id}`;
      link.tabIndex = -1;
      link.append(around(section.text, words));
      link.addEventListener("click", close);
      const row = element("li", "", link);
      row.id = `found-${number}`;
      row.role = "option";
      return row;
    });
    $("found").replaceChildren(...rows);
    $("found").hidden = !rows.length;
    $("words").setAttribute("aria-expanded", String(rows.length > 0));
    $("found-note").textContent = rows.length ? `${rows.length} found` : "Nothing found";
    $("search").classList.toggle("nothing", !rows.length);
    choose(rows.length ? 0 : -1);
  } catch {
    index = undefined; // the server is away: with the next letter again
  }
}

$("search").hidden = false;
$("words").addEventListener("input", () => void show());
$("words").addEventListener("focus", () => void (index ??= load().catch(() => (index = undefined))));
$("words").addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
  if (event.key === "ArrowDown") choose(chosen + 1);
  else if (event.key === "ArrowUp") choose(chosen - 1);
  else if (event.key === "Escape" && !$("found").hidden) close();
  else return;
  event.preventDefault();
});
$("search").addEventListener("submit", (/** @type {Event} */ event) => {
  event.preventDefault();
  $("found").children[chosen]?.querySelector("a").click();
});
document.addEventListener("click", (event) => {
  if (!$("search").contains(event.target)) close();
});
document.addEventListener("keydown", (event) => {
  const typing = /** @type {HTMLElement} */ (event.target).matches("input, textarea, select");
  if (event.key !== "/" || typing || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  $("words").focus();
});

// What is on this page: open where there is room beside the text.
const outline = $("outline");
if (outline) {
  const wide = matchMedia("(min-width: 1240px)");
  const fit = () => (outline.open = wide.matches);
  wide.addEventListener("change", fit);
  fit();
  const links = new Map([...outline.querySelectorAll("a")].map((link) => [link.hash.slice(1), link]));
  const seen = new IntersectionObserver(
    (entries) => {
      const here = entries.find((entry) => entry.isIntersecting);
      if (!here) return;
      for (const link of links.values()) link.removeAttribute("aria-current");
      links.get(here.target.id)?.setAttribute("aria-current", "location");
    },
    { rootMargin: "-64px 0px -70% 0px" },
  );
  for (const id of links.keys()) seen.observe(/** @type {Element} */ (document.getElementById(id)));
}

// Only pages served over TLS or from this machine may write to the clipboard.
if (navigator.clipboard) {
  for (const code of document.querySelectorAll(".prose pre")) {
    const made = button("copy-code", "Copy");
    made.addEventListener("click", async () => {
      await navigator.clipboard.writeText(code.querySelector("code")?.textContent ?? "");
      made.textContent = "Copied";
      setTimeout(() => (made.textContent = "Copy"), 2000);
    });
    const block = element("div", "code");
    code.replaceWith(block);
    block.append(code, made);
  }
}
