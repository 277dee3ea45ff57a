// The series of some runs as the server gives them: fetched once, added to as they grow, fetched again when they are long.

import { ask, store } from "./store.js";

const POINTS = 600, MANY = 20, FIRST = 3;

export class Curves extends EventTarget {
  #leave = [];
  #asking = 0;
  #again = null;
  #aborter = new AbortController();

  /** tags: which to ask for; none asks for all */
  constructor(ids, tags) {
    super();
    this.ids = ids;
    this.tags = tags;
    this.runs = new Map();
    this.zoom = null;
    this.most = POINTS;
    const listen = (name, call) => {
      store.addEventListener(name, call);
      this.#leave.push(() => store.removeEventListener(name, call));
    };
    listen("points", (event) => this.#take(event.detail));
    listen("exact", (event) => { if (event.detail.some((id) => this.runs.has(id))) this.#soon(); });
  }

  /** Ask for all of it, within the zoom. */
  async load() {
    const turn = ++this.#asking, runs = new Map();
    // Of many runs the first tags come first, so that there is something to see.
    const parts = this.ids.length > MANY && this.tags ? [this.tags.slice(0, FIRST), this.tags.slice(FIRST)] : [this.tags];
    for (const tags of parts) {
      const query = { runs: this.ids.join(","), tags: tags?.join(","), points: POINTS, from: this.zoom?.low, to: this.zoom?.high };
      const found = await ask("/api/series", query, this.#aborter.signal);
      if (turn !== this.#asking) return; // a later question overtook this one
      this.most = found.points;
      for (const [id, run] of Object.entries(found.runs)) {
        const before = runs.get(id);
        // The earlier cursor counts: what came between the two answers is told again, and is left out where it is known.
        runs.set(id, before ? { ...run, cursor: before.cursor, series: { ...before.series, ...run.series } } : run);
      }
      this.runs = runs;
      this.dispatchEvent(new Event("change"));
    }
    this.#follow();
  }

  /** What a run has of a tag: {steps, values, of}. */
  get(id, tag) {
    return this.runs.get(id)?.series[tag] ?? { steps: [], values: [], of: 0 };
  }

  /** One sentence on what is left out, or none. */
  get omitted() {
    let shown = 0, all = 0, estimated = false;
    for (const run of this.runs.values()) {
      estimated ||= !run.exact;
      for (const series of Object.values(run.series)) { shown += series.steps.length; all += series.of; }
    }
    if (estimated) return "A quick look at every so-manieth line; all are being read.";
    if (shown >= all || this.zoom) return "";
    return `${shown.toLocaleString("en")} of ${all.toLocaleString("en")} points are drawn, each stretch by its lowest and highest; zoom in to see all.`;
  }

  leave() {
    this.#aborter.abort();
    clearTimeout(this.#again);
    this.#leave.forEach((call) => call());
  }

  #follow() {
    store.follow([...this.runs].filter(([, run]) => run.cursor).map(([id, run]) => [id, run.cursor]));
  }

  #take(news) {
    let changed = false;
    for (const [id, each] of Object.entries(news)) {
      const run = this.runs.get(id);
      if (!run) continue;
      if (each.again) { this.#soon(); continue; }
      run.cursor = each.cursor;
      for (const [tag, more] of Object.entries(each.series)) {
        if (this.tags && !this.tags.includes(tag)) continue;
        const series = (run.series[tag] ??= { steps: [], values: [], of: 0 });
        if (!run.tags.includes(tag)) run.tags.push(tag);
        const latest = series.steps.at(-1) ?? -Infinity, first = more.steps.findIndex((step) => step > latest);
        if (first < 0 && !tag.startsWith("episode/")) continue;
        const from = tag.startsWith("episode/") ? 0 : first;
        series.steps.push(...more.steps.slice(from));
        series.values.push(...more.values.slice(from));
        series.of += more.steps.length - from;
        changed = true;
        // What was added is not down-sampled: when it is too much, the server is asked again, so that nothing grows.
        if (series.steps.length > 2 * this.most + 200) this.#soon();
      }
    }
    if (changed) this.dispatchEvent(new Event("change"));
  }

  #soon() {
    clearTimeout(this.#again);
    this.#again = setTimeout(() => this.load().catch(() => {}), 400);
  }
}
