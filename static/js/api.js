// @ts-check
/**
 * The site's own API: JSON in, JSON out, a named error for everything else. A request that meets an expired sign-in
 * renews it once, for all calls that wait for it together, and is then repeated.
 */

const PATIENCE_MS = 60_000; // how long a server that is away is waited for
const LONGEST_PAUSE_MS = 8000;

/** An answer of the server that is not 2xx, or none at all (status 0, code `offline`). */
export class ApiError extends Error {
  /** @param {number} status @param {{code?: string, message?: string, fields?: object, tries_left?: number}} error @param {number?} [retryAfter] seconds */
  constructor(status, error, retryAfter = null) {
    super(error.message || "The server gave an answer that this page does not understand.");
    this.status = status;
    this.code = error.code || "unknown";
    this.fields = error.fields;
    this.triesLeft = error.tries_left;
    this.retryAfter = retryAfter;
  }

  /** True where the same request may go through later. */
  get transient() {
    return this.status === 0 || this.status === 502 || this.status === 503 || this.status === 504;
  }
}

/** @param {string} name */
function cookie(name) {
  const pair = document.cookie.split("; ").find((part) => part.startsWith(`${name}=`));
  return pair ? decodeURIComponent(pair.slice(name.length + 1)) : "";
}

/**
 * @param {string} method @param {string} path @param {object} [body]
 * @param {{signal?: AbortSignal, csrf?: string}} [options]
 * @returns {Promise<any>} the body, null for 204
 */
async function once(method, path, body, { signal, csrf = "csrf_access_token" } = {}) {
  /** @type {Record<string, string>} */
  const headers = { Accept: "application/json" };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (method !== "GET") headers["X-CSRF-TOKEN"] = cookie(csrf);
  let response;
  try {
    response = await fetch(path, { method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError(0, { code: "offline", message: "The site cannot be reached." });
  }
  if (response.status === 204) return null;
  const answer = await response.json().catch((error) => {
    if (signal?.aborted) throw error;
    if (response.ok) throw new ApiError(0, { code: "offline", message: "The site cannot be reached." }); // cut off on its way
    return {}; // a proxy's page: the status says enough
  });
  if (!response.ok) throw new ApiError(response.status, answer.error ?? {}, secondsIn(response.headers.get("Retry-After")));
  return answer;
}

/** What a Retry-After header says; the form with a date is not used here. @param {string?} header */
const secondsIn = (header) => (/^\d{1,4}$/.test(header ?? "") ? Number(header) : null);

/** @type {Promise<boolean> | null} */
let renewal = null;

/** Renew the sign-in; one request at a time, shared by all that ask. @returns {Promise<boolean>} whether it went well */
export function renew() {
  renewal ??= once("POST", "/api/auth/refresh", undefined, { csrf: "csrf_refresh_token" })
    .then(() => true)
    .catch((error) => {
      if (error.transient) throw error; // not signed out: the server is away
      return false;
    })
    .finally(() => (renewal = null));
  return renewal;
}

/** Whether there is a sign-in that could be renewed. */
export const renewable = () => cookie("csrf_refresh_token") !== "";

export function toSignIn() {
  const next = location.pathname === "/" ? "" : `?next=${encodeURIComponent(location.pathname)}`;
  location.replace(`/sign-in${next}`);
}

/**
 * @param {string} method @param {string} path @param {object} [body] @param {{signal?: AbortSignal}} [options]
 * @returns {Promise<any>}
 */
async function call(method, path, body, options) {
  const csrf = cookie("csrf_access_token");
  try {
    return await once(method, path, body, options);
  } catch (error) {
    if (!(error instanceof ApiError) || error.status !== 401) throw error;
    // Another call, or another tab, may have renewed it while this one was on its way.
    if (cookie("csrf_access_token") === csrf && !(await renew())) {
      toSignIn();
      throw error;
    }
    return once(method, path, body, options);
  }
}

/**
 * As `call`, again and again while the server is away: at the time that it asks for, else at growing distances. The last
 * error is thrown when the next try would come later than *patience* milliseconds after the first.
 * @param {string} method @param {string} path @param {object} [body]
 * @param {{patience?: number, onWait?: (error: ApiError) => void, signal?: AbortSignal}} [options] onWait: it is away, and waited for
 */
async function persistent(method, path, body = {}, { patience = PATIENCE_MS, onWait, ...options } = {}) {
  const until = Date.now() + patience;
  for (let attempt = 1; ; attempt++) {
    try {
      return await call(method, path, body, options);
    } catch (error) {
      if (!(error instanceof ApiError) || !error.transient) throw error;
      const pause = pauseBefore(attempt, error.retryAfter);
      if (Date.now() + pause > until) throw error;
      onWait?.(error);
      await new Promise((resolve) => setTimeout(resolve, pause));
    }
  }
}

/** Milliseconds; never sooner than the server wants, and not all pages at once. @param {number} attempt @param {number?} retryAfter seconds */
function pauseBefore(attempt, retryAfter) {
  if (retryAfter) return retryAfter * 1000 * (1 + Math.random() / 4);
  return Math.min(LONGEST_PAUSE_MS, 250 * 2 ** attempt) * (0.75 + Math.random() / 2);
}

const id = encodeURIComponent;

/** @typedef {(error: ApiError) => void} OnWait */

export const api = {
  models: () => call("GET", "/api/models"),
  /** @param {{page?: number, q?: string, page_size?: number}} query */
  conversations: ({ page = 1, q = "", page_size = 50 } = {}) =>
    call("GET", `/api/chat/conversations?page=${page}&page_size=${page_size}${q ? `&q=${id(q)}` : ""}`),
  conversation: (/** @type {string} */ key) => call("GET", `/api/chat/conversations/${id(key)}`),
  change: (/** @type {string} */ key, /** @type {object} */ values) =>
    call("PATCH", `/api/chat/conversations/${id(key)}`, values),
  remove: (/** @type {string} */ key) => call("DELETE", `/api/chat/conversations/${id(key)}`),
  stop: (/** @type {string} */ key) => persistent("POST", `/api/chat/conversations/${id(key)}/stop`),
  // These carry a requestId: made twice, they are done once.
  start: (/** @type {object} */ body, /** @type {OnWait} */ onWait) => persistent("POST", "/api/chat/start", body, { onWait }),
  regenerate: (/** @type {string} */ message, /** @type {object} */ body, /** @type {OnWait} */ onWait) =>
    persistent("POST", `/api/chat/messages/${id(message)}/regenerate`, body, { onWait }),
  goOn: (/** @type {string} */ message, /** @type {object} */ body, /** @type {OnWait} */ onWait) =>
    persistent("POST", `/api/chat/messages/${id(message)}/continue`, body, { onWait }),
  edit: (/** @type {string} */ message, /** @type {object} */ body, /** @type {OnWait} */ onWait) =>
    persistent("PATCH", `/api/chat/messages/${id(message)}`, body, { onWait }),
  whole: (/** @type {object} */ body, /** @type {AbortSignal} */ signal) =>
    persistent("POST", "/api/v1/ai/chat", body, { patience: 3 * PATIENCE_MS, signal }),
  logout: () => call("POST", "/api/auth/logout", {}),
  login: (/** @type {object} */ body) => once("POST", "/api/auth/login", body),
  register: (/** @type {object} */ body) => once("POST", "/api/auth/register", body),
};

/** A UUID; randomUUID is only there over HTTPS and on loopback. */
export function uuid() {
  if (crypto.randomUUID) return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 15) | 64;
  bytes[8] = (bytes[8] & 63) | 128;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}
