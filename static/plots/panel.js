/** A plot with its title, its value, a legend to switch lines off by, and a way to see it alone. @module */

import { button, element, svg } from "../page.js";
import { Plot } from "./plot.js";

/** @typedef {import("./frame.js").Frame} Frame */
/** @typedef {import("./plot.js").Line} Line */

export class Panel {
  #value = element("b", "panel-value");
  #legend = element("ul", "legend");
  #full = button("icon panel-full");
  #told = 0;

  /** @param {Frame} frame @param {string} name @param {(value: number) => string} form @param {{ floor?: number, legend?: boolean, axis?: (value: number) => string }} [options] */
  constructor(frame, name, form, options = {}) {
    this.plot = new Plot(frame, name, form, options);
    this.title = element("h3", "", name);
    this.extra = element("span", "panel-extra");
    const glass = svg("svg", { viewBox: "0 0 24 24", "aria-hidden": "true" });
    glass.append(svg("path", { d: "M14 4h6v6M20 4l-7 7M10 20H4v-6M4 20l7-7" }));
    this.#full.append(glass);
    this.#full.addEventListener("click", () => this.alone(!this.isAlone));
    this.element = element("section", "panel card", element("header", "", this.title, this.#value, this.extra, this.#full), this.plot.box);
    if (options.legend) this.element.append(this.#legend);
    this.name = name;
    this.alone(false);
    frame.on(() => (this.#told = 0));
  }

  /** @param {Line[]} lines */
  show(lines) {
    this.plot.lines = lines;
    this.#legend.replaceChildren(...lines.map((line) => element("li", "", this.#switch(line))));
    this.plot.draw(Date.now(), true);
  }

  /** @param {Line} line */
  #switch(line) {
    const swatch = element("i", "swatch");
    swatch.classList.add(line.colour);
    const made = button("", swatch, element("span", "", line.name), element("b", "", "–"));
    made.title = "Click: on or off. Double click: only this one.";
    const pressed = () => {
      for (const [at, one] of this.plot.lines.entries()) {
        this.#legend.children[at].firstElementChild?.setAttribute("aria-pressed", String(!one.hidden));
      }
      this.plot.draw(Date.now(), true);
    };
    made.setAttribute("aria-pressed", String(!line.hidden));
    made.addEventListener("click", () => {
      line.hidden = !line.hidden;
      pressed();
    });
    made.addEventListener("dblclick", () => {
      const others = this.plot.lines.filter((one) => one !== line);
      const only = others.every((one) => one.hidden);
      for (const one of others) one.hidden = !only;
      line.hidden = false;
      pressed();
    });
    return made;
  }

  get isAlone() {
    return this.element.classList.contains("alone");
  }

  /** To be seen without the others, or beside them again. @param {boolean} on */
  alone(on) {
    this.element.classList.toggle("alone", on);
    document.body.classList.toggle("panel-alone", document.querySelector(".panel.alone") !== null);
    this.#full.ariaLabel = on ? `Back to all plots from ${this.name}` : `${this.name} alone`;
    this.#full.title = on ? "Back to all plots" : "Alone";
  }

  /** @param {string} words */
  rename(words) {
    this.title.textContent = words;
    this.plot.box.ariaLabel = `${words}, over time`;
    this.name = words;
    this.alone(this.isAlone);
  }

  /** @param {number} now @param {boolean} [must] */
  draw(now, must = false) {
    this.plot.draw(now, must);
    if (!must && now - this.#told < 250) return;
    this.#told = now;
    const { lines } = this.plot;
    if (lines.length === 1 && !lines[0].bars) write(this.#value, this.plot.said(lines[0]));
    for (const [at, line] of lines.entries()) {
      const place = this.#legend.children[at]?.querySelector("b");
      if (place) write(place, line.bars ? "" : this.plot.said(line));
    }
  }
}

/** @param {Element} place @param {string} words  which are only written if they are others */
function write(place, words) {
  if (place.textContent !== words) place.textContent = words;
}
