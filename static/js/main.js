// @ts-check
/**
 * The page: puts the sidebar, the thread and the composer together. Holds one conversation and follows at most one
 * answer, since streams are few per browser.
 */
import { api, ApiError, renew, toSignIn, uuid } from "./api.js";
import { fold, fromMessage, isTerminal } from "./answer.js";
import { AnswerStream } from "./stream.js";
import "./elements/chat-sidebar.js";
import "./elements/chat-composer.js";
import { branch, newestLeaf, siblings } from "./elements/chat-thread.js";

const FRESH_MS = 15_000; // a list older than this is asked for again when the page is looked at
const OTHERS_MS = 5000; // how late the list may learn that another answer has ended
const POLL_MS = 1500;
const RESTING_POLL_MS = 10_000;
const GOING_ON = "Going on where the answer broke off…";

/** @typedef {Record<string, any>} Message */
/** @typedef {import("./answer.js").Answer} Answer */
/** What is followed; `had` is what was shown of it already. @typedef {{message: Message, request: Record<string, any>?, answer: Answer, had: Answer, stream: AnswerStream | null, share: {close: () => void} | null, abort: AbortController}} Following */

const boot = JSON.parse(document.getElementById("boot")?.textContent ?? "{}");
const site = document.body.dataset.site ?? "";
const sidebar = /** @type {import("./elements/chat-sidebar.js").ChatSidebar} */ (document.querySelector("chat-sidebar"));
const thread = /** @type {import("./elements/chat-thread.js").ChatThread} */ (document.querySelector("chat-thread"));
const composer = /** @type {import("./elements/chat-composer.js").ChatComposer} */ (document.querySelector("chat-composer"));
const part = (/** @type {string} */ name) => /** @type {HTMLElement} */ (document.querySelector(`[data-part="${name}"]`));

/** What is shown. `key` changes whenever another conversation is turned to. */
let shown = { key: 0, id: /** @type {string?} */ (null), title: "", leaf: /** @type {string?} */ (null), messages: /** @type {Map<string, Message>} */ (new Map()) };
/** @type {Following | null} */
let following = null;
let listed = 0;
let stopWanted = false; // before the server has said what it began
let starting = 0; // questions that are on their way to the server
let opened = Promise.resolve(); // settled when the conversation that is turned to has been read

// Showing

/** @param {string} title */
function setTitle(title) {
  shown.title = title;
  part("title").textContent = title || "New conversation";
  document.title = `${title || "New conversation"} · ${site}`;
}

function draw() {
  part("empty").hidden = shown.messages.size > 0 || shown.id !== null;
  document.querySelector(".bar__more")?.toggleAttribute("hidden", !shown.id);
  thread.show(shown.messages, shown.leaf);
}

/** @param {string?} id */
function turnTo(id) {
  unfollow();
  shown = { key: shown.key + 1, id, title: "", leaf: null, messages: new Map() };
  sidebar.current = id;
  thread.clear();
  thread.removeAttribute("data-state");
  composer.open(id);
  composer.running = false;
  setTitle("");
  closeDrawer();
}

/** Show the conversation *id*, as it is on the server. @param {string?} id */
async function open(id) {
  turnTo(id);
  opened = id ? reload({ first: true }) : Promise.resolve();
  if (!id) draw();
  await opened;
  if (matchMedia("(pointer: fine)").matches) composer.focusText();
}

/** Ask the server for the conversation again. @param {{first?: boolean}} [how] */
async function reload({ first = false } = {}) {
  const { key, id } = shown;
  if (!id) return;
  let conversation;
  try {
    conversation = await api.conversation(id);
  } catch (error) {
    if (key === shown.key && first) failedToOpen(/** @type {ApiError} */ (error));
    return;
  }
  if (key !== shown.key || following || (starting && !first)) return;
  if (!first && sameAs(conversation)) return; // nothing is redrawn under the reader's hands
  shown.messages = new Map(conversation.messages.map((message) => [message.id, message]));
  shown.leaf = conversation.leaf_id ?? conversation.messages.at(-1)?.id ?? null;
  setTitle(conversation.title);
  draw();
  const running = branch(shown.messages, shown.leaf).findLast(({ status, generation_id }) => status === "running" && generation_id);
  if (running) follow(running, null);
  else composer.running = false;
  if (first) thread.follow();
}

/** Whether *conversation* is what is shown already. @param {Record<string, any>} conversation */
function sameAs({ leaf_id, messages }) {
  const same = ({ id, status, generation_id }) => shown.messages.get(id)?.status === status && shown.messages.get(id)?.generation_id === generation_id;
  return leaf_id === shown.leaf && messages.length === shown.messages.size && messages.every(same);
}

/** @param {ApiError} error */
function failedToOpen(error) {
  setTitle(error.status === 404 ? "Not found" : "");
  if (error.status === 404) shown.id = null; // what is asked here begins a new one
  const note = Object.assign(document.createElement("p"), { className: "answer__status", textContent: error.status === 404 ? "There is no such conversation, or it is not yours." : error.message });
  thread.replaceChildren(note);
  if (error.transient) setTimeout(() => thread.contains(note) && reload({ first: true }), 3000);
}

// Following an answer

/** @param {Message} message @param {Record<string, any>?} request what it was asked with, if this page asked */
function follow(message, request) {
  unfollow();
  const answer = fromMessage({ ...message, content: "", reasoning: "" }); // the stream begins with the first word
  following = { message, request, answer, had: fromMessage(message), stream: null, share: null, abort: new AbortController() };
  composer.running = true;
  sidebar.update({ id: /** @type {string} */ (shown.id), running: true });
  if (composer.streaming && "EventSource" in window) byStream(following);
  else byRest(following);
}

function unfollow() {
  following?.stream?.close();
  following?.share?.close();
  following?.abort.abort();
  following = null;
  composer.connection(null);
}

/** @param {Following} mine @param {import("./answer.js").Event[]} events */
function take(mine, events) {
  if (mine !== following) return;
  const answer = fold(events, mine.answer);
  mine.answer = answer;
  const seen = notLess(answer, mine.had);
  const { text, status, phase, reasoning, sources, usage, finish_reason, error, metadata, model } = seen;
  Object.assign(mine.message, { content: text, status, phase, reasoning, sources, usage, finish_reason, error, metadata, model });
  thread.turnOf(mine.message.id)?.show(seen);
  if (isTerminal(answer)) ended(mine);
}

/** The *answer*, but nothing that was shown already is taken back while its log is still being told. @param {Answer} answer @param {Answer} had @returns {Answer} */
function notLess(answer, had) {
  if (isTerminal(answer)) return answer;
  const longer = (/** @type {"text" | "reasoning"} */ part) => (answer[part].length < had[part].length ? had[part] : answer[part]);
  return { ...answer, text: longer("text"), reasoning: longer("reasoning"), phase: answer.text.length < had.text.length ? had.phase : answer.phase };
}

/** @param {Following} mine */
function ended(mine) {
  if (mine !== following) return;
  unfollow();
  const id = /** @type {string} */ (shown.id);
  sidebar.update({ id, running: false });
  draw();
  if (mine.message.status === "failed" || mine.message.status === "interrupted") composer.holdNext();
  composer.running = false;
  refreshList();
  reload(); // perhaps another tab asked here too
  if (/^\/model\s+\S/i.test(mine.request?.message ?? "")) takeModel(id, mine.message.content);
}

/** What `/model` chose is the composer's choice too, which goes along with each question. @param {string} id @param {string} said the command's answer */
async function takeModel(id, said) {
  const { model } = await api.conversation(id).catch(() => ({ model: null }));
  if (id === shown.id && model && said.includes(`\`${model}\``)) composer.choose(model); // else nothing was changed
}

/** @param {Following} mine */
function byStream(mine) {
  shareStreams(mine);
  mine.stream = new AnswerStream(`/api/generations/${mine.message.generation_id}/events`, {
    onEvent: (event) => take(mine, [event]),
    onWait: (waiting) => mine === following && composer.connection(waiting),
    onUnauthorized: async () => (await renew()) || (toSignIn(), false),
    onDoubt: async () => {
      const message = await stored(mine);
      return !message ? "gone" : message.status === "running" ? "running" : "ended";
    },
    onGiveUp: (why) => {
      if (mine !== following) return;
      mine.stream = null;
      if (why === "refused") {
        composer.hint("Streams cannot be had here just now: the answer comes in one piece.");
        byRest(mine);
      } else settleWith(mine);
    },
  });
}

/** Let the stream rest while other tabs need the few connections more; its end is looked for all the same. @param {Following} mine */
async function shareStreams(mine) {
  const { Share } = await import("./shares.js");
  if (mine !== following || !mine.stream) return;
  const protocol = /** @type {PerformanceNavigationTiming | undefined} */ (performance.getEntriesByType("navigation")[0])?.nextHopProtocol;
  /** @type {ReturnType<typeof setInterval> | undefined} */
  let looking;
  mine.abort.signal.addEventListener("abort", () => clearInterval(looking));
  mine.share = new Share((granted) => {
    clearInterval(looking);
    if (granted) mine.stream?.resume();
    else {
      mine.stream?.pause();
      looking = setInterval(() => stored(mine).then((message) => mine === following && message?.status !== "running" && settleWith(mine), () => {}), RESTING_POLL_MS);
    }
  }, { many: /^h[23]/.test(protocol ?? "") });
}

/** The whole answer in one piece, of the same generation: asked with the same requestId, or looked up until it is there. @param {Following} mine */
async function byRest(mine) {
  const { signal } = mine.abort;
  try {
    if (mine.request) {
      const { message } = await api.whole({ ...mine.request, conversationId: shown.id }, signal);
      if (message && mine === following) return finish(mine, message);
    }
  } catch (error) {
    if (signal.aborted) return;
  }
  while (mine === following) {
    const message = await stored(mine).catch(() => undefined);
    if (message === null || (message && message.status !== "running")) return settleWith(mine);
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}

/** The answer as it is on the server, null if it is gone. @param {Following} mine @returns {Promise<Message | null>} */
async function stored(mine) {
  try {
    const { messages } = await api.conversation(/** @type {string} */ (shown.id));
    return messages.find(({ id }) => id === mine.message.id) ?? null;
  } catch (error) {
    if (error instanceof ApiError && error.status === 404) return null;
    throw error;
  }
}

/** @param {Following} mine */
async function settleWith(mine) {
  const message = await stored(mine).catch(() => null);
  if (mine !== following) return;
  if (message?.status === "running") return follow(Object.assign(mine.message, message), null); // somebody goes on with it
  if (message) return finish(mine, message);
  unfollow();
  composer.running = false;
  reload({ first: true });
  refreshList();
}

/** @param {Following} mine @param {Message} message */
function finish(mine, message) {
  Object.assign(mine.message, message);
  thread.turnOf(mine.message.id)?.show(fromMessage(mine.message));
  composer.hint("");
  if (message.status !== "running") ended(mine);
}

// Asking

/** @param {string} prompt */
async function ask(prompt) {
  const { key, id } = shown;
  composer.running = true;
  await opened; // a question asked sooner would not know what it follows
  if (key !== shown.key) return composer.keep(id, prompt);
  const request = { message: prompt, model: composer.modelId ?? undefined, requestId: uuid() };
  const now = new Date().toISOString();
  const question = { id: `asking-${request.requestId}`, parent_id: shown.leaf, role: "user", content: prompt, status: "finished", created_at: now };
  const body = { modelId: request.model, prompt, chatId: shown.id ?? undefined, requestId: request.requestId };
  await begin(request, question, () => api.start(body, awaited));
}

/** @param {string} id a question or an answer @returns {Promise<void>} */
async function regenerate(id) {
  const message = shown.messages.get(id);
  const question = message?.role === "user" ? message : shown.messages.get(message?.parent_id ?? "");
  if (!question || busy()) return;
  const request = { message: question.content, model: composer.modelId ?? undefined, requestId: uuid() };
  await begin(request, question, () => api.regenerate(id, { modelId: request.model, requestId: request.requestId }, awaited));
}

/** @param {string} id @param {string} content */
async function edit(id, content) {
  const old = shown.messages.get(id);
  if (!old || busy()) return;
  const request = { message: content, model: composer.modelId ?? undefined, requestId: uuid() };
  const question = { ...old, id: `asking-${request.requestId}`, content };
  await begin(request, question, () => api.edit(id, { content, modelId: request.model, requestId: request.requestId }, awaited));
}

/** Go on with an answer that broke off: it grows where it stands. @param {string} id @returns {Promise<void>} */
async function goOn(id) {
  const message = shown.messages.get(id);
  if (!message || busy()) return;
  const { key } = shown;
  const before = { ...message };
  const question = shown.messages.get(message.parent_id ?? "");
  const model = composer.has(message.model) ? message.model : composer.modelId; // another one only where that is no more
  const request = { message: question?.content ?? "", model: model ?? undefined, requestId: uuid() };
  const last = thread.lastElementChild === thread.turnOf(id);
  stopWanted = false;
  starting++;
  Object.assign(message, { status: "running", phase: GOING_ON, finish_reason: null, error: null });
  draw();
  composer.running = true;
  composer.keepFocus();
  if (last) thread.follow();
  let begun;
  try {
    begun = await api.goOn(id, { modelId: request.model, requestId: request.requestId }, (error) => awaited(error, "The answer goes on in a moment."));
  } catch (error) {
    if (key !== shown.key) return;
    Object.assign(message, before);
    draw();
    composer.holdNext();
    composer.running = false;
    composer.hint(error instanceof ApiError ? fieldsOf(error) : String(error));
    if (error instanceof ApiError && error.status === 409) setTimeout(reload); // somebody else was sooner
    return;
  } finally {
    starting--;
  }
  if (key !== shown.key) return refreshList();
  composer.hint("");
  message.generation_id = begun.generationId;
  follow(message, request);
  if (stopWanted) stop();
}

/** Say that the site is away, and what happens when it is back. @param {ApiError} error @param {string} then */
function awaited(error, then = "Your question is sent in a moment.") {
  const why = error.code === "unknown" ? "The site cannot be reached." : error.message.split(/(?<=\.) /)[0];
  composer.hint(`${why} ${then}`);
}

/** Whether an answer is being written here, which is then said. */
function busy() {
  const is = Boolean(following || starting);
  if (is) composer.hint("An answer is being written. Wait for its end, or stop it.");
  return is;
}

/**
 * Show the question at once, with an answer that waits; then have it begun, and follow it.
 * @param {Record<string, any>} request @param {Message} question @param {() => Promise<any>} start
 */
async function begin(request, question, start) {
  stopWanted = false;
  starting++;
  const { key, id, leaf } = shown;
  const waiting = { id: `waiting-${request.requestId}`, parent_id: question.id, role: "assistant", content: "", status: "running", model: request.model, phase: "Sending" };
  const asked = !shown.messages.has(question.id);
  shown.messages.set(question.id, question);
  shown.messages.set(waiting.id, waiting);
  shown.leaf = waiting.id;
  draw();
  composer.running = true;
  composer.keepFocus();
  thread.follow();
  let begun;
  try {
    begun = await start();
  } catch (error) {
    if (key !== shown.key) return asked ? composer.keep(id, question.content) : undefined;
    shown.messages.delete(waiting.id);
    if (asked) shown.messages.delete(question.id);
    shown.leaf = leaf;
    draw();
    composer.holdNext();
    composer.running = false;
    if (asked) composer.write(question.content);
    composer.hint(error instanceof ApiError ? fieldsOf(error) : String(error));
    return;
  } finally {
    starting--;
  }
  if (key !== shown.key) return refreshList();
  composer.hint("");
  adopt(begun, question, waiting);
  follow(waiting, request);
  draw();
  thread.follow();
  if (stopWanted) stop();
}

/** What was shown ahead gets the ids that the server gave. @param {Record<string, any>} begun @param {Message} question @param {Message} waiting */
function adopt({ chatId, conversationId, generationId, messageId, userMessageId }, question, waiting) {
  const id = conversationId ?? chatId;
  shown.messages.delete(waiting.id);
  thread.rename(waiting.id, messageId);
  if (question.id !== userMessageId && userMessageId) {
    shown.messages.delete(question.id);
    shown.messages.set(userMessageId, Object.assign(question, { id: userMessageId }));
  }
  Object.assign(waiting, { id: messageId, parent_id: question.id, generation_id: generationId, phase: null });
  shown.messages.set(messageId, waiting);
  shown.leaf = messageId;
  const title = shown.title || question.content.replace(/\s+/g, " ").slice(0, 60);
  if (!shown.id) {
    shown.id = id;
    history.pushState(null, "", `/c/${id}`);
    composer.adopted(id);
    setTitle(title);
  }
  sidebar.current = id;
  sidebar.update({ id, title, running: true, updated_at: new Date().toISOString() });
}

/** @param {ApiError} error */
function fieldsOf(error) {
  const said = Object.values(error.fields ?? {}).flat();
  return said.length ? said.join(" ") : error.message;
}

async function stop() {
  const mine = following;
  stopWanted = !mine;
  if (!mine || !shown.id) return;
  try {
    const { message } = await api.stop(shown.id);
    // The stream brings the end too, but only where there is a connection.
    if (mine === following && message?.id === mine.message.id) finish(mine, message);
  } catch (error) {
    composer.hint(error instanceof ApiError ? error.message : "");
  }
}

/** Turn to the sibling *step* places on. @param {string} id @param {number} step */
function turnPage(id, step) {
  const message = shown.messages.get(id);
  if (!message || !shown.id) return;
  const all = siblings(shown.messages, message);
  const other = all[all.indexOf(message) + step];
  if (!other) return;
  unfollow();
  composer.holdNext();
  shown.leaf = newestLeaf(shown.messages, other.id);
  composer.running = false;
  draw();
  api.change(shown.id, { leaf_id: shown.leaf }).catch(() => {});
  const leaf = shown.messages.get(shown.leaf);
  if (leaf?.status === "running" && leaf.generation_id) follow(leaf, null);
}

async function refreshList() {
  listed = Date.now();
  await sidebar.load().catch(() => {});
  const title = shown.id && sidebar.titleOf(shown.id); // perhaps the server, or another tab, has found a better one
  if (title && title !== shown.title) setTitle(title);
}

// What is pressed

/** @param {string} name @param {(detail: Record<string, any>) => any} act */
const on = (name, act) => addEventListener(name, (event) => act(/** @type {CustomEvent} */ (event).detail));

on("chat-ask", ({ prompt }) => ask(prompt));
on("chat-stop", stop);
on("chat-try-now", () => following?.stream?.retryNow());
on("chat-act", ({ act, id, step, content }) => {
  if (act === "regenerate") regenerate(id);
  else if (act === "continue") goOn(id);
  else if (act === "turn-to") turnPage(id, step);
  else if (act === "edit") edit(id, content);
});
on("chat-open", ({ id }) => go(`/c/${id}`));
on("chat-new", () => go("/"));
on("chat-drawer", () => drawer(true));
on("chat-renamed", ({ id, title }) => id === shown.id && setTitle(title));
on("chat-removed", ({ id }) => id === shown.id && go("/"));
addEventListener("popstate", () => idIn(location.pathname) === shown.id || open(idIn(location.pathname))); // else: a link within the page
addEventListener("keydown", (event) => {
  if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "k") (event.preventDefault(), drawer(true), sidebar.focusSearch());
  else if (event.key === "Escape" && document.body.dataset.drawer) drawer(false);
});
document.addEventListener("visibilitychange", () => {
  if (document.hidden || Date.now() - listed < FRESH_MS) return;
  refreshList();
  if (!following) reload();
});
setInterval(() => {
  if (!document.hidden && sidebar.hasRunning(following ? shown.id : null)) refreshList();
}, OTHERS_MS);
document.addEventListener("click", (event) => {
  const button = /** @type {Element} */ (event.target).closest("[data-act]");
  const act = button?.getAttribute("data-act");
  if (act === "open-drawer") drawer(true);
  else if (act === "close-drawer") drawer(false);
  else if (act === "conversation-menu" && shown.id) sidebar.menu(shown.id, /** @type {HTMLElement} */ (button));
  else if (act === "starter") composer.write(`${button?.querySelector(".empty__prompt")?.textContent}:\n\n`);
  else if (act === "sign-out") api.logout().finally(() => location.assign("/sign-in"));
});

/** @param {boolean} open */
function drawer(open) {
  if (open && matchMedia("(width < 64rem)").matches) {
    document.body.dataset.drawer = "open";
    part("main").inert = true;
    /** @type {HTMLElement | null} */ (sidebar.querySelector("a, input"))?.focus();
  } else if (document.body.dataset.drawer) {
    closeDrawer();
    /** @type {HTMLElement | null} */ (document.querySelector('[data-act="open-drawer"]'))?.focus();
  }
}

function closeDrawer() {
  document.body.removeAttribute("data-drawer");
  part("main").inert = false;
}

/** @param {string} path */
function go(path) {
  if (path !== location.pathname) history.pushState(null, "", path);
  open(idIn(path));
}

/** @param {string} path */
function idIn(path) {
  return path.match(/^\/c\/([\da-f-]{36})$/i)?.[1] ?? null;
}

composer.user = boot.user?.id ?? "";
composer.maxChars = boot.max_message_chars;
if (boot.conversations) sidebar.show(boot.conversations);
listed = boot.conversations ? Date.now() : 0;
open(idIn(location.pathname));
composer.loadModels();
