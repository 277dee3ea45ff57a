// All runs.

import { announce, element } from "./element.js";
import { count, nameOf, number, STATES } from "./format.js";
import { store } from "./store.js";

const COLUMNS = [
  ["configuration", "Run", "name", (row) => `${row.configuration}/${String(row.seed).padStart(9, "0")}`],
  ["environment", "Environment", "", (row) => row.environment],
  ["state", "State", "", (row) => ["running", "stale", "stopped", "finished"].indexOf(row.state)],
  ["progress", "Progress", "", (row) => (row.total ? row.step / row.total : null)],
  ["last", "Last return", "number", (row) => row.last, "Mean of the last 100 episodes, exploration included"],
  ["best", "Best return", "number", (row) => row.best, "Highest mean of 100 episodes, exploration included"],
  ["final", "Final evaluation", "number", (row) => row.final, "Mean of the greedy episodes that judge the final policy"],
  ["speed", "Steps/s", "number", (row) => row.speed],
  ["modified", "Last written", "number", (row) => row.modified],
];

/** The mark and the word of a state. */
export function stateOf(row) {
  const [mark, meaning] = STATES[row.state] ?? ["?", ""];
  return element("span", { class: `state ${row.state}`, title: meaning }, element("span", { class: "mark", "aria-hidden": "true" }, mark), row.state);
}

function ago(seconds) {
  const since = Math.max(0, Date.now() / 1000 - seconds);
  if (!seconds) return "–";
  if (since < 60) return "now";
  if (since < 3600) return `${Math.floor(since / 60)} min ago`;
  if (since < 86400) return `${Math.floor(since / 3600)} h ago`;
  return `${Math.floor(since / 86400)} d ago`;
}

function cells(row, chosen, onPick) {
  const share = row.total ? Math.min(1, row.step / row.total) : 0;
  const fill = element("div");
  fill.style.width = `${100 * share}%`;
  const solved = row.final !== null && row.threshold !== null && row.final >= row.threshold;
  const address = `#/charts?runs=${row.id}`;
  return [
    element("td", { class: "pick" }, element("input", { type: "checkbox", "aria-label": `Choose ${nameOf(row)}`, ...(chosen ? { checked: true } : {}), onchange: onPick })),
    element("td", { class: "name" }, element("a", { href: address }, row.configuration), element("span", { class: "sub" }, `seed ${row.seed}`)),
    element("td", { "data-name": "Environment" }, row.environment),
    element("td", { "data-name": "State" }, stateOf(row)),
    element("td", { "data-name": "Progress" }, `${count(row.step)}${row.total ? ` of ${count(row.total)}` : ""}`,
      element("div", { class: "progress", role: "presentation" }, fill)),
    element("td", { class: "number", "data-name": "Last return" }, number(row.last)),
    element("td", { class: "number", "data-name": "Best return" }, number(row.best)),
    element("td", { class: "number", "data-name": "Final evaluation" }, row.final === null ? "–" : `${number(row.final)}${solved ? " ✓ solved" : ""}`),
    element("td", { class: "number", "data-name": "Steps/s" }, count(row.speed)),
    element("td", { class: "number", "data-name": "Last written" }, ago(row.modified)),
  ];
}

export function showTable(view, context) {
  let sortedBy = "modified", descending = true;
  const chosen = new Set(context.runs);
  const shown = new Map();
  const text = element("input", { type: "search", placeholder: "Filter by words", "aria-label": "Filter runs", oninput: () => fill() });
  const state = element("select", { "aria-label": "State", onchange: () => fill() },
    element("option", { value: "" }, "every state"), Object.keys(STATES).map((each) => element("option", { value: each }, each)));
  const summary = element("span", { class: "note", role: "status" });
  const body = element("tbody");
  const all = element("input", { type: "checkbox", "aria-label": "Choose all that are shown", onchange: () => {
    for (const row of visible()) { if (all.checked) chosen.add(row.id); else chosen.delete(row.id); }
    fill();
  } });
  const heads = COLUMNS.map(([key, title, kind, , meaning]) => element("th", { scope: "col", class: kind, "data-key": key },
    element("button", { type: "button", title: meaning, onclick: () => {
      descending = sortedBy === key ? !descending : key !== "configuration" && key !== "environment" && key !== "state";
      sortedBy = key;
      fill();
      announce(`Sorted by ${title}, ${descending ? "descending" : "ascending"}`);
    } }, title)));
  const picks = element("div", { class: "card picks", hidden: true });
  const table = element("div", { class: "card scroll" }, element("table", { class: "runs" },
    element("caption", { class: "hidden" }, "All runs"), element("thead", {}, element("tr", {}, element("th", { scope: "col" }, all), heads)), body));
  const empty = element("div", { class: "card empty" });

  view.append(
    element("div", { class: "head" }, element("h1", {}, "All runs"), summary, element("div", { class: "grow" }),
      element("div", { class: "filters" }, text, state)),
    table, empty, picks);

  function visible() {
    const words = text.value.toLowerCase().split(/\s+/).filter(Boolean);
    return [...store.rows.values()].filter((row) => {
      const about = `${nameOf(row)} ${row.environment} ${row.state}`.toLowerCase();
      return (!state.value || row.state === state.value) && words.every((word) => about.includes(word));
    });
  }

  function fill() {
    const key = COLUMNS.find(([name]) => name === sortedBy)[3];
    const rows = visible().sort((a, b) => {
      const x = key(a), y = key(b);
      if (x === y) return a.configuration.localeCompare(b.configuration, "en", { numeric: true }) || a.seed - b.seed;
      if (x === null || x === undefined) return 1; // what there is not comes last either way
      if (y === null || y === undefined) return -1;
      const order = typeof x === "string" ? x.localeCompare(y, "en", { numeric: true }) : x - y;
      return descending ? -order : order;
    });
    for (const head of heads) {
      const is = head.dataset.key === sortedBy;
      const title = COLUMNS.find(([name]) => name === head.dataset.key)[1];
      if (is) head.setAttribute("aria-sort", descending ? "descending" : "ascending"); else head.removeAttribute("aria-sort");
      head.firstChild.textContent = title + (is ? (descending ? " ↓" : " ↑") : "");
    }
    for (const id of [...chosen]) if (!store.rows.has(id)) chosen.delete(id);
    // A row is made anew only when what it says has changed, so that 1,000 rows cost nothing while 8 train.
    const lines = rows.map((row) => {
      const said = JSON.stringify([row, chosen.has(row.id), ago(row.modified)]);
      let line = shown.get(row.id);
      if (!line) shown.set(row.id, line = { said: "", row: element("tr") });
      if (line.said !== said) {
        const focused = line.row.contains(document.activeElement) ? document.activeElement.tagName : null;
        line.said = said;
        line.row.className = chosen.has(row.id) ? "chosen" : "";
        line.row.replaceChildren(...cells(row, chosen.has(row.id), () => {
          if (chosen.has(row.id)) chosen.delete(row.id); else chosen.add(row.id);
          fill();
        }));
        if (focused) line.row.querySelector(focused.toLowerCase())?.focus();
      }
      return line.row;
    });
    for (const id of [...shown.keys()]) if (!store.rows.has(id)) shown.delete(id);
    if (lines.length !== body.children.length || lines.some((line, i) => body.children[i] !== line)) {
      const held = document.activeElement;
      body.replaceChildren(...lines);
      if (held && body.contains(held)) held.focus();
    }
    table.hidden = !rows.length;
    empty.hidden = rows.length > 0;
    empty.replaceChildren(...(store.rows.size ? ["No run matches the filter."]
      : [element("p", {}, "There is no run here yet."), element("p", {}, "Start one: ", element("code", {}, "upright train CartPole-v1"), " and it appears by itself.")]));
    const running = [...store.rows.values()].filter((row) => row.state === "running").length;
    summary.textContent = `${count(rows.length)} of ${count(store.rows.size)} runs${running ? `, ${running} running` : ""}${store.about.cut ? "; there are more than can be listed" : ""}`;
    all.checked = rows.length > 0 && rows.every((row) => chosen.has(row.id));
    const ids = [...chosen].join(",");
    picks.hidden = !chosen.size;
    picks.replaceChildren(element("strong", {}, `${chosen.size} chosen`),
      element("a", { class: "button", href: `#/charts?runs=${ids}` }, "Compare curves"),
      element("a", { class: "button", href: `#/settings?runs=${ids}` }, "What differs"),
      element("button", { type: "button", class: "plain", onclick: () => { chosen.clear(); fill(); } }, "Clear"));
  }

  store.addEventListener("rows", fill);
  store.follow(new Map());
  fill();
  return () => store.removeEventListener("rows", fill);
}
