// One chart: uPlot keeps the axes, the scales and the zoom; the lines, points and bands are drawn here, since each run has
// steps of its own.

import uPlot from "/uplot/uPlot.esm.js";
import { announce, drawn, element, scrolling } from "./element.js";
import { count, number, short } from "./format.js";
import { nearest } from "./statistics.js";
import { colour, onTheme } from "./theme.js";

const MOST_IN_TIP = 9;
const WHOLE = Array.from({ length: 40 }, (_, k) => [1, 2, 5][k % 3] * 10 ** Math.floor(k / 3)); // between two ticks of steps

/** A sample of how a line is drawn, for legends. */
export function sample(style, width = 3) {
  const line = drawn("line", { x1: 1, x2: 33, y1: 6, y2: 6, "stroke-width": width, "stroke-dasharray": style.dash.join(" ") });
  line.style.stroke = `var(--${style.colour})`;
  return drawn("svg", { class: "sample", width: 34, height: 12, "aria-hidden": "true" }, line);
}

/**
 * A chart in a card.
 *
 * options.title, options.note; options.onZoom({low, high} or null), options.onPick({step, value}) for a click or Enter
 * Lines are given to `show`: {name, steps, values, style, width, alpha, dots, band: {low, high}, told: whether the tip
 * lists it}.
 */
export class Chart {
  #lines = [];
  #log = false;
  #zoom = null;
  #plot = null;
  #at = null;
  #leave = [];
  #pending = 0;

  constructor(options) {
    this.options = options;
    this.tip = element("div", { class: "tip", hidden: true });
    this.area = element("div", {
      class: "plot", tabindex: 0, role: "group", "aria-roledescription": "chart", "aria-label": options.title,
      onkeydown: (event) => this.#key(event), onblur: () => this.#point(null),
    }, this.tip);
    this.note = element("p", { class: "note" });
    this.logButton = element("button", {
      type: "button", "aria-pressed": "false", "aria-label": `log axis of ${options.title}`, title: "Logarithmic axis", onclick: () => this.#toggleLog(),
    }, "log");
    this.resetButton = element("button", { type: "button", hidden: true, onclick: () => options.onZoom?.(null) }, "Reset zoom");
    this.table = element("details", { class: "small" }, element("summary", {}, "Values as a table"));
    this.table.addEventListener("toggle", () => this.#fillTable());
    this.card = element("section", { class: "card chart", "aria-label": options.title },
      element("header", {}, element("h2", {}, options.title), this.resetButton, this.logButton), this.area, this.note, this.table);
    const observer = new ResizeObserver(() => this.#resize());
    observer.observe(this.area);
    this.#leave.push(() => observer.disconnect(), onTheme(() => this.#build()));
  }

  /** Show these lines, the x-axis over [low, high] if it is zoomed. */
  show(lines, zoom = this.#zoom) {
    this.#lines = lines.filter((line) => line.steps.length);
    this.#zoom = zoom;
    this.resetButton.hidden = zoom === null;
    if (!this.#plot) this.#build();
    else if (!this.#pending) {
      this.#pending = requestAnimationFrame(() => {
        this.#pending = 0;
        this.#plot?.setData(this.#extent());
        if (this.table.open) this.#fillTable();
      });
    }
    this.area.setAttribute("aria-label", `${this.options.title}. ${this.#said()} Arrow keys move over the steps, plus and minus zoom.`);
  }

  setNote(text) {
    if (this.note.textContent !== text) this.note.textContent = text;
  }

  /** Draw again what is marked. */
  redraw() {
    this.#plot?.redraw(false, false);
  }

  leave() {
    cancelAnimationFrame(this.#pending);
    this.#leave.forEach((call) => call());
    this.#plot?.destroy();
    this.#plot = null;
  }

  #said() {
    const told = this.#lines.filter((line) => line.told !== false).sort((a, b) => (a.rank ?? 1) - (b.rank ?? 1));
    if (!told.length) return "Nothing to show yet.";
    return told.slice(0, 5).map((line) => `${line.name}: ${number(line.values.at(-1))} at step ${count(line.steps.at(-1))}.`).join(" ");
  }

  /** What uPlot is given as data: the ends of the x-axis, since it draws none of the lines. */
  #extent() {
    if (this.#zoom) return [[this.#zoom.low, this.#zoom.high], [null, null]];
    let low = 0, high = 1;
    for (const line of this.#lines) {
      low = Math.min(low, line.steps[0]);
      high = Math.max(high, line.steps.at(-1));
    }
    return [[low, high], [null, null]];
  }

  #heights() {
    const [[left, right]] = this.#extent();
    let low = Infinity, high = -Infinity, above = Infinity;
    for (const line of this.#lines) {
      const band = line.band;
      for (let i = 0; i < line.steps.length; i++) {
        if (line.steps[i] < left || line.steps[i] > right) continue;
        const least = band ? Math.min(band.low[i], line.values[i]) : line.values[i];
        const most = band ? Math.max(band.high[i], line.values[i]) : line.values[i];
        if (least < low) low = least;
        if (most > high) high = most;
        if (least > 0 && least < above) above = least;
      }
    }
    return low <= high ? { low, high, above } : { low: 0, high: 1, above: 1 };
  }

  #range() {
    const { low, high, above } = this.#heights();
    if (this.#isLogarithmic()) return [10 ** Math.floor(Math.log10(above)), 10 ** Math.ceil(Math.log10(high * 1.0001))];
    if (low === high) return low === 0 ? [0, 1] : [Math.min(0, low * 1.1), Math.max(0, high * 1.1)];
    const space = (high - low) * 0.06;
    return [low >= 0 && low - space < 0 ? 0 : low - space, high + space];
  }

  #isLogarithmic() {
    return this.#log && this.#heights().low > 0;
  }

  #toggleLog() {
    this.#log = !this.#log;
    this.logButton.setAttribute("aria-pressed", String(this.#log));
    this.#build();
  }

  #build() {
    this.#plot?.destroy();
    const width = this.area.clientWidth - 12;
    if (width < 50) { this.#plot = null; return; }
    // A value at or below 0 has no logarithm: then the axis is linear near 0 and logarithmic beyond (asinh).
    const distribution = this.#log ? (this.#isLogarithmic() ? 3 : 4) : 1;
    const axis = { stroke: colour("quiet"), grid: { stroke: colour("grid"), width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif" };
    this.#plot = new uPlot({
      width, height: this.options.height ?? 240, legend: { show: false }, padding: [12, 22, 0, 0],
      scales: { x: { time: false, range: (u, low, high) => [low, high > low ? high : low + 1] }, y: { distr: distribution, range: () => this.#range() } },
      axes: [
        { ...axis, size: 30, space: 70, incrs: WHOLE, values: (u, values) => values.map((value) => (value === null ? "" : short(value))) },
        { ...axis, size: 56, values: (u, values) => values.map((value) => (value === null ? "" : short(value))) },
      ],
      series: [{}, { show: false }],
      cursor: { drag: { x: Boolean(this.options.onZoom), y: false, setScale: false }, points: { show: false }, y: false },
      hooks: {
        draw: [(u) => this.#paint(u)],
        setCursor: [(u) => this.#point(u.cursor.left >= 0 ? u.posToVal(u.cursor.left, "x") : null, false)],
        setSelect: [(u) => this.#select(u)],
      },
    }, this.#extent(), this.area);
    if (this.options.onPick) {
      this.#plot.over.addEventListener("click", (event) => {
        const box = this.#plot.over.getBoundingClientRect();
        this.#pick(event.clientX - box.left, event.clientY - box.top);
      });
      this.#plot.over.style.cursor = "pointer";
    }
    this.#plot.over.addEventListener("dblclick", () => this.options.onZoom?.(null));
  }

  #resize() {
    const width = this.area.clientWidth - 12;
    if (!this.#plot) this.#build();
    else if (Math.abs(this.#plot.width - width) > 1 && width > 50) this.#plot.setSize({ width, height: this.options.height ?? 240 });
  }

  #paint(u) {
    const { ctx, bbox } = u, ratio = devicePixelRatio;
    const scale = u.scales.x;
    const px = (step) => bbox.left + ((step - scale.min) / (scale.max - scale.min)) * bbox.width;
    const py = (value) => u.valToPos(u.scales.y.distr === 3 ? Math.max(value, u.scales.y.min) : value, "y", true);
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    ctx.lineJoin = "round";
    for (const line of this.#lines) {
      ctx.strokeStyle = ctx.fillStyle = colour(line.style.colour);
      if (line.band) {
        ctx.globalAlpha = 0.16;
        ctx.beginPath();
        line.steps.forEach((step, i) => ctx[i ? "lineTo" : "moveTo"](px(step), py(line.band.high[i])));
        for (let i = line.steps.length - 1; i >= 0; i--) ctx.lineTo(px(line.steps[i]), py(line.band.low[i]));
        ctx.fill();
      }
      ctx.globalAlpha = line.alpha ?? 1;
      if (line.dots) {
        const size = (line.size ?? 2) * ratio;
        for (let i = 0; i < line.steps.length; i++) {
          const x = px(line.steps[i]), y = py(line.values[i]);
          if (line.shape === "square") ctx.fillRect(x - size, y - size, 2 * size, 2 * size);
          else { ctx.beginPath(); ctx.arc(x, y, size, 0, 7); ctx.fill(); }
        }
      }
      if (line.width) {
        ctx.lineWidth = line.width * ratio;
        ctx.setLineDash(line.style.dash.map((each) => each * ratio));
        ctx.beginPath();
        line.steps.forEach((step, i) => ctx[i ? "lineTo" : "moveTo"](px(step), py(line.values[i])));
        ctx.stroke();
        ctx.setLineDash([]);
        if (line.steps.length === 1) { ctx.beginPath(); ctx.arc(px(line.steps[0]), py(line.values[0]), 3 * ratio, 0, 7); ctx.fill(); }
      }
    }
    ctx.globalAlpha = 1;
    if (this.#at !== null) {
      for (const { line, i } of this.#near(this.#at).slice(0, MOST_IN_TIP)) {
        ctx.fillStyle = colour(line.style.colour);
        ctx.beginPath();
        ctx.arc(px(line.steps[i]), py(line.values[i]), 4 * ratio, 0, 7);
        ctx.fill();
      }
    }
    for (const mark of this.options.marks?.() ?? []) {
      ctx.strokeStyle = colour("accent");
      ctx.lineWidth = 1.5 * ratio;
      ctx.setLineDash([4 * ratio, 4 * ratio]);
      ctx.beginPath();
      ctx.moveTo(px(mark), bbox.top);
      ctx.lineTo(px(mark), bbox.top + bbox.height);
      ctx.stroke();
      ctx.setLineDash([]);
    }
    ctx.restore();
    if (!this.#lines.length) {
      ctx.save();
      ctx.fillStyle = colour("quiet");
      ctx.font = `${13 * ratio}px system-ui, sans-serif`;
      ctx.textAlign = "center";
      ctx.fillText("Nothing to show yet", bbox.left + bbox.width / 2, bbox.top + bbox.height / 2);
      ctx.restore();
    }
  }

  /** Each line's value nearest to a step: means before single runs, the highest first. */
  #near(step) {
    return this.#lines.filter((line) => line.told !== false)
      .map((line) => ({ line, i: nearest(line.steps, step) }))
      .sort((a, b) => (a.line.rank ?? 1) - (b.line.rank ?? 1) || b.line.values[b.i] - a.line.values[a.i]);
  }

  /** Point at a step: the tip lists what each line has there. */
  #point(step, aloud = true) {
    const was = this.#at;
    this.#at = step !== null && this.#lines.length ? step : null;
    if (this.#at === null) {
      this.tip.hidden = true;
      if (was !== null) this.#plot?.redraw(false, false);
      return;
    }
    const near = this.#near(step);
    const rows = near.slice(0, MOST_IN_TIP).map(({ line, i }) => element("div", {},
      sample(line.style, line.width || 3), element("span", { class: "key" }, line.name), element("b", {}, number(line.values[i]))));
    if (near.length > MOST_IN_TIP) rows.push(element("div", { class: "quiet" }, `and ${near.length - MOST_IN_TIP} more`));
    this.tip.replaceChildren(element("div", { class: "quiet" }, `step ${count(step)}`), ...rows);
    this.tip.hidden = !near.length;
    const place = this.#plot.valToPos(step, "x") + this.#plot.over.offsetLeft;
    const wide = this.tip.offsetWidth, beside = place > this.area.clientWidth / 2 ? place - wide - 16 : place + 18;
    this.tip.style.left = `${Math.max(4, Math.min(beside, this.area.clientWidth - wide - 4))}px`;
    this.#plot.redraw(false, false);
    if (aloud) announce(`Step ${count(step)}. ${near.slice(0, 5).map(({ line, i }) => `${line.name} ${number(line.values[i])}`).join(", ")}`);
  }

  #select(u) {
    if (u.select.width > 6) {
      this.options.onZoom?.({ low: Math.max(0, u.posToVal(u.select.left, "x")), high: u.posToVal(u.select.left + u.select.width, "x") });
    }
    u.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
  }

  #pick(left, top) {
    let best = null, distance = Infinity;
    for (const line of this.#lines) {
      for (let i = 0; i < line.steps.length; i++) {
        const x = this.#plot.valToPos(line.steps[i], "x") - left, y = this.#plot.valToPos(line.values[i], "y") - top;
        if (x * x + y * y < distance) {
          distance = x * x + y * y;
          best = { step: line.steps[i], value: line.values[i], line };
        }
      }
    }
    if (best) this.options.onPick(best);
  }

  #key(event) {
    if (!this.#plot || event.ctrlKey || event.metaKey || event.altKey) return;
    const { min, max } = this.#plot.scales.x;
    const pace = (max - min) / (event.shiftKey ? 10 : 60), at = this.#at ?? min;
    const zoom = (factor) => {
      const half = ((max - min) * factor) / 2;
      this.options.onZoom?.({ low: Math.max(0, at - half), high: at + half });
    };
    const actions = {
      ArrowRight: () => this.#point(Math.min(max, at + pace)),
      ArrowLeft: () => this.#point(Math.max(min, at - pace)),
      Home: () => this.#point(min),
      End: () => this.#point(max),
      "+": () => zoom(0.5),
      "-": () => zoom(2),
      Escape: () => { this.#point(null); this.options.onZoom?.(null); },
      Enter: () => {
        const near = this.#near(at)[0];
        if (near) this.options.onPick?.({ step: near.line.steps[near.i], value: near.line.values[near.i], line: near.line });
      },
    };
    if (actions[event.key]) {
      event.preventDefault();
      actions[event.key]();
    }
  }

  /** The same as numbers, at a dozen steps, for whoever cannot see a chart. */
  #fillTable() {
    this.table.querySelector("div")?.remove();
    if (!this.table.open) return;
    const told = this.#lines.filter((line) => line.told !== false).slice(0, 24), [[low, high]] = this.#extent();
    const steps = Array.from({ length: 11 }, (_, k) => low + ((high - low) * k) / 10);
    this.table.append(scrolling(`${this.options.title}, as a table`, element("table", {},
      element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "step"), told.map((line) => element("th", { scope: "col", class: "number" }, line.name)))),
      element("tbody", {}, steps.map((step) => element("tr", {}, element("th", { scope: "row" }, count(step)),
        told.map((line) => element("td", { class: "number" }, number(line.values[nearest(line.steps, step)])))))))));
  }
}
