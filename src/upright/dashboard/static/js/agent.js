// The agent: a moment of a run, and an episode that its policy plays.

import { element } from "./element.js";
import { count, nameOf } from "./format.js";
import { Player } from "./player.js";
import { ask, store } from "./store.js";

/** What a moment is called. */
export function momentName({ kind, step }) {
  const when = step === null ? "" : ` (step ${count(step)})`;
  return { checkpoint: `Checkpoint at step ${count(step)}`, best: `Best evaluation${when}`, last: `Policy at the end${when}` }[kind];
}

/** A list of the runs there are, to choose one. */
export function chooserOf(id, view) {
  const rows = [...store.rows.values()].sort((a, b) => nameOf(a).localeCompare(nameOf(b), "en", { numeric: true }));
  const chooser = element("select", { "aria-label": "Run", onchange: () => { location.hash = `#/${view}?runs=${chooser.value}`; } },
    rows.map((row) => element("option", { value: row.id, ...(row.id === id ? { selected: true } : {}) }, nameOf(row))));
  return chooser;
}

export function showAgent(view, context) {
  const id = context.runs.find((each) => store.rows.has(each));
  if (!id) {
    view.append(element("h1", {}, "The agent"), element("div", { class: "card empty" }, "There is no run yet whose agent could be shown."));
    return () => {};
  }
  const player = new Player();
  const moments = element("select", { "aria-label": "Moment" });
  const episode = element("input", { type: "number", min: 0, max: 999999, value: 0, size: 6, "aria-label": "Episode", id: "episode" });
  const button = element("button", { type: "button", class: "main", disabled: true, onclick: () => player.show(id, moments.value, Math.max(0, Math.round(Number(episode.value) || 0))) }, "▶ Play an episode");
  const note = element("p", { class: "note", role: "status" });
  let known = "";
  view.append(
    element("div", { class: "head" }, element("h1", {}, "The agent"), chooserOf(id, "agent")),
    element("div", { class: "card bar" }, element("label", {}, "Policy", moments), element("label", {}, "Episode", episode), button, note), player.place);
  player.place.append(element("div", { class: "card empty" }, "Choose a policy and press play. The dashboard plays one greedy episode with it, in a process of its own: training is not held up."));

  async function refresh() {
    try {
      const found = await ask("/api/moments", { run: id });
      const now = JSON.stringify(found.moments);
      if (now !== known) {
        const chosen = moments.value;
        known = now;
        moments.replaceChildren(...found.moments.map((each) => element("option", { value: each.moment }, momentName(each))));
        if (found.moments.length) moments.value = found.moments.some((each) => each.moment === chosen) ? chosen : found.moments.at(-1).moment;
      }
      button.disabled = !found.moments.length;
      note.textContent = found.moments.length ? `This run keeps its last ${found.keep ?? "few"} checkpoints (keep_checkpoints).`
        : "There is no policy yet: the first comes with the first checkpoint (checkpoint_every), or ask for one in Charts.";
    } catch (error) {
      note.textContent = error.message;
    }
  }
  const timer = setInterval(() => { if (!document.hidden && store.rows.get(id)?.state === "running") refresh(); }, 4000);
  store.follow(new Map());
  refresh().then(() => { if (context.play && moments.options.length) button.click(); });
  return () => { clearInterval(timer); player.leave(); };
}
