// Dark or light, colours, and dashes: a line is told from another by its dashes too.

const DASHES = [[], [7, 4], [2, 3], [10, 3, 2, 3], [4, 2], [14, 4], [1, 5], [8, 2, 2, 2, 2, 2]];
const media = matchMedia("(prefers-color-scheme: dark)");
const changes = new EventTarget();

export function startTheme(button) {
  const show = () => {
    const chosen = localStorage.getItem("theme");
    const dark = chosen ? chosen === "dark" : media.matches;
    document.documentElement.classList.toggle("dark", dark);
    button.textContent = dark ? "☀ Light" : "☾ Dark";
    changes.dispatchEvent(new Event("change"));
  };
  button.addEventListener("click", () => {
    localStorage.setItem("theme", document.documentElement.classList.contains("dark") ? "light" : "dark");
    show();
  });
  media.addEventListener("change", show);
  show();
}

/** Call when the theme changes; returns what ends that. */
export function onTheme(call) {
  changes.addEventListener("change", call);
  return () => changes.removeEventListener("change", call);
}

/** A colour of style.css. */
export function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

/** How the k-th of several things is drawn. */
export function styleOf(k) {
  return { colour: `series-${(k % 8) + 1}`, dash: DASHES[(k + Math.floor(k / 8)) % DASHES.length] };
}
