// Settings: what differs between the chosen runs, first.

import { element, scrolling } from "./element.js";
import { store, ask } from "./store.js";

export function showSettings(view, context) {
  const ids = context.runs.filter((id) => store.rows.has(id));
  const place = element("div");
  view.append(element("div", { class: "head" }, element("h1", {}, "Settings")), place);
  if (!ids.length) {
    place.append(element("div", { class: "card empty" }, "Choose runs in ", element("a", { href: "#/runs" }, "All runs"), " first."));
    return () => {};
  }
  let over = false;
  store.follow(new Map());
  ask("/api/settings", { runs: ids.join(",") }).then(({ runs }) => { if (!over) fill(runs); })
    .catch((error) => place.replaceChildren(element("p", { class: "problem" }, error.message)));

  function fill(runs) {
    const columns = new Map(); // an experiment's seeds share their settings
    for (const id of ids) {
      const row = store.rows.get(id);
      if (!row || !runs[id]) continue;
      if (!columns.has(row.experiment)) columns.set(row.experiment, { name: row.configuration, seeds: [], settings: { environment: row.environment, ...runs[id] } });
      columns.get(row.experiment).seeds.push(row.seed);
    }
    const all = [...columns.values()];
    const names = [...new Set(all.flatMap((each) => Object.keys(each.settings)))];
    const differing = names.filter((name) => new Set(all.map((each) => each.settings[name])).size > 1);
    const same = names.filter((name) => !differing.includes(name));
    const first = all.length === 1
      ? element("div", { class: "card empty" }, "One configuration was chosen, so nothing differs. Choose others in ", element("a", { href: "#/runs" }, "All runs"), ".")
      : differing.length ? tableOf(`${differing.length} settings differ`, differing, all)
        : element("div", { class: "card empty" }, "These runs have the same settings; only their seeds differ.");
    place.replaceChildren(first, element("details", { class: "below", ...(all.length === 1 ? { open: true } : {}) },
      element("summary", {}, `${same.length} settings are the same in all`), tableOf("Settings that are the same", same, all.slice(0, 1))));
  }
  return () => { over = true; };
}

function tableOf(title, names, columns) {
  return scrolling(title, element("table", {},
    element("caption", { class: "hidden" }, title),
    element("thead", {}, element("tr", {}, element("th", { scope: "col" }, title),
      columns.map((each) => element("th", { scope: "col" }, each.name, element("span", { class: "quiet small" }, ` ${each.seeds.length > 1 ? "seeds" : "seed"} ${each.seeds.sort((a, b) => a - b).join(", ")}`))))),
    element("tbody", {}, names.map((name) => element("tr", {}, element("th", { scope: "row" }, name.split(".").map((part, k) => (k ? [".", element("wbr"), part] : part))),
      columns.map((each) => element("td", { class: "value" }, shown(each.settings[name]))))))), "card");
}

/** A JSON value as a person writes it. */
function shown(text) {
  if (text === undefined) return "–";
  return text.replace(/^"(.*)"$/s, "$1").replace(/^null$/, "none");
}
