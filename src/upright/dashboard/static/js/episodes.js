// Episodes: the return of each against its step; a click shows what the policy of that moment does.

import { momentName, chooserOf } from "./agent.js";
import { Chart } from "./chart.js";
import { Curves } from "./curves.js";
import { element } from "./element.js";
import { count, nameOf, number } from "./format.js";
import { Player } from "./player.js";
import { ask, store } from "./store.js";
import { styleOf } from "./theme.js";

export function showEpisodes(view, context) {
  const id = context.runs.find((each) => store.rows.has(each));
  if (!id) {
    view.append(element("h1", {}, "Episodes"), element("div", { class: "card empty" }, "There is no run yet whose episodes could be shown."));
    return () => {};
  }
  let picked = null;
  const curves = new Curves([id], ["episode/return"]);
  const player = new Player();
  const note = element("p", { role: "status" }, "Click near an episode, or move with the arrow keys and press Enter.");
  const chart = new Chart({ title: "Return of each episode", height: 320, onZoom: zoom, onPick: (point) => pick(point.step, point.value), marks: () => (picked === null ? [] : [picked]) });
  view.append(element("div", { class: "head" }, element("h1", {}, "Episodes"), chooserOf(id, "episodes")), chart.card,
    element("div", { class: "card pad below" }, note), element("div", { class: "below" }, player.place));

  function zoom(to) {
    curves.zoom = to;
    draw();
    curves.load().catch(fail);
  }

  function fail(error) {
    if (error.name !== "AbortError") chart.setNote(error.message);
  }

  function draw() {
    const { steps, values } = curves.get(id, "episode/return");
    chart.show([{ name: nameOf(store.rows.get(id)), steps, values, style: styleOf(0), dots: true, size: 2.6, alpha: 0.7 }], curves.zoom);
    chart.setNote(curves.omitted || `${count(steps.length)} episodes.`);
  }

  async function pick(step, value) {
    picked = step;
    draw();
    try {
      const { moments, keep } = await ask("/api/moments", { run: id });
      const dated = moments.filter((each) => each.step !== null);
      if (!dated.length) {
        note.textContent = "There is no policy of this run yet: the first comes with the first checkpoint.";
        return;
      }
      const near = dated.reduce((a, b) => (Math.abs(b.step - step) < Math.abs(a.step - step) ? b : a));
      const distance = Math.abs(near.step - step);
      note.textContent = `The episode that ended at step ${count(step)} with return ${number(value)}. The nearest policy that is kept: ${momentName(near)}`
        + (distance ? `, ${count(distance)} steps ${near.step > step ? "later" : "earlier"}; ` : "; ")
        + `the run keeps its last ${keep ?? "few"} checkpoints (keep_checkpoints), and a greedy episode on another seed is played.`;
      await player.show(id, near.moment, 0);
    } catch (error) {
      note.textContent = error.message;
    }
  }

  curves.addEventListener("change", draw);
  curves.load().catch(fail);
  return () => { curves.leave(); chart.leave(); player.leave(); };
}
