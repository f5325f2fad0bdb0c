// @ts-check
/** <chat-thread>: the turns of the branch that is shown. Follows the growing end while the reader is there. */
import "./chat-turn.js";

/** @typedef {import("./chat-turn.js").ChatTurn} ChatTurn */
/** @typedef {Record<string, any>} Message */

const AT_THE_END_PX = 48;

/** The messages from the root to *leaf*. @param {Map<string, Message>} messages @param {string?} leaf */
export function branch(messages, leaf) {
  const path = [];
  const seen = new Set();
  for (let at = leaf; at && messages.has(at) && !seen.has(at); at = messages.get(at)?.parent_id ?? null) {
    seen.add(at);
    path.unshift(/** @type {Message} */ (messages.get(at)));
  }
  return path;
}

/** The messages beside *message*, itself among them, in the order of making. @param {Map<string, Message>} messages @param {Message} message */
export function siblings(messages, message) {
  return [...messages.values()].filter(({ parent_id, role }) => parent_id === message.parent_id && role === message.role);
}

/** The newest end of the branch through *id*. @param {Map<string, Message>} messages @param {string} id */
export function newestLeaf(messages, id) {
  const newest = new Map();
  for (const { id: child, parent_id } of messages.values()) newest.set(parent_id, child);
  while (newest.has(id)) id = newest.get(id);
  return id;
}

/** @param {Message[]} path @returns {{question: Message?, answer: Message?}[]} */
function pairs(path) {
  /** @type {{question: Message?, answer: Message?}[]} */
  const turns = [];
  for (const message of path) {
    if (message.role === "user") turns.push({ question: message, answer: null });
    else if (message.role === "assistant") {
      const last = turns.at(-1);
      if (last && !last.answer) last.answer = message;
      else turns.push({ question: null, answer: message });
    }
  }
  return turns;
}

export class ChatThread extends HTMLElement {
  #following = true;
  /** @type {HTMLElement} */ #scroller = document.body;

  connectedCallback() {
    this.#scroller = /** @type {HTMLElement} */ (this.closest("main"));
    let last = 0;
    this.#scroller.addEventListener("scroll", () => {
      const { scrollTop, scrollHeight, clientHeight } = this.#scroller;
      const atEnd = scrollHeight - clientHeight - scrollTop < AT_THE_END_PX;
      // Growing never leaves the end behind: only a move upwards does.
      if (atEnd) this.#following = true;
      else if (scrollTop < last) this.#following = false;
      last = scrollTop;
    }, { passive: true });
    // The text grows, and so does the composer with what it says: neither hides the end from who reads it.
    const resized = new ResizeObserver(() => this.#following && this.toEnd());
    for (const child of [this, this.#scroller.querySelector("chat-composer")]) if (child) resized.observe(child);
  }

  /** @param {Map<string, Message>} messages @param {string?} leaf */
  show(messages, leaf) {
    const turns = pairs(branch(messages, leaf));
    const place = (message) => {
      const all = message ? siblings(messages, message) : [];
      return { count: all.length, index: all.indexOf(message) };
    };
    const template = /** @type {HTMLTemplateElement} */ (document.getElementById("turn"));
    const old = new Map([...this.children].map((child) => [child.getAttribute("data-key"), child]));
    const elements = turns.map(({ question, answer }) => {
      const key = answer?.id ?? question?.id;
      const element = old.get(key) ?? template.content.firstElementChild?.cloneNode(true);
      /** @type {HTMLElement} */ (element).dataset.key = key;
      return /** @type {ChatTurn} */ (element);
    });
    for (const child of [...this.children]) if (!elements.includes(/** @type {ChatTurn} */ (child))) child.remove();
    elements.forEach((element, index) => {
      if (this.children[index] !== element) this.insertBefore(element, this.children[index] ?? null);
      const { question, answer } = turns[index];
      element.turn = { question, answer, questions: place(question), answers: place(answer) };
    });
  }

  /** @param {string} answerId @returns {ChatTurn | undefined} */
  turnOf(answerId) {
    return /** @type {ChatTurn[]} */ ([...this.children]).find((turn) => turn.answerId === answerId);
  }

  /** The reader wants the end, whatever they looked at before. */
  follow() {
    this.#following = true;
    this.toEnd();
  }

  toEnd() {
    this.#scroller.scrollTop = this.#scroller.scrollHeight;
  }

  clear() {
    this.replaceChildren();
    this.#following = true;
  }

  /** The answer shown as *from* is called *to* from now on: its turn stays. @param {string} from @param {string} to */
  rename(from, to) {
    const turn = [...this.children].find((child) => child.getAttribute("data-key") === from);
    turn?.setAttribute("data-key", to);
  }
}

customElements.define("chat-thread", ChatThread);
