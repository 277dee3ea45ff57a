// What the page knows of the runs, and the one connection over which it hears what is new.

/** Ask the server; throws an Error with its sentence. */
export async function ask(path, query = {}, signal = undefined) {
  const address = new URL(path, location.origin);
  for (const [name, value] of Object.entries(query)) {
    if (value !== null && value !== undefined) address.searchParams.set(name, value);
  }
  return answerOf(await fetch(address, { signal, credentials: "same-origin" }));
}

/** Ask for something to be done. */
export async function post(path, body) {
  return answerOf(await fetch(path, { method: "POST", body: JSON.stringify(body), credentials: "same-origin" }));
}

async function answerOf(response) {
  const text = await response.text();
  let value = null;
  try { value = JSON.parse(text); } catch { /* a refusal is a sentence */ }
  if (!response.ok) throw new Error(value?.error ?? (text.trim() || `The dashboard answered ${response.status}.`));
  return value;
}

class Store extends EventTarget {
  rows = new Map();
  about = {};
  #source = null;
  #cursors = new Map();

  /** Read the whole table. */
  async load() {
    this.about = await ask("/api/runs");
    this.rows = new Map(this.about.runs.map((row) => [row.id, row]));
    delete this.about.runs;
    this.#tell("rows");
  }

  /** Hear of new points of these runs: a Map from id to the cursor that came with their series. */
  follow(cursors) {
    this.#cursors = new Map(cursors);
    this.#connect();
  }

  /** Connect, unless nobody looks: a hidden page costs nothing and asks for all that it missed when it is seen again. */
  #connect() {
    this.#source?.close();
    this.#source = null;
    if (document.hidden) return;
    const runs = [...this.#cursors].map(([id, cursor]) => [id, ...cursor].join(".")).join(",");
    const source = new EventSource(`/api/events?runs=${runs}`);
    this.#source = source;
    source.addEventListener("open", () => this.#tell("connected"));
    source.addEventListener("error", () => this.#tell("lost"));
    source.addEventListener("rows", (event) => {
      for (const [id, row] of Object.entries(JSON.parse(event.data))) {
        if (row === null) this.rows.delete(id); else this.rows.set(id, row);
      }
      this.#tell("rows");
    });
    source.addEventListener("points", (event) => {
      const news = JSON.parse(event.data);
      for (const [id, each] of Object.entries(news)) {
        if (each.cursor && this.#cursors.has(id)) this.#cursors.set(id, each.cursor);
      }
      this.#tell("points", news);
    });
    source.addEventListener("exact", (event) => this.#tell("exact", JSON.parse(event.data)));
  }

  start() {
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) this.#connect();
      else this.load().then(() => this.#connect()).catch(() => this.#tell("lost"));
    });
    this.#connect();
  }

  #tell(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}

export const store = new Store();
