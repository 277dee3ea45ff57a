// An episode that a saved policy played: pictures, Q-values, distribution and chosen action, all moved by one scrubber.

import { Chart } from "./chart.js";
import { announce, drawn, element } from "./element.js";
import { count, number } from "./format.js";
import { ask, post } from "./store.js";
import { colour, onTheme, styleOf } from "./theme.js";

const SPEEDS = [0.25, 0.5, 1, 2, 4], PER_SECOND = 30;

export class Player {
  #shown = null;
  #pictures = [];
  #at = 0;
  #timer = null;
  #isOver = false;
  #turn = 0;
  #drawn = 0;

  constructor() {
    this.place = element("div");
    this.screen = element("canvas", { role: "img", "aria-label": "The environment" });
    this.picture = element("div", { class: "card picture" });
    this.bars = element("div", { class: "bars" });
    this.distribution = element("div");
    this.facts = element("dl", { class: "facts" });
    this.scrubber = element("input", { type: "range", min: 0, max: 0, value: 0, "aria-label": "Step of the episode", oninput: () => { this.#pause(); this.#move(Number(this.scrubber.value)); } });
    this.playButton = element("button", { type: "button", class: "main", onclick: () => this.#toggle() }, "▶ Play");
    this.speed = element("select", { "aria-label": "Speed" }, SPEEDS.map((each) => element("option", { value: each, ...(each === 1 ? { selected: true } : {}) }, `${each}×`)));
    this.said = element("span", { class: "note" });
    this.chart = new Chart({ title: "Q-values over the episode", height: 220, onPick: ({ step }) => { this.#pause(); this.#move(Math.round(step)); }, marks: () => (this.#shown ? [this.#at] : []) });
    this.chart.logButton.remove();
    this.roll = element("canvas", { class: "roll", role: "img" });
    this.rollCard = element("section", { class: "card pad below", "aria-label": "Chosen action at each step" }, element("h2", {}, "Chosen action at each step"), this.roll);
    this.roll.addEventListener("click", (event) => {
      const box = this.roll.getBoundingClientRect(), label = this.#labelWidth();
      this.#pause();
      this.#move(Math.floor(((event.clientX - box.left - label) / (box.width - label)) * this.#length));
    });
    const observer = new ResizeObserver(() => this.#paintRoll());
    observer.observe(this.rollCard);
    this.endings = [() => observer.disconnect(), onTheme(() => { this.#paintRoll(); this.#move(this.#at); })];
  }

  get #length() {
    return this.#shown?.chosen.length ?? 0;
  }

  /** Have the policy of that moment play, and show it. */
  async show(run, moment, episode) {
    const turn = ++this.#turn;
    this.#pause();
    this.#forget();
    const waiting = element("p", { role: "status" }, "The policy plays…");
    this.place.replaceChildren(element("div", { class: "card empty" }, waiting));
    try {
      const { episode: id } = await post("/api/episodes", { run, moment, episode });
      let answer = await ask(`/api/episodes/${id}`);
      while (answer.state === "playing") {
        await new Promise((resolve) => setTimeout(resolve, 250));
        if (turn !== this.#turn || this.#isOver) return;
        answer = await ask(`/api/episodes/${id}`);
        if (answer.steps) waiting.textContent = `The policy plays: ${count(answer.steps)} steps so far…`;
      }
      if (answer.state === "failed") throw new Error(answer.problem);
      const content = answer.shown.pictures.length ? await (await fetch(`/api/episodes/${id}/pictures`)).blob() : null;
      if (turn !== this.#turn || this.#isOver) return;
      this.#take(answer.shown, content);
    } catch (error) {
      if (turn === this.#turn) this.place.replaceChildren(element("div", { class: "card empty problem", role: "alert" }, error.message));
    }
  }

  leave() {
    this.#isOver = true;
    this.#turn++;
    this.#pause();
    this.#forget();
    this.endings.forEach((call) => call());
    this.chart.leave();
  }

  #forget() {
    this.#shown = null;
    this.#pictures = [];
  }

  #take(shown, content) {
    this.#shown = shown;
    let offset = 0;
    // Slices of one Blob: a picture is decoded when it is shown, so that a long episode takes little memory.
    this.#pictures = shown.pictures.map((size) => content.slice(offset, (offset += size), "image/jpeg"));
    this.scrubber.max = this.#length - 1;
    this.#makeBars();
    this.#makeDistribution();
    const steps = shown.chosen.map((_, k) => k);
    const lines = shown.actions.slice(0, 24).map((name, a) => {
      const kept = steps.filter((k) => shown.q[k][a] !== null);
      return { name: `Q(${name})`, steps: kept, values: kept.map((k) => shown.q[k][a]), style: styleOf(a), width: 1.6 };
    });
    lines.push({ name: "return reached from here", steps, values: shown.reached, style: { colour: "text", dash: [2, 4] }, width: 1.8 });
    this.picture.replaceChildren(this.#pictures.length ? this.screen : element("p", { class: "note" }, shown.why_no_pictures));
    this.place.replaceChildren(
      element("div", { class: "stage" }, this.picture,
        element("section", { class: "card thoughts", "aria-label": "What it thinks" }, this.facts, element("h2", {}, "Q-values"), this.bars, this.distribution)),
      element("div", { class: "card transport", role: "group", "aria-label": "Playing" }, this.playButton,
        element("button", { type: "button", "aria-label": "One step back", onclick: () => { this.#pause(); this.#move(this.#at - 1); } }, "‹"),
        element("button", { type: "button", "aria-label": "One step on", onclick: () => { this.#pause(); this.#move(this.#at + 1); } }, "›"),
        this.scrubber, this.said, this.speed),
      this.chart.card, this.rollCard);
    const cut = shown.ended === "cut" ? ` Only its first ${count(this.#length)} steps are shown.` : "";
    const short = shown.ended === "terminated" ? "" : " The episode was cut off, so near its end the return reached lacks what would have followed.";
    this.chart.setNote(`Dotted: the discounted return (γ = ${shown.gamma}) that this episode reached from each step on.${short}${cut}`);
    this.chart.show(lines);
    this.#move(0);
    announce(`The episode has ${this.#length} steps and a return of ${number(shown.total)}.`);
    this.#toggle();
  }

  #toggle() {
    if (this.#timer) { this.#pause(); return; }
    if (!this.#shown) return;
    if (this.#at >= this.#length - 1) this.#move(0);
    this.playButton.textContent = "❚❚ Pause";
    let last = performance.now(), due = 0;
    const tick = (now) => {
      due += ((now - last) / 1000) * PER_SECOND * Number(this.speed.value);
      last = now;
      const steps = Math.floor(due);
      due -= steps;
      if (steps) this.#move(this.#at + steps);
      if (this.#at >= this.#length - 1) this.#pause();
      else this.#timer = requestAnimationFrame(tick);
    };
    this.#timer = requestAnimationFrame(tick);
  }

  #pause() {
    cancelAnimationFrame(this.#timer);
    this.#timer = null;
    this.playButton.textContent = "▶ Play";
  }

  /** Show one step, everywhere. */
  #move(step) {
    if (!this.#shown) return;
    const k = this.#at = Math.max(0, Math.min(this.#length - 1, step)), { q, chosen, rewards, reached, actions } = this.#shown;
    this.scrubber.value = k;
    const action = actions[chosen[k]];
    this.scrubber.setAttribute("aria-valuetext", `step ${k + 1} of ${this.#length}, ${action}, Q ${number(q[k][chosen[k]])}`);
    this.said.textContent = `step ${count(k + 1)} of ${count(this.#length)}`;
    let sum = 0;
    for (let i = 0; i <= k; i++) sum += rewards[i];
    const facts = [["Chosen", action], ["Reward", number(rewards[k])], ["Return so far", number(sum)], ["Expected, max Q", number(q[k][chosen[k]])], ["Reached from here", number(reached[k])]];
    this.facts.replaceChildren(...facts.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))));
    this.#moveBars(k);
    this.#moveDistribution(k);
    this.chart.redraw();
    this.#paintRoll();
    this.#drawPicture(k);
  }

  async #drawPicture(k) {
    const blob = this.#pictures[k], turn = ++this.#drawn;
    if (!blob) return;
    const bitmap = await createImageBitmap(blob);
    if (turn === this.#drawn) { // the scrubber may be elsewhere by now
      if (this.screen.width !== bitmap.width || this.screen.height !== bitmap.height) {
        this.screen.width = bitmap.width;
        this.screen.height = bitmap.height;
      }
      this.screen.getContext("2d").drawImage(bitmap, 0, 0);
    }
    bitmap.close();
  }

  #makeBars() {
    const values = this.#shown.q.flat().filter((value) => value !== null);
    this.low = values.reduce((a, b) => Math.min(a, b), 0);
    this.high = values.reduce((a, b) => Math.max(a, b), this.low + 1e-9);
    this.rows = this.#shown.actions.map((name, a) => {
      const fill = element("div", { class: "fill" }), zero = element("div", { class: "zero" });
      fill.style.background = `var(--${styleOf(a).colour})`;
      zero.style.left = `${(100 * (0 - this.low)) / (this.high - this.low)}%`;
      const row = { fill, label: element("span", { class: "label", title: name }), amount: element("span", { class: "amount" }), name };
      row.place = element("div", { class: "row" }, row.label, element("div", { class: "track" }, fill, zero), row.amount);
      return row;
    });
    this.bars.replaceChildren(...this.rows.map((row) => row.place));
  }

  #moveBars(k) {
    const span = this.high - this.low;
    this.rows.forEach((row, a) => {
      const value = this.#shown.q[k][a], isChosen = this.#shown.chosen[k] === a;
      row.place.classList.toggle("chosen", isChosen);
      row.label.textContent = (isChosen ? "▶ " : "") + row.name;
      row.amount.textContent = value === null ? "forbidden" : number(value);
      const from = Math.min(0, value ?? 0), to = Math.max(0, value ?? 0);
      row.fill.style.left = `${(100 * (from - this.low)) / span}%`;
      row.fill.style.width = `${(100 * (to - from)) / span}%`;
    });
  }

  #makeDistribution() {
    const about = this.#shown.distribution;
    if (!about) {
      this.distribution.replaceChildren(element("p", { class: "note" }, "This agent learns the mean of the return alone; C51, QR-DQN and IQN learn its distribution, which would be shown here."));
      return;
    }
    const bins = about.edges.length - 1, width = 480, lane = 46, names = this.#shown.actions.slice(0, 8);
    const height = lane * names.length + 22, left = 8, right = width - 8;
    this.lane = lane;
    const svg = drawn("svg", { class: "distribution", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "Distribution of the return for each action" });
    this.columns = names.map((name, a) => {
      const base = lane * (a + 1), label = drawn("text", { x: left, y: base - lane + 14 });
      svg.append(drawn("line", { x1: left, x2: right, y1: base, y2: base, stroke: "var(--line)" }));
      const columns = Array.from({ length: bins }, (_, b) => {
        const x = left + ((right - left) * b) / bins;
        const column = drawn("rect", { x, width: Math.max(1, (right - left) / bins - 0.7), y: base, height: 0 });
        column.style.fill = `var(--${styleOf(a).colour})`;
        svg.append(column);
        return column;
      });
      svg.append(label);
      return { columns, label, base, name };
    });
    const text = (x, anchor, value) => drawn("text", { x, y: height - 5, "text-anchor": anchor }, document.createTextNode(number(value)));
    svg.append(text(left, "start", about.edges[0]), text(width / 2, "middle", (about.edges[0] + about.edges[bins]) / 2), text(right, "end", about.edges[bins]));
    this.distribution.replaceChildren(element("h2", {}, "Distribution of the return"), svg, element("p", { class: "note" }, `Height: ${about.kind}, scaled to the highest of this step.`));
  }

  #moveDistribution(k) {
    const about = this.#shown.distribution;
    if (!about) return;
    // Each step has its own scale: where an episode ends, one column holds nearly all, and the others would vanish.
    const peak = about.probability[k].flat().reduce((a, b) => Math.max(a, b), 1e-9);
    this.columns.forEach(({ columns, label, base, name }, a) => {
      const isChosen = this.#shown.chosen[k] === a;
      label.textContent = (isChosen ? "▶ " : "") + name;
      columns.forEach((column, b) => {
        const height = (about.probability[k][a][b] / peak) * (this.lane - 6);
        column.setAttribute("y", base - height);
        column.setAttribute("height", height);
        column.style.opacity = isChosen ? 1 : 0.45;
      });
    });
  }

  #labelWidth() {
    return Math.min(110, this.roll.clientWidth * 0.28);
  }

  /** A row for each action, a mark wherever it was chosen: told apart by place, not by colour. */
  #paintRoll() {
    const width = this.rollCard.clientWidth - 34;
    if (!this.#shown || width < 60) return;
    const { chosen, actions } = this.#shown, rows = Math.min(actions.length, 32), lane = 20, ratio = devicePixelRatio, label = Math.min(110, width * 0.28);
    this.roll.width = width * ratio;
    this.roll.height = rows * lane * ratio;
    this.roll.style.height = `${rows * lane}px`;
    const ctx = this.roll.getContext("2d");
    ctx.scale(ratio, ratio);
    ctx.font = "12px system-ui, sans-serif";
    ctx.textBaseline = "middle";
    const step = (width - label) / chosen.length;
    for (let a = 0; a < rows; a++) {
      ctx.fillStyle = colour(chosen[this.#at] === a ? "text" : "quiet");
      ctx.fillText((chosen[this.#at] === a ? "▶ " : "") + actions[a], 0, a * lane + lane / 2, label - 8);
      ctx.fillStyle = colour("page");
      ctx.fillRect(label, a * lane + 2, width - label, lane - 4);
    }
    chosen.forEach((a, k) => {
      if (a >= rows) return;
      ctx.fillStyle = colour(styleOf(a).colour);
      ctx.fillRect(label + k * step, a * lane + 2, Math.max(0.8, step - (step > 4 ? 1 : 0)), lane - 4);
    });
    ctx.fillStyle = colour("text");
    ctx.fillRect(label + (this.#at + 0.5) * step - 1, 0, Math.max(2, step > 6 ? 2 : 1.5), rows * lane);
    this.roll.setAttribute("aria-label", `Step ${this.#at + 1}: ${actions[chosen[this.#at]]}`);
  }
}
