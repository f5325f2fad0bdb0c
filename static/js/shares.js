// @ts-check
/**
 * Which of this browser's tabs may hold a stream. HTTP/1.1 gives six connections per host to all tabs together, and a
 * seventh request waits for ever; so at most four tabs hold one, those that were looked at last, and a tab that is hidden
 * for long holds none. Each tab tells the others of itself and decides for itself by the same rule. A tab that was not
 * heard for a while (closed, frozen) counts no more.
 */

const MOST = 4;
const TELL_MS = 2000;
const FORGET_MS = 6000; // the timers of a hidden tab run once a second
const HIDDEN_MS = 60_000;

/** @typedef {{id: string, hidden: boolean, lookedAt: number, until: number}} Tab */

export class Share {
  #id = Math.random().toString(36).slice(2);
  #lookedAt = Date.now();
  #hiddenAt = document.hidden ? Date.now() : Infinity;
  /** @type {Map<string, Tab>} */ #others = new Map();
  #granted = true;
  #onChange;
  #most;
  /** @type {BroadcastChannel | null} */ #channel = null;
  #listening = new AbortController();
  /** @type {ReturnType<typeof setInterval> | undefined} */ #clock;

  /** @param {(granted: boolean) => void} onChange told when it changes; at first it is granted @param {{many?: boolean}} [how] many: this connection carries any number of streams */
  constructor(onChange, { many = false } = {}) {
    this.#onChange = onChange;
    this.#most = many ? Infinity : MOST;
    const { signal } = this.#listening;
    document.addEventListener("visibilitychange", () => this.#looked(), { signal });
    addEventListener("focus", () => this.#looked(), { signal });
    addEventListener("pagehide", () => this.#tell(true), { signal });
    if (!many && "BroadcastChannel" in globalThis) {
      this.#channel = new BroadcastChannel("chat.streams");
      this.#channel.onmessage = ({ data }) => this.#hear(data);
    }
    this.#clock = setInterval(() => (this.#tell(), this.#decide()), TELL_MS);
    this.#tell();
  }

  /** This tab wants no stream any more. */
  close() {
    this.#listening.abort();
    clearInterval(this.#clock);
    this.#tell(true);
    this.#channel?.close();
    this.#channel = null;
  }

  #looked() {
    this.#hiddenAt = document.hidden ? Math.min(this.#hiddenAt, Date.now()) : Infinity;
    if (!document.hidden) this.#lookedAt = Date.now();
    this.#tell();
    this.#decide();
  }

  #tell(gone = false) {
    this.#channel?.postMessage({ id: this.#id, hidden: document.hidden, lookedAt: this.#lookedAt, gone });
  }

  /** @param {{id: string, hidden: boolean, lookedAt: number, gone: boolean}} told */
  #hear({ id, hidden, lookedAt, gone }) {
    const known = this.#others.has(id);
    if (gone) this.#others.delete(id);
    else this.#others.set(id, { id, hidden, lookedAt, until: Date.now() + FORGET_MS });
    if (!known && !gone) this.#tell(); // it has just come, and knows nobody
    this.#decide();
  }

  #decide() {
    const now = Date.now();
    for (const { id, until } of this.#others.values()) if (until < now) this.#others.delete(id);
    const me = { id: this.#id, hidden: document.hidden, lookedAt: this.#lookedAt };
    const before = [...this.#others.values()].filter((other) => isBefore(other, me)).length;
    const granted = before < this.#most && now - this.#hiddenAt < HIDDEN_MS;
    if (granted === this.#granted) return;
    this.#granted = granted;
    this.#onChange(granted);
  }
}

/** @typedef {{id: string, hidden: boolean, lookedAt: number}} Rank @param {Rank} one @param {Rank} other */
function isBefore(one, other) {
  if (one.hidden !== other.hidden) return other.hidden;
  if (one.lookedAt !== other.lookedAt) return one.lookedAt > other.lookedAt;
  return one.id < other.id;
}
