// @ts-check
/**
 * The events of one generation, whole and in order, whatever happens to the connection.
 *
 * EventSource gives up for good on any status but 200 (a proxy's 502 included) and cannot say which one it was; it
 * returns on its own only after a broken connection. So it is not left to itself: after every error it is closed and a
 * new one is made from the last seq that was seen. Invariant: events are handed on exactly once, in the order
 * 1, 2, 3, …; what was seen is dropped, a gap is a reason to ask again, never skipped.
 *
 * A `fail` that carries no new seq is not an event of the log but a refusal of this connection.
 */

const NAMES = ["start", "status", "sources", "reasoning", "token", "usage", "done", "fail", "reset"];
const SILENCE_MS = 40_000; // heartbeats come every 15 s but are comments, which EventSource hides: ask again, from here
const FIRST_RETRY_MS = 500;
const LAST_RETRY_MS = 15_000;
const TRIES_BEFORE_DOUBT = 3; // so many refusals in a row, while the server is there: streams cannot be had

/**
 * @typedef {{event: string, seq: number, [field: string]: any}} StreamEvent
 * @typedef {object} Handlers
 * @property {(event: StreamEvent) => void} onEvent
 * @property {(waiting: {until: number} | null) => void} onWait  until: when the next try is made; null: connected
 * @property {() => Promise<boolean>} onUnauthorized  renews the sign-in
 * @property {() => Promise<"running" | "ended" | "gone">} onDoubt  what the server says of the answer; throws when away
 * @property {(why: "ended" | "gone" | "refused") => void} onGiveUp  this stream cannot bring the rest
 */

export class AnswerStream {
  /** @type {string} */ #url;
  /** @type {Handlers} */ #on;
  /** @type {EventSource | null} */ #source = null;
  /** @type {ReturnType<typeof setTimeout> | undefined} */ #timer;
  /** @type {ReturnType<typeof setTimeout> | undefined} */ #watchdog;
  #last;
  #failures = 0; // since the last event that came
  #refusals = 0; // of these, those where the server itself was there
  #renewals = 0; // of the sign-in, since the last event
  #waiting = false;
  #attempt = 0;
  #opened = false;
  #closed = false;
  #paused = false;
  #listening = new AbortController();

  /** @param {string} url @param {Handlers} handlers @param {number} [after] the last seq that is known */
  constructor(url, handlers, after = 0) {
    this.#url = url;
    this.#on = handlers;
    this.#last = after;
    const { signal } = this.#listening;
    addEventListener("online", () => this.retryNow(), { signal });
    addEventListener("pagehide", () => this.#drop(), { signal });
    addEventListener("pageshow", (event) => event.persisted && this.#open(), { signal });
    document.addEventListener("visibilitychange", () => document.hidden || this.retryNow(), { signal });
    this.#open();
  }

  /** The last seq that was handed on. */
  get cursor() {
    return this.#last;
  }

  /** Do not wait for the next try. */
  retryNow() {
    if (this.#waiting) this.#open();
  }

  /** Hold no connection until `resume`; then it goes on from the last seq. */
  pause() {
    this.#paused = true;
    this.#drop();
    this.#on.onWait(null);
  }

  resume() {
    if (!this.#paused) return;
    this.#paused = false;
    this.#open();
  }

  close() {
    this.#closed = true;
    this.#listening.abort();
    this.#drop();
  }

  #drop() {
    this.#source?.close();
    this.#source = null;
    this.#waiting = false;
    clearTimeout(this.#timer);
    clearTimeout(this.#watchdog);
  }

  #open() {
    if (this.#closed || this.#paused) return;
    this.#drop();
    this.#attempt += 1;
    this.#opened = false;
    const source = new EventSource(this.#last ? `${this.#url}?lastEventId=${this.#last}` : this.#url);
    this.#source = source;
    source.onopen = () => (this.#opened = true);
    source.onerror = () => source === this.#source && this.#broken();
    for (const name of NAMES) {
      source.addEventListener(name, (event) => source === this.#source && this.#take(name, /** @type {MessageEvent} */ (event)));
    }
    this.#watch();
  }

  #watch() {
    clearTimeout(this.#watchdog);
    this.#watchdog = setTimeout(() => this.#open(), SILENCE_MS);
  }

  /** @param {string} name @param {MessageEvent} message */
  #take(name, message) {
    const seq = /^\d+$/.test(message.lastEventId) ? Number(message.lastEventId) : 0;
    let fields;
    try {
      fields = JSON.parse(message.data);
    } catch {
      return this.#broken();
    }
    if (name === "fail" && seq <= this.#last) return this.#refused(fields);
    if (name !== "reset") {
      if (seq <= this.#last) return;
      if (seq !== this.#last + 1) return this.#broken(); // a gap
    }
    this.#last = Math.max(seq, name === "reset" ? 0 : this.#last);
    this.#failures = this.#refusals = this.#renewals = 0;
    this.#on.onWait(null);
    this.#watch();
    if (name === "done" || name === "fail") this.close();
    this.#on.onEvent({ ...fields, event: name, seq });
  }

  /** The connection broke, or was never made. */
  async #broken() {
    const opened = this.#opened;
    this.#drop();
    this.#failures += 1;
    // A short break after a good connection is an everyday thing: come back without a question.
    if (opened && this.#failures === 1) return this.#wait(FIRST_RETRY_MS * (0.5 + Math.random()));
    this.#waiting = true;
    const attempt = this.#attempt;
    try {
      const state = await this.#on.onDoubt();
      if (this.#overtaken(attempt)) return;
      if (state !== "running") return this.#giveUp(state);
      this.#refusals += 1;
      if (this.#refusals >= TRIES_BEFORE_DOUBT) return this.#giveUp("refused");
    } catch {
      if (this.#overtaken(attempt)) return;
      // The server is away: wait for it as long as it takes.
    }
    this.#wait();
  }

  /** Whether, while something was awaited, this stream was closed or opened again. @param {number} attempt */
  #overtaken(attempt) {
    return this.#closed || !this.#waiting || attempt !== this.#attempt;
  }

  /** @param {{code: string}} refusal */
  async #refused({ code }) {
    this.#drop();
    this.#failures += 1;
    if (code === "not_found" || code === "forbidden") return this.#giveUp("gone");
    this.#waiting = true;
    if (code === "unauthorized") {
      const attempt = this.#attempt;
      const renewed = await this.#on.onUnauthorized().catch(() => null);
      if (this.#overtaken(attempt)) return;
      if (renewed === false) return this.#giveUp("gone");
      if (renewed && this.#renewals++ === 0) return this.#open(); // with the new one, before that runs out too
    }
    this.#wait();
  }

  #wait(milliseconds = Math.min(LAST_RETRY_MS, FIRST_RETRY_MS * 2 ** this.#failures) * (0.75 + Math.random() / 2)) {
    this.#waiting = true;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#open(), milliseconds);
    if (this.#failures > 1) this.#on.onWait({ until: Date.now() + milliseconds });
  }

  /** @param {"ended" | "gone" | "refused"} why */
  #giveUp(why) {
    this.close();
    this.#on.onWait(null);
    this.#on.onGiveUp(why);
  }
}
