/** The strokes of a plot. @module */

/** @typedef {import("./plot.js").Plot} Plot */
/** @typedef {import("./plot.js").Line} Line */
/** @typedef {(value: number) => number} Scale  pixels */

const SECOND = 1000;
const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600].map((seconds) => seconds * SECOND);
const fine = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const coarse = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });

/** The next larger 1, 2 or 5 times a power of ten. @param {number} step */
function nice(step) {
  const power = 10 ** Math.floor(Math.log10(step));
  return power * ([1, 2, 5, 10].find((factor) => factor * power >= step * 0.999) ?? 10);
}

/** Bars are so wide, in ms, and begin at whole ones. @param {Plot} plot @param {number} from @param {number} to */
function barOf(plot, from, to) {
  const wanted = ((to - from) / Math.max(1, plot.width)) * 7;
  return STEPS.find((step) => step >= wanted) ?? 3600 * SECOND;
}

/** @param {Line} line @param {number} bar @param {number} from @param {number} to @returns {Map<number, number>} */
function barsOf(line, bar, from, to) {
  /** @type {Map<number, number>} */
  const bars = new Map();
  line.series.each(from - bar, to, (time, _value, _low, _high, volume) => {
    const begin = Math.floor((time - 1) / bar) * bar;
    bars.set(begin, (bars.get(begin) ?? 0) + volume);
  });
  return bars;
}

/** Where in time and in value which pixel is, and the bars between. @param {Plot} plot @param {number} from @param {number} to */
export function scale(plot, from, to) {
  let low = plot.floor ?? Infinity;
  let high = plot.floor ?? -Infinity;
  const shown = plot.shown;
  const bar = barOf(plot, from, to);
  /** @type {Map<Line, Map<number, number>>} */
  const bars = new Map();
  for (const line of shown) {
    const of = line.of ?? ((/** @type {number} */ value) => value);
    if (line.bars) {
      const tall = barsOf(line, bar, from, to);
      bars.set(line, tall);
      high = Math.max(high, ...tall.values());
      low = Math.min(low, 0);
    } else {
      line.series.each(from, to, (_time, _value, least, most) => {
        low = Math.min(low, of(least));
        high = Math.max(high, of(most));
      });
    }
  }
  if (!Number.isFinite(low) || !Number.isFinite(high)) [low, high] = [0, 1];
  if (low === high) [low, high] = plot.floor === low ? [low, low + 1] : [low - (Math.abs(low) * 0.001 || 1), high + (Math.abs(high) * 0.001 || 1)];
  const room = (high - low) * 0.08;
  high += room;
  if (plot.floor === undefined || low < plot.floor) low -= shown.every((line) => line.bars) ? 0 : room;
  const of = shown.map((line) => line.series);
  const same = plot.range !== null && Array.isArray(plot.range.of) && plot.range.of.every((one, at) => one === of[at]);
  // Wider at once, so that nothing is cut off; narrower gently.
  const before = plot.frame.live && same ? plot.range : null;
  plot.range = {
    low: before ? Math.min(low, before.low + (low - before.low) / 4) : low,
    high: before ? Math.max(high, before.high + (high - before.high) / 4) : high,
    of,
  };
  const range = plot.range;
  const widest = Math.max(...marks(plot).map((value) => plot.context.measureText(plot.axis(value)).width));
  plot.area.left = Math.ceil(Math.min(plot.width / 3, Math.max(24, widest + 10)));
  plot.area.right = plot.width - 6;
  const { left, right, top, bottom } = plot.area;
  return {
    x: (/** @type {number} */ time) => left + ((right - left) * (time - from)) / (to - from),
    y: (/** @type {number} */ value) => bottom - ((bottom - top) * (value - range.low)) / (range.high - range.low),
    bar,
    bars,
  };
}

/** Values that have a line. @param {Plot} plot */
function marks(plot) {
  const { low, high } = /** @type {{low: number, high: number}} */ (plot.range);
  const step = nice((high - low) / Math.max(2, Math.floor((plot.area.bottom - plot.area.top) / 38)));
  const found = [];
  for (let at = Math.ceil(low / step); at * step <= high; at++) found.push(at * step);
  return found.length ? found : [low];
}

/** @param {Plot} plot @param {number} from @param {number} to @param {Scale} x @param {Scale} y */
export function drawAxes(plot, from, to, x, y) {
  const { context, colours, area } = plot;
  context.lineWidth = 1;
  context.strokeStyle = colours.line;
  context.fillStyle = colours.muted;
  context.textBaseline = "middle";
  context.textAlign = "right";
  context.beginPath();
  for (const value of marks(plot)) {
    const at = Math.round(y(value)) + 0.5;
    context.moveTo(area.left, at);
    context.lineTo(area.right, at);
    if (at > 5) context.fillText(plot.axis(value), area.left - 7, at);
  }
  const most = Math.max(1, Math.floor((area.right - area.left) / 84));
  const step = STEPS.find((one) => (to - from) / one <= most) ?? 3600 * SECOND;
  const clock = step < 60 * SECOND ? fine : coarse;
  context.textAlign = "center";
  const half = context.measureText(clock.format(from)).width / 2;
  for (let time = Math.ceil(from / step) * step; time <= to; time += step) {
    const at = Math.round(x(time)) + 0.5;
    context.moveTo(at, area.bottom);
    context.lineTo(at, area.bottom + 4);
    if (at - half >= 0 && at + half <= plot.width) context.fillText(clock.format(time), at, area.bottom + 14);
  }
  context.stroke();
}

/** @param {Plot} plot @param {Line} line @param {number} from @param {number} to @param {Scale} x @param {Scale} y @param {boolean} alone */
export function drawLine(plot, line, from, to, x, y, alone) {
  const { context, colours, area } = plot;
  const of = line.of ?? ((/** @type {number} */ value) => value);
  /** @type {[number, number, number, number][]} */
  const points = [];
  line.series.each(from, to, (time, value, low, high) => points.push([x(time), y(of(value)), y(of(low)), y(of(high))]));
  const last = points.at(-1);
  if (!last) return;
  const end = x(Math.min(to, Date.now()));
  if (last[0] < end) points.push([end, last[1], last[1], last[1]]); // it is still so
  context.strokeStyle = context.fillStyle = colours[line.colour];
  if (alone) {
    // Between the lowest and the highest of a slot, and down to the axis.
    context.globalAlpha = 0.22;
    context.beginPath();
    for (const [at, , , high] of points) context.lineTo(at, high);
    for (const [at, , low] of points.toReversed()) context.lineTo(at, low);
    context.fill();
    const fade = context.createLinearGradient(0, area.top, 0, area.bottom);
    fade.addColorStop(0, colours[line.colour]);
    fade.addColorStop(1, "transparent");
    context.fillStyle = fade;
    context.globalAlpha = 0.16;
    context.beginPath();
    for (const [at, value] of points) context.lineTo(at, value);
    context.lineTo(end, area.bottom);
    context.lineTo(points[0][0], area.bottom);
    context.fill();
    context.globalAlpha = 1;
  }
  context.beginPath();
  for (const [at, value] of points) context.lineTo(at, value);
  context.lineWidth = alone ? 1.8 : 1.5;
  context.lineJoin = "round";
  context.stroke();
}

/** @param {Plot} plot @param {Line} line @param {Map<number, number>} bars @param {number} bar  how wide they are, in ms @param {Scale} x @param {Scale} y */
export function drawBars(plot, line, bars, bar, x, y) {
  const { context, colours, area } = plot;
  context.fillStyle = colours[line.colour];
  context.globalAlpha = 0.75;
  for (const [begin, tall] of bars) {
    const wide = Math.max(1, x(begin + bar) - x(begin) - 1.5);
    if (tall) context.fillRect(x(begin) + 0.75, y(tall), wide, Math.max(0, area.bottom - y(tall)));
  }
  context.globalAlpha = 1;
}

/** A dashed line where it can be seen, else an arrow to where it is. @param {Plot} plot @param {Scale} y */
export function drawLimits(plot, y) {
  const { context, colours, area } = plot;
  for (const { value, words } of plot.limits) {
    const at = y(value);
    const there = at >= area.top && at <= area.bottom;
    const text = there ? words : `${at < area.top ? "↑" : "↓"} ${words}`;
    context.strokeStyle = context.fillStyle = colours.bad;
    if (there) {
      context.setLineDash([5, 4]);
      context.lineWidth = 1.2;
      context.beginPath();
      context.moveTo(area.left, Math.round(at) + 0.5);
      context.lineTo(area.right, Math.round(at) + 0.5);
      context.stroke();
      context.setLineDash([]);
    }
    context.textAlign = "right";
    context.fillText(text, area.right - 4, Math.min(area.bottom - 10, Math.max(area.top + 6, at - 9)));
  }
}

/** @param {Plot} plot @param {[number, number]} brush @param {Scale} x */
export function drawBrush(plot, [begin, end], x) {
  const { context, colours, area } = plot;
  context.fillStyle = colours.accent;
  context.globalAlpha = 0.18;
  context.fillRect(x(begin), area.top, x(end) - x(begin), area.bottom - area.top);
  context.globalAlpha = 1;
}

/** @param {Plot} plot @param {number} cursor @param {number} from @param {Scale} x @param {Scale} y */
export function drawCursor(plot, cursor, from, x, y) {
  const { context, colours, area } = plot;
  const at = Math.round(x(cursor)) + 0.5;
  if (at < area.left || at > area.right + 1) return;
  context.strokeStyle = colours.muted;
  context.lineWidth = 1;
  context.setLineDash([3, 3]);
  context.beginPath();
  context.moveTo(at, area.top);
  context.lineTo(at, area.bottom);
  context.stroke();
  context.setLineDash([]);
  for (const line of plot.shown) {
    const value = line.bars ? null : plot.value(line, cursor, from);
    if (value === null) continue;
    context.beginPath();
    context.arc(at, y(value), 3.5, 0, 7);
    context.fillStyle = colours[line.colour];
    context.fill();
    context.strokeStyle = colours.surface;
    context.stroke();
  }
}
