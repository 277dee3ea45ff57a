// Numbers and states as text.

/** A number with about four digits; "–" where there is none. */
export function number(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size >= 1e7 || size < 1e-3)) return value.toExponential(2);
  const digits = size >= 1000 ? 0 : size >= 100 ? 1 : size >= 1 ? 2 : 4;
  return value.toLocaleString("en", { maximumFractionDigits: digits });
}

/** A count, with separators. */
export function count(value) {
  return value === null || value === undefined ? "–" : Math.round(value).toLocaleString("en");
}

/** A count short enough for an axis: 12.5k, 3M. */
export function short(value) {
  const size = Math.abs(value);
  if (size >= 1e9 || (size > 0 && size < 1e-3)) return value.toExponential(1).replace("e+", "e");
  if (size >= 1e6) return `${trimmed(value / 1e6)}M`;
  if (size >= 1e3) return `${trimmed(value / 1e3)}k`;
  return trimmed(value);
}

function trimmed(value) {
  return String(Number(value.toPrecision(4)));
}

export const STATES = {
  running: ["●", "a process trains it now"],
  finished: ["✓", "it took all its steps"],
  stopped: ["■", "it ended before its last step; upright resume goes on with it"],
  stale: ["!", "its process is gone without a word; upright resume goes on with it"],
};

/** A run's short name. */
export function nameOf(row) {
  return row ? `${row.configuration} · seed ${row.seed}` : "a run that is gone";
}
