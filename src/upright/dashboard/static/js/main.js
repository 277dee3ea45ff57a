// The page: which view the address names, and what stays around it.

import { showAgent } from "./agent.js";
import { showCharts } from "./charts.js";
import { element } from "./element.js";
import { showEpisodes } from "./episodes.js";
import { showSettings } from "./settings.js";
import { store } from "./store.js";
import { showTable } from "./table.js";
import { startTheme } from "./theme.js";

const VIEWS = {
  runs: ["All runs", showTable],
  charts: ["Charts", showCharts],
  agent: ["Agent", showAgent],
  episodes: ["Episodes", showEpisodes],
  settings: ["Settings", showSettings],
};
const view = document.getElementById("view");
let leave = () => {};

function place() {
  const [path, query] = location.hash.replace(/^#\//, "").split("?");
  const parameters = new URLSearchParams(query);
  return { name: VIEWS[path] ? path : "runs", runs: (parameters.get("runs") ?? "").split(",").filter((id) => /^[0-9a-f]{16}$/.test(id)), play: parameters.has("play") };
}

/** Without a choice, the experiment that was written to last. */
function newest() {
  const rows = [...store.rows.values()].sort((a, b) => b.modified - a.modified);
  return rows.length ? rows.filter((row) => row.experiment === rows[0].experiment).slice(0, 50).map((row) => row.id) : [];
}

function show() {
  const context = place();
  leave();
  view.replaceChildren();
  const chosen = context.runs.length ? `?runs=${context.runs.join(",")}` : "";
  document.getElementById("views").replaceChildren(...Object.entries(VIEWS).map(([name, [title]]) =>
    element("a", { href: `#/${name}${chosen}`, ...(name === context.name ? { "aria-current": "page" } : {}) }, title)));
  document.title = `${VIEWS[context.name][0]} · upright`;
  if (context.name !== "runs" && !context.runs.some((id) => store.rows.has(id))) context.runs = newest();
  leave = VIEWS[context.name][1](view, context) ?? (() => {});
}

function live(text, on) {
  const place = document.getElementById("live");
  place.textContent = text;
  place.classList.toggle("on", on);
}

async function start() {
  startTheme(document.getElementById("theme"));
  // The token is a cookie now: it need not stand in the address, nor in the history.
  if (location.search) history.replaceState(null, "", location.pathname + location.hash);
  let lost = false;
  store.addEventListener("connected", () => {
    live("live", true);
    if (lost) store.load().catch(() => {});
    lost = false;
  });
  store.addEventListener("lost", () => { lost = true; live("no connection", false); });
  try {
    await store.load();
  } catch (error) {
    view.replaceChildren(element("div", { class: "card empty problem", role: "alert" }, error.message));
    return;
  }
  document.getElementById("folder").textContent = store.about.folder ?? "";
  document.querySelector(".skip").addEventListener("click", (event) => { event.preventDefault(); view.focus(); }); // its address would be another view
  addEventListener("hashchange", () => { show(); view.focus({ preventScroll: true }); scrollTo(0, 0); });
  store.start();
  show();
}

start();
