// @ts-check
/**
 * A client for `POST /api/stream`, in browsers and in Node 18 or newer: one file, nothing else needed.
 *
 *     const client = new SSEChatClient({ token });
 *     await client.sendMessage({ messages, model, chatId }, { onChunk: ({ content }) => show(content) });
 *
 * With a `chatId` the site keeps the answer, so a connection that breaks is made again and goes on exactly there: the same
 * `Idempotency-Key` means the same answer, `Last-Event-ID` what was seen of it. Without one there is nothing to come back to.
 */

const SILENCE_MS = 40_000; // the site sends a comment every 15 s: whoever is silent for longer is gone
const TRIES = 6; // in a row, without an event between them
const FIRST_PAUSE_MS = 300;
const LAST_PAUSE_MS = 8000;
const AWAY = "The site cannot be reached. Look at your connection, and try again.";
const BROKEN = "The connection broke, and the answer cannot be gone on with. Ask again.";
const STRANGE = "The site gave an answer that this client does not understand.";

/**
 * @typedef {{id: string, role: "user" | "assistant" | "system", content: string, timestamp?: Date | string | number}} ChatMessage
 * @typedef {object} ChatRequest
 * @property {ChatMessage[]} messages  the whole history; the last one is the question
 * @property {string} model
 * @property {string} [chatId]  the new questions and the answer are stored under this name
 * @property {string} [systemPrompt]
 * @property {string} [requestId]  the same one means the same answer
 * @typedef {object} ChatHandlers
 * @property {(data: {messageId: string}) => void} [onStart]
 * @property {(data: {messageId: string, content: string, done: boolean}) => void} [onChunk]
 * @property {(data: {messageId: string, fullContent: string}) => void} [onComplete]
 * @property {(error: {message: string}) => void} [onError]
 * @typedef {{event: string, data: string, id: string | null}} Frame  `id` is null where the event has none of its own
 */

export class SSEChatClient {
  #url;
  #token;
  /** @type {Set<AbortController>} */ #running = new Set();

  /** @param {{baseUrl?: string, token?: string}} [options] without a token the browser's sign-in counts */
  constructor({ baseUrl = "", token } = {}) {
    this.#url = `${baseUrl.replace(/\/+$/, "")}/api/stream`;
    this.#token = token;
  }

  /**
   * Ask, and hand on what comes, each event once. Resolves at the end, good or bad: after `onComplete`, after `onError`, or
   * after `abort`. Rejects with what a handler throws.
   * @param {ChatRequest} request @param {ChatHandlers} [handlers]
   */
  async sendMessage(request, handlers = {}) {
    const stopping = new AbortController();
    this.#running.add(stopping);
    try {
      await new Answer(this.#url, this.#token, request, handlers, stopping.signal).follow();
    } finally {
      this.#running.delete(stopping);
    }
  }

  /** Read no further. An answer that has a `chatId` is still written to its end, and stored. */
  abort() {
    for (const stopping of this.#running) stopping.abort();
  }
}

/** One answer, over as many connections as it takes. */
class Answer {
  #url;
  #headers;
  #body;
  #on;
  #stopped;
  #keeps; // the site keeps this answer
  #ended = false;
  #lastId = "";
  #failures = 0; // since the last event
  #sentence = AWAY; // why it could not be gone on with

  /** @param {string} url @param {string | undefined} token @param {ChatRequest} request @param {ChatHandlers} handlers @param {AbortSignal} stopped */
  constructor(url, token, request, handlers, stopped) {
    this.#url = url;
    this.#on = handlers;
    this.#stopped = stopped;
    this.#keeps = Boolean(request.chatId);
    this.#body = JSON.stringify(request); // dates become RFC 3339
    /** @type {Record<string, string>} */
    this.#headers = {
      "Content-Type": "application/json",
      Accept: "text/event-stream",
      "Idempotency-Key": request.requestId || uuid(),
    };
    if (token) this.#headers.Authorization = `Bearer ${token}`;
  }

  async follow() {
    while (!this.#over) {
      const pause = await this.#connect();
      if (this.#over) return;
      this.#failures += 1;
      if (!this.#keeps || this.#failures >= TRIES) return this.#fail(this.#sentence);
      await this.#sleep(Math.max(pause, Math.min(LAST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** (this.#failures - 1)) * (0.5 + Math.random())));
    }
  }

  get #over() {
    return this.#ended || this.#stopped.aborted;
  }

  /** Read one connection to its end. @returns {Promise<number>} how many ms to wait at least before the next */
  async #connect() {
    const connection = new AbortController();
    const leave = () => connection.abort();
    this.#stopped.addEventListener("abort", leave);
    /** @type {ReturnType<typeof setTimeout> | undefined} */ let watchdog;
    const watch = () => {
      clearTimeout(watchdog);
      watchdog = setTimeout(leave, SILENCE_MS);
    };
    try {
      watch();
      const response = await broken(fetch(this.#url, this.#request(connection.signal)));
      if (!response) return 0;
      if (response.status !== 200) return await this.#refused(response);
      if (!response.body || !/^text\/event-stream\b/i.test(response.headers.get("Content-Type") ?? "")) return this.#fail(STRANGE);
      const reader = response.body.getReader(), parser = new EventParser();
      this.#sentence = BROKEN;
      for (;;) {
        const step = await broken(reader.read());
        if (!step || step.done) return 0;
        watch();
        for (const frame of parser.feed(step.value)) {
          this.#take(frame);
          if (this.#over) return 0;
        }
      }
    } finally {
      clearTimeout(watchdog);
      this.#stopped.removeEventListener("abort", leave);
      leave(); // lets go of the connection, also after a handler has thrown
    }
  }

  /** @param {AbortSignal} signal @returns {RequestInit} */
  #request(signal) {
    const headers = { ...this.#headers };
    const csrf = cookie("csrf_access_token"); // another one after the sign-in was renewed
    if (csrf && !headers.Authorization) headers["X-CSRF-TOKEN"] = csrf;
    if (this.#lastId) headers["Last-Event-ID"] = this.#lastId;
    return { method: "POST", headers, body: this.#body, signal };
  }

  /** @param {Response} response @returns {Promise<number>} */
  async #refused(response) {
    const answer = await response.json().catch(() => null);
    this.#sentence = answer?.error?.message || `The site answered with the status ${response.status}.`;
    const away = [502, 503, 504].includes(response.status) || (response.status === 429 && this.#lastId !== "");
    if (!away || (!this.#lastId && answer?.error)) this.#fail(this.#sentence); // the site itself refuses to begin
    return 1000 * Math.min(Number(response.headers.get("Retry-After")) || 0, 10);
  }

  /** @param {Frame} frame */
  #take({ event, data, id }) {
    if (!["message-start", "message-chunk", "message-complete", "error"].includes(event)) return;
    const fields = parsed(data);
    if (!fields) return this.#fail(STRANGE);
    if (id === null) {
      // no event of the answer, but what is wrong with this connection: the next one may be better, or tells what is
      this.#sentence = fields.message || BROKEN;
      if (!this.#keeps) this.#fail(this.#sentence);
      return;
    }
    const [answer, seq] = place(id), [known, seen] = place(this.#lastId);
    if (this.#lastId && answer !== known) return this.#fail(BROKEN); // another answer, from its beginning
    if (this.#lastId && seq <= seen) return;
    this.#lastId = id;
    this.#failures = 0;
    if (event === "message-start") this.#on.onStart?.(fields);
    else if (event === "message-chunk") this.#on.onChunk?.(fields);
    else if (event === "error") this.#fail(fields.message);
    else {
      this.#ended = true;
      this.#on.onComplete?.(fields);
    }
  }

  /** @param {string} message @returns {0} */
  #fail(message) {
    if (!this.#over) {
      this.#ended = true;
      this.#on.onError?.({ message });
    }
    return 0;
  }

  /** @param {number} milliseconds */
  #sleep(milliseconds) {
    return new Promise((/** @type {(value?: any) => void} */ resolve) => {
      const timer = setTimeout(resolve, milliseconds);
      this.#stopped.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
    });
  }
}

/** Server-sent events out of bytes, cut anywhere (WHATWG HTML 9.2.6). */
export class EventParser {
  #decoder = new TextDecoder(); // takes a byte order mark off, and keeps a letter that is cut
  #rest = "";
  #afterCr = false;
  /** @type {string[]} */ #data = [];
  #event = "";
  /** @type {string | null} */ #id = null;

  /** @param {Uint8Array} bytes @returns {Frame[]} the events that are whole now */
  feed(bytes) {
    let text = this.#decoder.decode(bytes, { stream: true });
    if (!text) return [];
    if (this.#afterCr && text[0] === "\n") text = text.slice(1);
    this.#afterCr = text ? text.endsWith("\r") : false;
    const [first, ...lines] = text.split(/\r\n|\r|\n/);
    if (!lines.length) {
      this.#rest += first;
      return [];
    }
    lines.unshift(this.#rest + first);
    this.#rest = /** @type {string} */ (lines.pop());
    return lines.map((line) => this.#line(line)).filter((frame) => frame !== null);
  }

  /** @param {string} line @returns {Frame | null} */
  #line(line) {
    if (!line) return this.#dispatch();
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(line[colon + 1] === " " ? colon + 2 : colon + 1);
    if (name === "data") this.#data.push(value);
    else if (name === "event") this.#event = value;
    else if (name === "id" && !value.includes("\0")) this.#id = value;
    return null; // a comment, `retry`, or something new
  }

  #dispatch() {
    const frame = this.#data.length ? { event: this.#event || "message", data: this.#data.join("\n"), id: this.#id } : null;
    this.#data = [];
    this.#event = "";
    this.#id = null;
    return frame;
  }
}

/** What *promise* brings; null where the connection breaks. @template T @param {Promise<T>} promise @returns {Promise<T | null>} */
const broken = (promise) => promise.catch(() => null);

/** The answer that an event's id names, and its place in it. @param {string} id @returns {[string, number]} */
function place(id) {
  const cut = id.lastIndexOf("-") + 1;
  return [id.slice(0, cut), Number(id.slice(cut))];
}

/** @param {string} data @returns {any} */
function parsed(data) {
  try {
    return JSON.parse(data);
  } catch {
    return null;
  }
}

/** @param {string} name */
function cookie(name) {
  if (typeof document === "undefined") return "";
  const pair = document.cookie.split("; ").find((part) => part.startsWith(`${name}=`));
  return pair ? decodeURIComponent(pair.slice(name.length + 1)) : "";
}

/** A UUID; randomUUID is only there over HTTPS and on loopback. */
function uuid() {
  const { crypto } = globalThis; // not there in Node 18
  if (crypto?.randomUUID) return crypto.randomUUID();
  const byte = () => (crypto?.getRandomValues ? crypto.getRandomValues(new Uint8Array(1))[0] : Math.floor(Math.random() * 256));
  return Array.from({ length: 16 }, () => byte().toString(16).padStart(2, "0")).join("");
}
