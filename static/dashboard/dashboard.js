/**
 * The market: prices that tick, from two sources. `dash:market` is an ephemeral, conflating channel: `{"symbol":
 * "EUR-USD", "price": 1.09, "volume": 120}` with the symbol as `tag`, as often as one likes. The collection
 * `instruments` has live documents of the same, which `run.py seed --simulate` moves; what of them the log still has is
 * read as far back as one looks.
 *
 * However many ticks come, the page draws once a frame and only what has changed, and keeps a fixed number of points.
 *
 * @module
 */

import { enter } from "../account/account.js";
import { $, followConnection } from "../page.js";
import { digits, Instrument, percent, still, way, whole } from "./instrument.js";
import { Panels, RANGES } from "./panels.js";
import { Past } from "./past.js";

const RATE_OVER = 1000;
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });

class Market {
  /** @type {Map<string, Instrument>} */
  #instruments = new Map();
  /** @type {Map<Instrument, Past>} */
  #pasts = new Map();
  /** @type {Instrument | null} */
  #chosen = null;
  /** Whether it was chosen by somebody, or is only the first. */
  #picked = false;
  #panels = new Panels(() => this.#moved());
  #client;
  #paused = false;
  #ticks = 0;
  #frames = 0;
  #since = performance.now();
  #turn = 0;
  /** Whether the log has something of it. @type {(symbol: string) => boolean} */
  kept = () => false;

  /** @param {import("../waterspout.js").Waterspout} client */
  constructor(client) {
    this.#client = client;
    $("pause").addEventListener("click", () => this.pause(!this.#paused));
    document.addEventListener("keydown", (event) => this.#key(event));
    $("find").addEventListener("input", () => this.#find());
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
    if (!instrument) return;
    instrument.take(tick, Date.now());
    this.#panels.alerts.look(instrument);
  }

  /** @param {string} symbol */
  #add(symbol) {
    if (this.#instruments.size >= 500) return null; // anybody may have published anything
    const instrument = new Instrument(
      symbol,
      (chosen) => this.choose(chosen),
      (one) => {
        this.#panels.compare(one);
        this.recall();
      },
    );
    this.#instruments.set(symbol, instrument);
    const names = [...this.#instruments.keys()].sort();
    $("rows").insertBefore(instrument.row, $("rows").children[names.indexOf(symbol)] ?? null);
    $("market").hidden = false;
    $("empty").hidden = true;
    const all = names.map((name) => /** @type {Instrument} */ (this.#instruments.get(name)));
    if (!this.#picked) this.#show(all[0]);
    this.#panels.offer(all);
    this.#find();
    return instrument;
  }

  #find() {
    const text = $("find").value.trim().toLowerCase();
    for (const { symbol, row } of this.#instruments.values()) row.hidden = !symbol.toLowerCase().includes(text);
    const none = text !== "" && [...this.#instruments.values()].every(({ row }) => row.hidden);
    $("none").hidden = !none;
  }

  /** @param {Instrument} instrument */
  choose(instrument) {
    this.#picked = true;
    this.#show(instrument);
    this.recall();
  }

  /** @param {Instrument} instrument */
  #show(instrument) {
    this.#chosen?.button.removeAttribute("aria-current");
    this.#chosen?.row.classList.remove("chosen");
    this.#chosen = instrument;
    instrument.button.setAttribute("aria-current", "true");
    instrument.row.classList.add("chosen");
    instrument.changed = true;
    this.#panels.choose(instrument);
    $("chosen").textContent = instrument.symbol;
    if (!this.#panels.frame.live) this.#tell(instrument);
  }

  // --- the past -----------------------------------------------------------------------------------------------------

  /** As far back as is looked at, of what is looked at. */
  recall() {
    const [from] = this.#panels.frame.window(Date.now());
    for (const instrument of this.#panels.wanted) {
      if (!this.kept(instrument.symbol)) continue;
      let past = this.#pasts.get(instrument);
      if (!past) this.#pasts.set(instrument, (past = new Past(this.#client, instrument)));
      void past.reach(from, () => {
        this.#panels.redraw();
        this.#tellPast();
      });
    }
    this.#tellPast();
  }

  #tellPast() {
    const past = this.#chosen && this.#pasts.get(this.#chosen);
    const [from] = this.#panels.frame.window(Date.now());
    const short = past?.ended && past.reached > from + 2000 && Number.isFinite(past.reached);
    $("past").textContent = short ? `The log of ${this.#chosen?.symbol} begins at ${clock.format(past.reached)}.` : "";
  }

  /** Another time is looked at, or another moment in it. */
  #moved() {
    const { frame } = this.#panels;
    this.#tellPause(!frame.live);
    this.recall();
  }

  /** @param {boolean} paused */
  pause(paused) {
    if (paused) this.#panels.frame.hold();
    else this.#panels.frame.follow();
  }

  /** @param {boolean} paused */
  #tellPause(paused) {
    if (paused === this.#paused) return;
    this.#paused = paused;
    $("pause").ariaPressed = String(paused);
    $("pause").textContent = paused ? "Go on" : "Pause";
    document.body.classList.toggle("paused", paused);
  }

  // --- the keyboard -------------------------------------------------------------------------------------------------

  /** @param {KeyboardEvent} event */
  #key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey || $("keys").open) return;
    const typing = event.target instanceof HTMLInputElement;
    if (event.key === "Escape") {
      if (typing) event.target.blur();
      else if (!this.#panels.together() && this.#paused) this.pause(false);
      return;
    }
    if (typing) return;
    const ofButton = event.target instanceof HTMLButtonElement && event.target !== this.#chosen?.button;
    const range = [...RANGES.keys()][Number(event.key) - 1];
    if (event.key === " " && !ofButton) this.pause(!this.#paused);
    else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      if (!this.#step(event.key === "ArrowDown" ? 1 : -1)) return;
    } else if (range !== undefined && event.key !== " ") this.#panels.frame.follow(range);
    else if (event.key === "f") this.#panels.alone();
    else if (event.key === "a") $("alert").focus();
    else if (event.key === "/") $("find").focus();
    else if (event.key === "?") $("keys").showModal();
    else return;
    event.preventDefault();
  }

  /** @param {number} by */
  #step(by) {
    const all = [...$("rows").children].filter((row) => !row.hidden);
    const next = all[all.indexOf(this.#chosen?.row) + by];
    next?.querySelector(".symbol").focus();
    next?.querySelector(".symbol").click();
    return next !== undefined;
  }

  // --- drawing ------------------------------------------------------------------------------------------------------

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
    const time = Date.now();
    if (this.#chosen?.changed) this.#tell(this.#chosen);
    this.#panels.draw(time);
    for (const instrument of this.#instruments.values()) instrument.draw();
    // Small plots move by less than a pixel a frame: a few of them at a time are enough.
    const all = [...this.#instruments.values()];
    const some = still.matches ? all.length : Math.ceil(all.length / 24);
    for (let count = 0; count < some; count++) all[this.#turn++ % all.length].drawPlot(time);
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
    this.#panels.note((1000 * this.#ticks) / span);
    this.#ticks = this.#frames = 0;
    this.#since = now;
  }
}

const client = (await enter()).client();
followConnection(client);
const market = new Market(client);

const ticks = client.channel("dash:market");
ticks.on("message", ({ data }) => market.take(data?.symbol, data));
ticks.subscribe();

const copy = client.watch("instruments", undefined, { conflate: 0.1 });
copy.on("reset", () => {
  for (const [id, document] of copy.documents) market.take(id, document);
});
copy.on("ready", () => market.recall());
market.kept = (symbol) => copy.documents.has(symbol);
copy.on("change", ({ id, document }) => market.take(id, document));
$("help").addEventListener("click", () => $("keys").showModal());
