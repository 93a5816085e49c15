/** Lines and bars over time on a canvas, in the colours of the style sheet, with axes, a crosshair and a brush. @module */

import { element, framed } from "../page.js";
import { drawAxes, drawBars, drawBrush, drawCursor, drawLine, drawLimits, scale } from "./draw.js";

/** @typedef {import("./frame.js").Frame} Frame */
/** @typedef {import("./series.js").Series} Series */
/** @typedef {{ name: string, colour: string, series: Series, bars?: boolean, hidden?: boolean, of?: (value: number) => number }} Line
 *   `of`: what is shown of a value */
/** @typedef {{ value: number, words: string }} Limit */

const COLOURS = ["line", "muted", "ink", "surface", "accent", "bad", ...Array.from({ length: 8 }, (_, at) => `plot-${at + 1}`)];
/** A selection of less is none: pixels. */
const BRUSH = 8;
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });

export class Plot {
  /** @type {Line[]} */
  lines = [];
  /** @type {Limit[]} */
  limits = [];
  /** What the axis spans, which follows what is shown gently. @type {{low: number, high: number, of: unknown} | null} */
  range = null;
  /** Where lines are: in pixels. */
  area = { left: 0, right: 0, top: 8, bottom: 0 };
  /** @type {Record<string, string>} */
  colours = {};
  #canvas = element("canvas");
  #tip = element("div", "plot-tip");
  #drawn = 0;
  /** Where a button went down. @type {number | null} */
  #held = null;

  /** @param {Frame} frame @param {string} name @param {(value: number) => string} form @param {{ floor?: number, axis?: (value: number) => string }} [options]
   *   `floor`: the axis begins there at the latest; `axis`: what stands at it, if that is not what is read */
  constructor(frame, name, form, options = {}) {
    this.frame = frame;
    this.name = name;
    this.form = form;
    this.floor = options.floor;
    this.axis = options.axis ?? form;
    this.#canvas.ariaHidden = "true";
    this.#tip.ariaHidden = "true"; // the slider says it
    this.#tip.hidden = true;
    this.box = element("div", "plot-box", this.#canvas, this.#tip);
    this.box.tabIndex = 0;
    this.box.role = "slider";
    this.box.ariaLabel = `${name}, over time`;
    this.box.setAttribute("aria-valuemin", "0");
    this.box.setAttribute("aria-valuemax", "100");
    this.box.setAttribute("aria-valuenow", "100");
    this.context = /** @type {CanvasRenderingContext2D} */ (this.#canvas.getContext("2d"));
    const redraw = framed(() => this.draw(Date.now(), true));
    frame.on(redraw);
    new ResizeObserver(() => this.#fit()).observe(this.box);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#fit());
    this.#listen();
  }

  // --- what the reader does -----------------------------------------------------------------------------------------

  #listen() {
    const { box, frame } = this;
    box.addEventListener("pointermove", (event) => {
      const time = this.#time(event);
      if (this.#held !== null && Math.abs(event.clientX - this.#held) > BRUSH) {
        const from = this.#time({ clientX: this.#held });
        frame.brush = [Math.min(from, time), Math.max(from, time)];
      }
      frame.point(time);
    });
    box.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || event.pointerType === "touch") return;
      this.#held = event.clientX;
      box.setPointerCapture(event.pointerId);
    });
    const release = (/** @type {boolean} */ take) => {
      const brush = frame.brush;
      this.#held = frame.brush = null;
      if (take && brush) frame.zoom(...brush);
      else if (brush) frame.changed();
    };
    box.addEventListener("pointerup", () => release(true));
    box.addEventListener("pointercancel", () => release(false));
    box.addEventListener("pointerleave", () => this.#held === null && frame.point(null));
    box.addEventListener("blur", () => frame.point(null));
    box.addEventListener("dblclick", () => frame.follow());
    box.addEventListener("keydown", (event) => this.#key(event));
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const { frame } = this;
    const [from, to] = frame.window(Date.now());
    const step = { ArrowLeft: -1, ArrowRight: 1, PageUp: 10, PageDown: -10 }[event.key];
    const at = frame.cursor ?? to;
    if (step !== undefined) frame.point(Math.min(to, Math.max(from, at + (step * (to - from)) / 60)));
    else if (event.key === "+") frame.zoom(Math.max(from, at - (to - from) / 4), Math.min(to, at + (to - from) / 4));
    else if (event.key === "-") frame.zoom(from - (to - from) / 2, to + (to - from) / 2);
    else if (event.key === "Escape" && frame.cursor !== null) frame.point(null);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  /** @param {{ clientX: number }} event  where in time that is */
  #time({ clientX }) {
    const [from, to] = this.frame.window(Date.now());
    const { left, right } = this.area;
    const part = (clientX - this.box.getBoundingClientRect().left - left) / Math.max(1, right - left);
    return from + (to - from) * Math.min(1, Math.max(0, part));
  }

  // --- what is drawn ------------------------------------------------------------------------------------------------

  #fit() {
    const style = getComputedStyle(this.box);
    for (const name of COLOURS) this.colours[name] = style.getPropertyValue(`--${name}`).trim();
    const { clientWidth, clientHeight } = this.box;
    this.#canvas.width = Math.round(clientWidth * devicePixelRatio);
    this.#canvas.height = Math.round(clientHeight * devicePixelRatio);
    this.context.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
    this.context.font = `12px ${style.fontFamily}`;
    this.width = clientWidth;
    this.height = clientHeight;
    this.draw(Date.now(), true);
  }

  width = 0;
  height = 0;

  get shown() {
    return this.lines.filter((line) => !line.hidden);
  }

  /** What moves by less than half a pixel is left as it is. @param {number} now @param {boolean} [must] */
  draw(now, must = false) {
    const [from, to] = this.frame.window(now);
    const due = this.frame.live ? Math.min(1000, Math.max(33, (to - from) / Math.max(1, this.width) / 2)) : 1000;
    if (!this.width || (!must && now - this.#drawn < due)) return;
    this.#drawn = now;
    const { context } = this;
    context.clearRect(0, 0, this.width, this.height);
    this.area.bottom = this.height - 22;
    const { x, y, bar, bars } = scale(this, from, to);
    drawAxes(this, from, to, x, y);
    context.save();
    context.beginPath();
    context.rect(this.area.left, 0, this.area.right - this.area.left, this.area.bottom + 1);
    context.clip();
    const alone = this.shown.length === 1;
    for (const line of this.shown) {
      const own = bars.get(line);
      if (own) drawBars(this, line, own, bar, x, y);
      else drawLine(this, line, from, to, x, y, alone);
    }
    context.restore();
    drawLimits(this, y);
    if (this.frame.brush) drawBrush(this, this.frame.brush, x);
    if (this.frame.cursor !== null) drawCursor(this, this.frame.cursor, from, x, y);
    this.#tell(from, to, x);
  }

  /** @param {Line} line @param {number} time @param {number} from */
  value(line, time, from) {
    const value = line.series.at(time, from);
    return value === null ? null : line.of ? line.of(value) : value;
  }

  /** @param {Line} line  what is read of it: at the cursor, or now */
  said(line) {
    const now = Date.now();
    const [from, to] = this.frame.window(now);
    const value = this.value(line, this.frame.cursor ?? to, from);
    return value === null ? "–" : this.form(value);
  }

  /** @param {number} from @param {number} to @param {(time: number) => number} x */
  #tell(from, to, x) {
    const { cursor } = this.frame;
    const here = cursor !== null && this.box.matches(":hover, :focus");
    this.#tip.hidden = !here || !this.lines.length;
    if (!here) return;
    const time = clock.format(cursor);
    const rows = this.shown.map((line) => {
      const swatch = element("i", "swatch");
      swatch.style.background = this.colours[line.colour];
      return element("p", "", swatch, element("span", "", line.name), element("b", "", this.said(line)));
    });
    this.#tip.replaceChildren(element("time", "", time), ...rows);
    const at = x(cursor);
    const left = at > this.width / 2;
    this.#tip.style.left = left ? "auto" : `${at + 12}px`;
    this.#tip.style.right = left ? `${this.width - at + 12}px` : "auto";
    this.box.setAttribute("aria-valuenow", String(Math.round((100 * (cursor - from)) / (to - from))));
    const said = this.shown.map((line) => (this.shown.length > 1 ? `${line.name} ${this.said(line)}` : this.said(line)));
    this.box.setAttribute("aria-valuetext", `${said.join(", ")} at ${time}`);
  }
}
