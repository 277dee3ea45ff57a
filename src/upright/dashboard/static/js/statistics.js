// Smoothing, and what several seeds have in common.

/** Exponential moving average, unbiased from its first value on; weight 0 changes nothing. */
export function smoothed(values, weight) {
  if (!weight) return values;
  let sum = 0, mass = 0;
  return values.map((value) => {
    sum = weight * sum + (1 - weight) * value;
    mass = weight * mass + (1 - weight);
    return sum / mass;
  });
}

/** The index of the last of ascending numbers that is not above a value; −1 when all are. */
export function lastUpTo(numbers, value) {
  let low = 0, high = numbers.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (numbers[middle] <= value) low = middle + 1; else high = middle;
  }
  return low - 1;
}

/** The index of the number nearest to a value; −1 without numbers. */
export function nearest(numbers, value) {
  const before = lastUpTo(numbers, value);
  if (before < 0) return numbers.length ? 0 : -1;
  if (before + 1 >= numbers.length) return before;
  return value - numbers[before] <= numbers[before + 1] - value ? before : before + 1;
}

/** The mean of the middle half of sorted numbers; a number at the edge of that half counts for the part within it. */
export function interquartileMean(sorted) {
  const size = sorted.length, low = size / 4, high = size - low;
  let sum = 0, mass = 0;
  for (let i = 0; i < size; i++) {
    const weight = Math.max(0, Math.min(i + 1, high) - Math.max(i, low));
    sum += weight * sorted[i];
    mass += weight;
  }
  return sum / mass;
}

/** The quantile of sorted numbers, linear between them. */
export function quantile(sorted, fraction) {
  const place = fraction * (sorted.length - 1), below = Math.floor(place);
  const above = Math.min(below + 1, sorted.length - 1);
  return sorted[below] + (place - below) * (sorted[above] - sorted[below]);
}

/**
 * The interquartile mean of several lines, and the band between their quartiles, at up to `most` steps.
 * A line counts from its first step to its last, at the value that it had last.
 */
export function summary(lines, most = 240) {
  const filled = lines.filter((line) => line.steps.length);
  if (filled.length < 2) return null;
  const begin = Math.min(...filled.map((line) => line.steps[0]));
  const end = Math.max(...filled.map((line) => line.steps.at(-1)));
  const longest = filled.reduce((a, b) => (b.steps.length > a.steps.length ? b : a)).steps.length;
  const size = Math.min(most, Math.max(2, longest));
  const places = filled.map(() => 0);
  const found = { steps: [], values: [], low: [], high: [], seeds: filled.length };
  for (let k = 0; k < size; k++) {
    const step = begin + ((end - begin) * k) / (size - 1);
    const values = [];
    filled.forEach((line, i) => {
      while (places[i] + 1 < line.steps.length && line.steps[places[i] + 1] <= step) places[i]++;
      if (line.steps[places[i]] <= step && step <= line.steps.at(-1)) values.push(line.values[places[i]]);
    });
    if (values.length < 2) continue;
    values.sort((a, b) => a - b);
    found.steps.push(step);
    found.values.push(interquartileMean(values));
    found.low.push(quantile(values, 0.25));
    found.high.push(quantile(values, 0.75));
  }
  return found.steps.length ? found : null;
}
