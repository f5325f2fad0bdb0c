// @ts-check
/**
 * An event stream as a live value, without a framework: `useEventSource(url)` → `{data, error, isConnected, close}`.
 *
 * EventSource does what it can: it comes back by itself after a broken connection. But it gives up for good on any status
 * but 200, a proxy's 502 and the stream's own 204 alike, and cannot say which it was. So the address is asked once more: 204
 * is the end, a refusal is an error that stays, and for anything else it is tried again, later each time, from the last id.
 *
 * Named events reach `onMessage` too, which EventSource gives only to who asks for the name. One that is named `error` is
 * told apart from a lost connection: it has data.
 */

export const NAMES = ["message", "chunk", "typing", "progress", "sources", "done", "error", "heartbeat", "notification", "conversation", "sync"];
export const LOST = "Connection lost. Reconnecting…";
const FIRST_RETRY_MS = 500;
const LAST_RETRY_MS = 15_000;
const PASSING = [408, 425, 429]; // of the refusals these may be gone the next time

/**
 * @typedef {object} Options
 * @property {(event: MessageEvent) => void} [onMessage]  every event, whatever its name (`event.type`)
 * @property {(error: Event) => void} [onError]  the connection was lost, or refused
 * @property {() => void} [onOpen]  it is there, for the first time or again
 * @property {() => void} [onClose]  it has ended for good: by `close`, a `done`, the server's 204, or a refusal
 * @property {boolean} [withCredentials]  send cookies to another origin
 * @property {string[]} [events]  further names to hear
 *
 * @typedef {object} Live  Its values change; `subscribe` tells when.
 * @property {any} data  the latest event's data, parsed if it is JSON; null before the first
 * @property {string | null} error  what is wrong, for people; null if nothing is
 * @property {boolean} isConnected
 * @property {() => void} close
 * @property {(listener: () => void) => () => void} subscribe  returns what ends the subscription
 */

/** @param {string | URL} url @param {Options} [options] @returns {Live} */
export function useEventSource(url, options = {}) {
  const follower = new Follower(String(url), options);
  return {
    get data() {
      return follower.data;
    },
    get error() {
      return follower.error;
    },
    get isConnected() {
      return follower.isConnected;
    },
    close: () => follower.close(),
    subscribe: (listener) => follower.subscribe(listener),
  };
}

class Follower {
  data = /** @type {any} */ (null);
  error = /** @type {string | null} */ (null);
  isConnected = false;
  #url;
  #options;
  #names;
  #source = /** @type {EventSource | null} */ (null);
  #timer = /** @type {ReturnType<typeof setTimeout> | undefined} */ (undefined);
  #asking = new AbortController();
  #listeners = /** @type {Set<() => void>} */ (new Set());
  #lastId = "";
  #failures = 0; // since the last event that came
  #refused = false; // the last event was an error of the server's
  #closed = false;

  /** @param {string} url @param {Options} options */
  constructor(url, options) {
    this.#url = url;
    this.#options = options;
    this.#names = new Set([...NAMES, ...(options.events ?? [])]);
    this.#open();
  }

  /** @param {() => void} listener */
  subscribe(listener) {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  close() {
    if (this.#closed) return;
    this.#closed = true;
    this.#source?.close();
    this.#asking.abort();
    clearTimeout(this.#timer);
    this.#change({ isConnected: false });
    this.#options.onClose?.();
  }

  /** @param {Partial<Pick<Live, "data" | "error" | "isConnected">>} values */
  #change(values) {
    Object.assign(this, values);
    for (const listener of [...this.#listeners]) listener();
  }

  #open() {
    if (this.#closed) return;
    const source = new EventSource(this.#address(), { withCredentials: this.#options.withCredentials ?? false });
    this.#source = source;
    source.onopen = () => {
      if (this.#closed) return;
      this.#change({ isConnected: true, error: this.#refused ? this.error : null });
      this.#options.onOpen?.();
    };
    // one of the server's own called `error` comes here too
    for (const name of this.#names) source.addEventListener(name, (event) => source === this.#source && this.#take(event));
  }

  /** Where to go on: a new EventSource can say so in no other way. */
  #address() {
    if (!this.#lastId) return this.#url;
    const [path, fragment = ""] = this.#url.split("#");
    return `${path}${path.includes("?") ? "&" : "?"}lastEventId=${encodeURIComponent(this.#lastId)}${fragment && "#"}${fragment}`;
  }

  /** @param {Event} event */
  #take(event) {
    if (this.#closed) return;
    if (!isMessage(event)) return this.#broken(event);
    this.#lastId = event.lastEventId || this.#lastId;
    const data = event.type === "heartbeat" ? this.data : parsed(event.data);
    this.#refused = event.type === "error";
    if (!this.#refused) this.#failures = 0;
    this.#change({ data, error: this.#refused ? (data?.message ?? String(event.data)) : null });
    this.#options.onMessage?.(event);
    if (event.type === "done") this.close();
  }

  /** @param {Event} event */
  #broken(event) {
    const left = this.#refused || this.#source?.readyState === EventSource.CLOSED;
    if (left) this.#source?.close(); // after an error of the server's it would come back every few seconds for ever
    this.#change({ isConnected: false, error: this.#refused ? this.error : LOST });
    this.#options.onError?.(event);
    if (left && !this.#closed) this.#wait();
  }

  #wait() {
    const longest = Math.min(LAST_RETRY_MS, FIRST_RETRY_MS * 2 ** this.#failures);
    this.#failures += 1;
    this.#timer = setTimeout(() => this.#ask(), longest * (0.5 + Math.random() / 2));
  }

  /** Find out why EventSource gave up, and go on if that may be. */
  async #ask() {
    const credentials = this.#options.withCredentials ? "include" : "same-origin";
    const headers = { Accept: "text/event-stream" };
    try {
      const response = await fetch(this.#address(), { headers, credentials, signal: this.#asking.signal, cache: "no-store" });
      const { status } = response;
      const isRefused = status >= 400 && status < 500 && !PASSING.includes(status);
      if (isRefused) this.#change({ error: await reason(response) });
      else response.body?.cancel().catch(() => {});
      if (status === 204 && this.error === LOST) this.#change({ error: null });
      if (isRefused || status === 204) return this.close();
      if (status === 200) return this.#open();
    } catch {
      // the server is away, or this was closed meanwhile
    }
    if (!this.#closed) this.#wait();
  }
}

/** Whether it is the server's, and no sign of a lost connection. @param {Event} event @returns {event is MessageEvent} */
function isMessage(event) {
  return "data" in event;
}

/** @param {string} text */
function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

/** What the server says of a refusal. @param {Response} response @returns {Promise<string>} */
async function reason(response) {
  const body = await response.json().catch(() => null);
  return body?.error?.message ?? `The server refuses this stream (${response.status}).`;
}
