// One experiment, or several runs compared: every seed a thin line, the interquartile mean of an experiment with its band.

import { Chart, sample } from "./chart.js";
import { Curves } from "./curves.js";
import { announce, confirmed, element } from "./element.js";
import { count, nameOf, number } from "./format.js";
import { smoothed, summary } from "./statistics.js";
import { ask, post, store } from "./store.js";
import { stateOf } from "./table.js";
import { styleOf } from "./theme.js";

const RETURN = "episode/return", LENGTH = "episode/length", MEAN = "rollout/ep_rew_mean", MEAN_LENGTH = "rollout/ep_len_mean";
const CHARTS = [
  { title: "Return", line: MEAN, raw: RETURN, extra: "eval/mean_reward", extraName: "greedy evaluation",
    note: "Line: mean of the last 100 episodes, exploration included. Dots: single episodes. Squares: greedy evaluations." },
  { title: "Episode length", line: MEAN_LENGTH, raw: LENGTH, note: "Line: mean of the last 100 episodes, in steps. Dots: single episodes." },
  { title: "Loss", line: "train/loss", note: "Mean of the updates since the last record. It need not fall while the agent improves." },
  { title: "Mean Q and the return reached", line: "train/mean_q", reached: true,
    note: "Solid: mean Q of the last batch. Dotted: the mean return actually reached, discounted by γ as if its reward came evenly. Q far above it is overestimation." },
  { title: "Exploration rate ε", line: "rollout/exploration_rate", note: "Probability of a random action." },
  { title: "Steps per second", line: "time/fps", note: "Since training began or was taken up again." },
];
const SHOWN = new Set(["time/total_timesteps", ...CHARTS.flatMap((each) => [each.line, each.raw, each.extra])]);
const DOTS_FOR = 12; // runs whose single episodes are drawn; of more, they would hide the lines

/** The mean over an episode's states of the discounted return that follows, if each step brings the same reward. */
function discounted(total, length, gamma) {
  if (!(length > 0) || gamma >= 1) return total;
  const r = total / length, whole = 1 / (1 - gamma);
  return r * whole * (1 - (gamma * (1 - gamma ** length) * whole) / length);
}

export function showCharts(view, context) {
  const ids = context.runs.filter((id) => store.rows.has(id));
  if (!ids.length) {
    view.append(element("h1", {}, "Charts"), element("div", { class: "card empty" }, "Choose runs in ", element("a", { href: "#/runs" }, "All runs"), " first."));
    return () => {};
  }
  const groups = groupsOf(ids);
  const curves = new Curves(ids, [...new Set(CHARTS.flatMap((each) => [each.line, each.raw, each.extra]).filter(Boolean))]);
  const gammas = new Map();
  const hidden = new Set();
  let weight = 0, leaveMore = () => {};

  const smoothing = element("input", { type: "range", min: 0, max: 0.98, step: 0.02, value: 0, id: "smoothing", oninput: () => {
    weight = Number(smoothing.value);
    smoothingSaid.textContent = weight ? weight.toFixed(2) : "off";
    draw();
  } });
  const smoothingSaid = element("output", { for: "smoothing" }, "off");
  const status = element("span", { class: "note", role: "status" });
  const legend = element("ul", { class: "legend" });
  const charts = CHARTS.map((about) => ({ about, chart: new Chart({ title: about.title, onZoom: zoom }) }));
  const more = element("details", { class: "below" }, element("summary", {}, "Other metrics"));
  more.addEventListener("toggle", () => {
    leaveMore();
    leaveMore = more.open ? showOther(more, ids, groups) : () => {};
  });
  view.append(
    element("div", { class: "head" }, element("h1", {}, titleOf(groups)), element("span", { class: "quiet" }, environmentsOf(groups)),
      element("div", { class: "grow" }), element("a", { class: "button", href: `#/settings?runs=${ids.join(",")}` }, "What differs")),
    element("div", { class: "card" }, legend),
    element("div", { class: "card bar below" }, element("label", { for: "smoothing" }, "Smoothing", smoothing, smoothingSaid), status,
      element("span", { class: "note" }, "Thin: each seed. Bold: interquartile mean, with the band between the quartiles. Drag over a chart to zoom all, double-click to reset.")),
    element("div", { class: "charts" }, charts.map(({ chart }) => chart.card)), more);

  function zoom(to) {
    curves.zoom = to;
    announce(to ? `Zoomed to steps ${count(to.low)} to ${count(to.high)}` : "Zoom reset");
    draw();
    curves.load().catch(fail);
  }

  function fail(error) {
    if (error.name !== "AbortError") status.textContent = error.message;
  }

  function draw() {
    for (const { about, chart } of charts) {
      chart.show(linesOf(about), curves.zoom);
      chart.setNote(about.note);
    }
    status.textContent = curves.omitted;
  }

  function linesOf(about) {
    const lines = [];
    const visible = groups.filter((group) => !hidden.has(group.experiment));
    const few = visible.reduce((sum, group) => sum + group.ids.length, 0) <= DOTS_FOR;
    for (const group of visible) {
      const style = group.style, seeds = [];
      for (const id of group.ids) {
        const name = `${group.short} · seed ${store.rows.get(id)?.seed}`;
        if (about.raw && few) {
          const raw = curves.get(id, about.raw);
          lines.push({ name, steps: raw.steps, values: raw.values, style, dots: true, size: 1.4, alpha: 0.3, told: false });
        }
        const series = curves.get(id, about.line);
        if (weight) lines.push({ name, steps: series.steps, values: series.values, style: { ...style, dash: [] }, width: 1, alpha: 0.28, told: false });
        const line = { name, steps: series.steps, values: smoothed(series.values, weight), style, width: group.ids.length > 1 ? 1 : 2, alpha: group.ids.length > 1 ? 0.6 : 1 };
        seeds.push(line);
        lines.push(line);
        if (about.extra) {
          const extra = curves.get(id, about.extra);
          lines.push({ name: `${name}, ${about.extraName}`, steps: extra.steps, values: extra.values, style, dots: true, shape: "square", size: 2.6, alpha: 0.9, width: 0, rank: 2 });
        }
        if (about.reached) lines.push(reachedBy(id, name, style));
      }
      const together = summary(seeds);
      if (together) {
        lines.push({ name: `${group.short}, interquartile mean of ${together.seeds} seeds`, rank: 0, steps: together.steps, values: together.values, style, width: 3, band: together });
      }
    }
    return lines;
  }

  function reachedBy(id, name, style) {
    const total = curves.get(id, MEAN), length = curves.get(id, MEAN_LENGTH), gamma = gammas.get(id) ?? 0.99;
    // Down-sampling keeps other steps of each tag: the length is taken where it was last known.
    let k = 0;
    const values = total.steps.map((step, i) => {
      while (k + 1 < length.steps.length && length.steps[k + 1] <= step) k++;
      return discounted(total.values[i], length.values[k] ?? 0, gamma);
    });
    return { name: `${name}, reached`, steps: total.steps, values: smoothed(values, weight), style: { ...style, dash: [1, 4] }, width: 2, alpha: 0.85, rank: 2 };
  }

  function fillLegend() {
    const open = new Set([...legend.querySelectorAll("details[open]")].map((each) => each.dataset.experiment));
    const held = document.activeElement?.dataset?.held;
    legend.replaceChildren(...groups.map((group) => {
      const rows = group.ids.map((id) => store.rows.get(id)).filter(Boolean);
      const last = rows.map((row) => row.last).filter((value) => value !== null);
      const shown = element("input", { type: "checkbox", "aria-label": `Show ${group.name}`, "data-held": `show ${group.experiment}`, ...(hidden.has(group.experiment) ? {} : { checked: true }), onchange: () => {
        if (hidden.has(group.experiment)) hidden.delete(group.experiment); else hidden.add(group.experiment);
        draw();
      } });
      const seeds = element("details", { "data-experiment": group.experiment, ...(open.has(group.experiment) ? { open: true } : {}) },
        element("summary", { "data-held": `seeds ${group.experiment}` }, rows.length === 1 ? "1 seed" : `${rows.length} seeds`),
        element("ul", {}, rows.map((row) => element("li", {}, element("span", { class: "grow" }, `seed ${row.seed}`), stateOf(row),
          element("span", { class: "note" }, `${count(row.step)} steps, last return ${number(row.last)}`), linksOf(row), controlsOf(row)))));
      return element("li", {}, shown, sample(group.style, 3), element("span", { class: "grow" }, element("strong", {}, group.name)),
        rows.length === 1 ? stateOf(rows[0]) : element("span", { class: "note" }, statesOf(rows)),
        element("span", { class: "note" }, last.length ? `last return ${number(last.reduce((a, b) => a + b, 0) / last.length)}${last.length > 1 ? " on average" : ""}` : ""),
        rows.length === 1 ? [linksOf(rows[0]), controlsOf(rows[0])] : seeds);
    }));
    if (held) [...legend.querySelectorAll("[data-held]")].find((each) => each.dataset.held === held)?.focus();
  }

  let said = "";
  const onRows = () => {
    const now = JSON.stringify(ids.map((id) => store.rows.get(id)));
    if (now !== said) { said = now; fillLegend(); }
  };
  curves.addEventListener("change", draw);
  store.addEventListener("rows", onRows);
  onRows();
  status.textContent = "Reading…";
  curves.load().catch(fail);
  ask("/api/settings", { runs: ids.join(",") }).then(({ runs }) => {
    for (const [id, settings] of Object.entries(runs)) gammas.set(id, Number(settings.gamma ?? 0.99));
    draw();
  }).catch(fail);
  return () => {
    leaveMore();
    curves.leave();
    store.removeEventListener("rows", onRows);
    charts.forEach(({ chart }) => chart.leave());
  };
}

/** Whatever else the files hold, a chart for each tag. */
function showOther(place, ids, groups) {
  const box = element("div", { class: "charts below" }), charts = new Map();
  place.append(box);
  let over = false, timer = null;
  const draw = async () => {
    const found = await ask("/api/series", { runs: ids.join(","), points: 400 });
    if (over) return;
    const tags = new Set(Object.values(found.runs).flatMap((run) => run.tags).filter((tag) => !SHOWN.has(tag)));
    for (const tag of [...tags].slice(0, 40)) {
      if (!charts.has(tag)) {
        charts.set(tag, new Chart({ title: tag }));
        box.append(charts.get(tag).card);
      }
      charts.get(tag).show(groups.flatMap((group) => group.ids.map((id) => ({
        name: nameOf(store.rows.get(id)), steps: [], values: [], ...found.runs[id]?.series[tag], style: group.style, width: 1.5, alpha: 0.85,
      }))));
    }
    if (!tags.size) box.replaceChildren(element("p", { class: "note" }, "There are no others."));
  };
  const again = () => { clearTimeout(timer); timer = setTimeout(() => draw().catch(() => {}), 3000); };
  draw().catch(() => {});
  store.addEventListener("points", again);
  return () => {
    over = true;
    clearTimeout(timer);
    store.removeEventListener("points", again);
    charts.forEach((chart) => chart.leave());
    box.remove();
  };
}

function groupsOf(ids) {
  const found = new Map();
  for (const id of ids) {
    const row = store.rows.get(id);
    if (!found.has(row.experiment)) found.set(row.experiment, { experiment: row.experiment, name: row.configuration, environment: row.environment, ids: [] });
    found.get(row.experiment).ids.push(id);
  }
  for (const group of found.values()) group.ids.sort((a, b) => store.rows.get(a).seed - store.rows.get(b).seed);
  // By name, so that an experiment keeps its colour however it was chosen.
  const groups = [...found.values()].sort((a, b) => a.name.localeCompare(b.name, "en", { numeric: true })), shared = new Set(groups.map((group) => group.name.split("/").slice(0, -1).join("/"))).size === 1;
  return groups.map((group, k) => ({ ...group, short: shared ? group.name.split("/").at(-1) : group.name, style: styleOf(k) }));
}

function titleOf(groups) {
  return groups.length === 1 ? groups[0].name : `${groups.length} experiments compared`;
}

function environmentsOf(groups) {
  return [...new Set(groups.map((group) => group.environment))].slice(0, 4).join(", ");
}

function statesOf(rows) {
  const counts = new Map();
  rows.forEach((row) => counts.set(row.state, (counts.get(row.state) ?? 0) + 1));
  return [...counts].map(([state, k]) => `${k} ${state}`).join(", ");
}

function linksOf(row) {
  return [element("a", { href: `#/agent?runs=${row.id}` }, "Agent"), element("a", { href: `#/episodes?runs=${row.id}` }, "Episodes")];
}

/** What a run can be asked for: a checkpoint, or to stop with one. Nothing else. */
function controlsOf(row) {
  if (row.state !== "running") return [];
  const send = async (request, said) => {
    try {
      await post("/api/control", { run: row.id, request });
      announce(said);
    } catch (error) {
      announce(error.message);
      answer.textContent = error.message;
      return;
    }
    answer.textContent = said;
  };
  const answer = element("span", { class: "note", role: "status" });
  return [
    element("button", { type: "button", "data-held": `checkpoint ${row.id}`, onclick: () => send("checkpoint", "Asked for a checkpoint; it is written at the next record.") }, "Checkpoint now"),
    element("button", { type: "button", class: "danger", "data-held": `stop ${row.id}`, onclick: async () => {
      const meant = await confirmed("Stop this run?", `${nameOf(row)} writes a checkpoint at its next record and ends. Go on with it later by: upright resume`, "Stop with checkpoint");
      if (meant) send("stop", "Asked to stop; it ends at the next record.");
    } }, "Stop with checkpoint"),
    answer,
  ];
}
