/** Figures over time: an hour of them, of which a range is shown, with axes and a value under the pointer. @module */

import { $, element, svg } from "../page.js";

/** Seconds that can be shown. */
const RANGES = new Map([
  [90, "90 s"],
  [900, "15 min"],
  [3600, "1 h"],
]);
const KEPT = Math.max(...RANGES.keys());
/** Points of a line: of what falls together the highest is shown. */
const POINTS = 180;
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });

let range = 90;
/** @type {Plot[]} */
const plots = [];

/** A figure over all nodes. */
export class Plot {
  /** @type {{at: number, value: number | null}[]} */
  #past = [];
  /** What is drawn. @type {({at: number, value: number} | null)[]} */
  #points = [];
  /** Index of the point that is read; null: the newest. @type {number | null} */
  #read = null;
  #value = element("b");
  #top = element("small", "top");
  #from = element("small", "from");
  #plot = svg("svg", { class: "plot", viewBox: `0 0 ${POINTS - 1} 100`, preserveAspectRatio: "none", "aria-hidden": "true" });
  #area = svg("polygon");
  #line = svg("polyline");
  #cursor = svg("line", { class: "cursor", y1: 0, y2: 100 });

  /** @param {string} name @param {(rows: any[]) => number | null} sum @param {(value: number) => string} form */
  constructor(name, sum, form) {
    this.sum = sum;
    this.form = form;
    this.#plot.append(this.#area, this.#line, this.#cursor);
    const frame = element("div", "frame");
    frame.append(this.#plot, this.#top, this.#from, element("small", "now", "now"));
    frame.tabIndex = 0;
    frame.role = "slider";
    frame.ariaLabel = `${name}, over time`;
    frame.setAttribute("aria-valuemin", "0");
    frame.setAttribute("aria-valuemax", String(POINTS - 1));
    this.frame = frame;
    frame.addEventListener("pointermove", (event) => {
      const { left, width } = frame.getBoundingClientRect();
      this.#point(Math.round(((event.clientX - left) / width) * (POINTS - 1)));
    });
    frame.addEventListener("pointerleave", () => this.#point(null));
    frame.addEventListener("blur", () => this.#point(null));
    frame.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1, PageUp: 20, PageDown: -20 }[event.key];
      if (step === undefined) return;
      event.preventDefault();
      this.#point(Math.min(POINTS - 1, Math.max(0, (this.#read ?? POINTS - 1) + step)));
    });
    $("figures").append(element("li", "", element("span", "", name), this.#value, frame));
    plots.push(this);
  }

  clear() {
    this.#past = [];
    this.draw();
  }

  /** @param {any[]} rows */
  add(rows) {
    const at = Date.now();
    this.#past.push({ at, value: rows.length ? this.sum(rows) : null });
    const old = this.#past.findIndex((one) => at - one.at <= KEPT * 1000);
    if (old > 60) this.#past.splice(0, old); // in lots
    this.draw();
  }

  draw() {
    const now = Date.now();
    const span = (range * 1000) / POINTS;
    this.#points = new Array(POINTS).fill(null);
    for (let at = this.#past.length - 1; at >= 0; at--) {
      const one = this.#past[at];
      const index = POINTS - 1 - Math.floor((now - one.at) / span);
      if (index < 0) break;
      const there = this.#points[index];
      if (one.value !== null && (!there || one.value > there.value)) this.#points[index] = { at: one.at, value: one.value };
    }
    this.#join(Math.ceil(1500 / span));
    const top = Math.max(0, ...this.#points.map((one) => one?.value ?? 0));
    const high = Math.max(1e-9, top * 1.1);
    const drawn = this.#points.flatMap((one, index) => (one ? [`${index},${(100 - (100 * one.value) / high).toFixed(1)}`] : []));
    this.#line.setAttribute("points", drawn.join(" "));
    const [first, last] = [drawn[0], drawn.at(-1)].map((point) => point?.split(",")[0]);
    this.#area.setAttribute("points", drawn.length ? `${first},100 ${drawn.join(" ")} ${last},100` : "");
    this.#top.textContent = top ? this.form(top) : "";
    this.#from.textContent = `−${RANGES.get(range)}`;
    this.#tell();
  }

  /** Where a second has several points, those between two values are drawn as the one before. @param {number} most */
  #join(most) {
    let since = most + 1;
    for (let index = 0; index < POINTS; index++) {
      if (this.#points[index]) since = 0;
      else if (++since <= most) this.#points[index] = this.#points[index - 1];
    }
  }

  /** @param {number | null} index */
  #point(index) {
    this.#read = index;
    this.#tell();
  }

  #tell() {
    const newest = this.#past.at(-1)?.value ?? null;
    const point = this.#read === null ? null : this.#points[this.#read];
    this.#cursor.toggleAttribute("hidden", this.#read === null);
    this.#cursor.setAttribute("visibility", this.#read === null ? "hidden" : "visible");
    const shown = this.#read === null ? newest : (point?.value ?? null);
    const text = shown === null ? "–" : this.form(shown);
    this.#value.replaceChildren(text);
    if (this.#read !== null) {
      this.#cursor.setAttribute("x1", String(this.#read));
      this.#cursor.setAttribute("x2", String(this.#read));
      if (point) this.#value.append(element("small", "", clock.format(point.at)));
    }
    this.frame.setAttribute("aria-valuenow", String(this.#read ?? POINTS - 1));
    this.frame.setAttribute("aria-valuetext", point ? `${text} at ${clock.format(point.at)}` : text);
  }
}

/** The buttons that choose how far back is shown. */
export function showRanges() {
  const buttons = [...RANGES].map(([seconds, words]) => {
    const button = element("button", "quiet-button", words);
    button.type = "button";
    button.setAttribute("aria-pressed", String(seconds === range));
    button.addEventListener("click", () => {
      range = seconds;
      for (const one of buttons) one.setAttribute("aria-pressed", String(one === button));
      for (const plot of plots) plot.draw();
    });
    return button;
  });
  $("ranges").replaceChildren(...buttons);
}
