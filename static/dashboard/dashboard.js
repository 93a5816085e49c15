/**
 * The market: prices that tick, from two sources. `dash:market` is an ephemeral, conflating channel: `{"symbol":
 * "EUR-USD", "price": 1.09, "volume": 120}` with the symbol as `tag`, as often as one likes. The collection
 * `instruments` has live documents of the same, which `run.py seed --simulate` moves.
 *
 * However many ticks come, the page draws once a frame and only what has changed, and keeps a fixed number of points.
 *
 * @module
 */

import { enter } from "../account/account.js";
import { $, element, followConnection } from "../page.js";
import { Plot, Spark } from "./plot.js";
import { Series } from "./series.js";

const RATE_OVER = 1000;

const digits = new Intl.NumberFormat(undefined, { minimumSignificantDigits: 6, maximumSignificantDigits: 6 });
const percent = new Intl.NumberFormat(undefined, {
  style: "percent",
  minimumFractionDigits: 2,
  maximumFractionDigits: 2,
  signDisplay: "exceptZero",
});
const whole = new Intl.NumberFormat(undefined, { maximumFractionDigits: 0 });
const still = matchMedia("(prefers-reduced-motion: reduce)");

/** One instrument: its figures and its row in the list. */
class Instrument {
  price = NaN;
  open = NaN;
  low = Infinity;
  high = -Infinity;
  volume = 0;
  series = new Series();
  changed = true;
  #drawn = NaN;
  #price = element("td", "number price");
  #change = element("td", "number change");
  #volume = element("td", "number wide");
  #spark;

  /** @param {string} symbol @param {(instrument: Instrument) => void} choose */
  constructor(symbol, choose) {
    this.symbol = symbol;
    this.button = element("button", "symbol", symbol);
    this.button.type = "button";
    this.button.addEventListener("click", () => choose(this));
    const canvas = element("canvas", "spark");
    canvas.ariaHidden = "true";
    this.#spark = new Spark(canvas, this.series);
    const name = element("th", "", this.button);
    name.scope = "row";
    this.row = element("tr", "", name, this.#price, this.#change, this.#volume, element("td", "", canvas));
    this.row.addEventListener("click", () => choose(this));
  }

  /** @param {any} tick  as it came @param {number} now */
  take({ price, volume, open, low, high }, now) {
    if (!Number.isFinite(price)) return;
    const more = Number.isFinite(volume) ? Math.max(0, volume - (this.volume || volume)) : 0;
    if (Number.isNaN(this.open)) this.open = price;
    if (Number.isFinite(open) && open > 0) this.open = open;
    this.low = Math.min(this.low, price, Number.isFinite(low) ? low : price);
    this.high = Math.max(this.high, price, Number.isFinite(high) ? high : price);
    if (Number.isFinite(volume)) this.volume = volume;
    this.price = price;
    this.series.add(now, price, more);
    this.changed = true;
  }

  get change() {
    return this.price / this.open - 1;
  }

  draw() {
    if (this.changed) {
      this.changed = false;
      this.#price.textContent = digits.format(this.price);
      this.#change.textContent = percent.format(this.change);
      this.#change.dataset.way = way(this.change);
      this.#volume.textContent = whole.format(this.volume);
      if (!still.matches && this.price !== this.#drawn && !Number.isNaN(this.#drawn)) {
        // Two names of one animation, in turns: a changed name starts it anew, and the layout is left alone.
        const kind = this.price > this.#drawn ? "up" : "down";
        this.#price.className = `number price ${kind}${this.#price.classList.contains(`${kind}-1`) ? "-2" : "-1"}`;
      }
      this.#drawn = this.price;
    }
  }

  /** @param {number} now */
  drawPlot(now) {
    this.#spark.draw(now);
  }
}

/** @param {number} change */
const way = (change) => (Math.abs(change) < 0.00005 ? "" : change > 0 ? "up" : "down");

class Market {
  /** @type {Map<string, Instrument>} */
  #instruments = new Map();
  /** @type {Instrument | null} */
  #chosen = null;
  /** Whether it was chosen by somebody, or is only the first. */
  #picked = false;
  #plot = new Plot($("plot"));
  #paused = false;
  #ticks = 0;
  #frames = 0;
  #since = performance.now();
  #turn = 0;

  constructor() {
    $("pause").addEventListener("click", () => this.pause(!this.#paused));
    document.addEventListener("keydown", (event) => this.#key(event));
    $("empty").hidden = true;
    setTimeout(() => ($("empty").hidden = this.#instruments.size > 0), 1500);
    if (still.matches) setInterval(() => this.#draw(performance.now()), 1000);
    else requestAnimationFrame((now) => this.#frame(now));
  }

  /** @param {any} symbol @param {any} tick */
  take(symbol, tick) {
    if (typeof symbol !== "string" || !tick || !Number.isFinite(tick.price)) return;
    this.#ticks++;
    const instrument = this.#instruments.get(symbol) ?? this.#add(symbol);
    instrument?.take(tick, performance.now());
  }

  /** Something of the past. @param {string} symbol @param {number} price @param {number} volume @param {number} when */
  remember(symbol, price, volume, when) {
    if (Number.isFinite(price) && Number.isFinite(when))
      this.#instruments.get(symbol)?.series.add(when, price, volume || 0);
  }

  /** @param {string} symbol */
  #add(symbol) {
    if (this.#instruments.size >= 500) return null; // anybody may have published anything
    const instrument = new Instrument(symbol, (chosen) => this.choose(chosen));
    this.#instruments.set(symbol, instrument);
    const after = [...this.#instruments.keys()].sort().indexOf(symbol);
    $("rows").insertBefore(instrument.row, $("rows").children[after] ?? null);
    $("market").hidden = false;
    $("empty").hidden = true;
    if (!this.#picked) this.#show(this.#instruments.get([...this.#instruments.keys()].sort()[0]) ?? instrument);
    return instrument;
  }

  /** @param {Instrument} instrument */
  choose(instrument) {
    this.#picked = true;
    this.#show(instrument);
  }

  /** @param {Instrument} instrument */
  #show(instrument) {
    this.#chosen?.button.removeAttribute("aria-current");
    this.#chosen?.row.classList.remove("chosen");
    this.#chosen = instrument;
    instrument.button.setAttribute("aria-current", "true");
    instrument.row.classList.add("chosen");
    instrument.changed = true;
    this.#plot.series = instrument.series;
    $("chosen").textContent = instrument.symbol;
    $("plot").ariaLabel = `${instrument.symbol}, the price over the last two minutes`;
    if (this.#paused) this.#draw(performance.now());
  }

  /** @param {boolean} paused */
  pause(paused) {
    this.#paused = paused;
    $("pause").ariaPressed = String(paused);
    $("pause").textContent = paused ? "Go on" : "Pause";
    document.body.classList.toggle("paused", paused);
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const ofButton = event.target instanceof HTMLButtonElement && event.target !== this.#chosen?.button;
    if (event.key === " " && !ofButton) {
      event.preventDefault();
      this.pause(!this.#paused);
    } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      const all = [...$("rows").children];
      const at = all.indexOf(this.#chosen?.row) + (event.key === "ArrowDown" ? 1 : -1);
      if (!all[at]) return;
      event.preventDefault();
      all[at].querySelector("button").focus();
      all[at].querySelector("button").click();
    }
  }

  /** @param {number} now */
  #frame(now) {
    this.#frames++;
    this.#draw(now);
    requestAnimationFrame((next) => this.#frame(next));
  }

  /** @param {number} now */
  #draw(now) {
    this.#tellRates(now);
    if (this.#paused) return;
    const chosen = this.#chosen;
    if (chosen) {
      if (chosen.changed) this.#tell(chosen);
      this.#plot.draw(now);
    }
    for (const instrument of this.#instruments.values()) instrument.draw();
    // Small plots move by less than a pixel a frame: a few of them at a time are enough.
    const all = [...this.#instruments.values()];
    const some = still.matches ? all.length : Math.ceil(all.length / 12);
    for (let count = 0; count < some; count++) all[this.#turn++ % all.length].drawPlot(now);
  }

  /** @param {Instrument} instrument */
  #tell(instrument) {
    $("price").textContent = digits.format(instrument.price);
    $("change").textContent = percent.format(instrument.change);
    $("change").dataset.way = way(instrument.change);
    $("low").textContent = digits.format(instrument.low);
    $("high").textContent = digits.format(instrument.high);
    $("volume").textContent = whole.format(instrument.volume);
  }

  /** @param {number} now */
  #tellRates(now) {
    const span = now - this.#since;
    if (span < RATE_OVER) return;
    const rate = (/** @type {number} */ count) => whole.format((1000 * count) / span);
    const frames = still.matches ? "" : `, ${rate(this.#frames)} frames a second`;
    $("rates").textContent = `${rate(this.#ticks)} updates a second received${frames}`;
    this.#ticks = this.#frames = 0;
    this.#since = now;
  }
}

const client = (await enter()).client();
followConnection(client);
const market = new Market();

const ticks = client.channel("dash:market");
ticks.on("message", ({ data }) => market.take(data?.symbol, data));
ticks.subscribe();

/** What was traded in the last two minutes, so that a plot does not begin empty. */
async function recallTrades() {
  const { documents } = await client.collection("trades").find({ sort: "-time", limit: 500 });
  const [clock, now] = [Date.now(), performance.now()];
  for (const { instrument, price, quantity, time } of documents.reverse()) {
    market.remember(instrument, price, quantity, now - Math.max(0, clock - time));
  }
}

const copy = client.watch("instruments", undefined, { conflate: 0.1 });
copy.on("reset", () => {
  for (const [id, document] of copy.documents) market.take(id, document);
});
copy.on("ready", () => void recallTrades().catch(() => {})); // without them it only begins empty
copy.on("change", ({ id, document }) => market.take(id, document));
