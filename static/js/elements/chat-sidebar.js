// @ts-check
/**
 * <chat-sidebar>: the conversations, by when they were last written in. Says `chat-open` ({id}), `chat-new`,
 * `chat-renamed` ({id, title}) and `chat-removed` ({id}).
 */
import { api } from "../api.js";

const PAGE_SIZE = 50;
const SEARCH_PAUSE_MS = 200;
const DAY_MS = 86_400_000;

/** @typedef {{id: string, title: string, pinned: boolean, updated_at: string, running: boolean}} Conversation */

/** What the group that *conversation* belongs to is called. @param {Conversation} conversation @param {Date} now */
export function groupOf({ pinned, updated_at }, now) {
  if (pinned) return "Pinned";
  const then = new Date(updated_at);
  const midnight = (/** @type {Date} */ date) => new Date(date.getFullYear(), date.getMonth(), date.getDate()).getTime();
  const days = Math.round((midnight(now) - midnight(then)) / DAY_MS);
  if (days <= 0) return "Today";
  if (days === 1) return "Yesterday";
  if (days <= 7) return "Last week";
  const year = then.getFullYear() === now.getFullYear() ? undefined : "numeric";
  return then.toLocaleDateString(document.documentElement.lang, { month: "long", year });
}

export class ChatSidebar extends HTMLElement {
  /** @type {Map<string, Conversation>} */ #known = new Map();
  #total = 0;
  #pages = 1;
  #query = "";
  #current = /** @type {string?} */ (null);
  #asked = 0;
  /** @type {ReturnType<typeof setTimeout> | undefined} */ #pause;

  connectedCallback() {
    this.addEventListener("click", (event) => this.#press(event));
    this.#search.addEventListener("input", () => {
      clearTimeout(this.#pause);
      this.#pause = setTimeout(() => this.#find(), SEARCH_PAUSE_MS);
    });
    this.#search.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !this.#search.value) return;
      this.#search.value = "";
      this.#find();
    });
  }

  /** @returns {HTMLInputElement} */
  get #search() {
    return /** @type {any} */ (this.querySelector('[data-part="search"]'));
  }

  /** @returns {HTMLElement} */
  get #list() {
    return /** @type {any} */ (this.querySelector('[data-part="list"]'));
  }

  focusSearch() {
    this.#search.focus();
    this.#search.select();
  }

  #find() {
    this.#query = this.#search.value.trim();
    this.#pages = 1;
    return this.load();
  }

  /** Ask the server for what is shown. */
  async load() {
    const asked = ++this.#asked;
    const size = PAGE_SIZE * this.#pages;
    const page = await api.conversations({ q: this.#query, page_size: Math.min(200, size) });
    if (asked === this.#asked) this.show(page); // else a later question was asked meanwhile
  }

  /** @param {{conversations: Conversation[], total: number}} page */
  show({ conversations, total }) {
    this.#known = new Map(conversations.map((each) => [each.id, each]));
    this.#total = total;
    this.#draw();
  }

  /** Whether an answer is being written in a conversation other than *id*. @param {string?} id */
  hasRunning(id) {
    return [...this.#known.values()].some((each) => each.running && each.id !== id);
  }

  /** @param {string} id */
  titleOf(id) {
    return this.#known.get(id)?.title ?? "";
  }

  /** @param {string?} id */
  set current(id) {
    this.#current = id;
    for (const item of this.#list.querySelectorAll(".item")) mark(item, item.getAttribute("data-id") === id);
  }

  /** @param {Partial<Conversation> & {id: string}} values what is new of a conversation */
  update(values) {
    const now = new Date().toISOString();
    const old = this.#known.get(values.id) ?? { title: "", pinned: false, running: false, updated_at: now };
    this.#known.set(values.id, { ...old, ...values });
    this.#draw();
  }

  #draw() {
    if (this.#list.querySelector(".item__input, .item__ask")) return; // somebody is at it; it is drawn when they are done
    const sorted = [...this.#known.values()].sort((a, b) => Number(b.pinned) - Number(a.pinned) || b.updated_at.localeCompare(a.updated_at));
    const now = new Date();
    const focused = /** @type {HTMLElement | null} */ (document.activeElement)?.closest(".item")?.getAttribute("data-id");
    /** @type {Node[]} */
    const nodes = [];
    let group = "";
    for (const conversation of sorted) {
      const name = groupOf(conversation, now);
      if (name !== group) nodes.push(heading(name), document.createElement("ul"));
      group = name;
      nodes.at(-1)?.appendChild(this.#item(conversation));
    }
    if (!sorted.length) nodes.push(sentence(this.#query ? `Nothing found for “${this.#query}”.` : "Your conversations will stand here."));
    if (this.#total > sorted.length && PAGE_SIZE * this.#pages < 200) nodes.push(more());
    this.#list.replaceChildren(...nodes);
    if (focused) /** @type {HTMLElement | null} */ (this.#list.querySelector(`[data-id="${CSS.escape(focused)}"] a`))?.focus();
  }

  /** @param {Conversation} conversation */
  #item({ id, title, running }) {
    const template = /** @type {HTMLTemplateElement} */ (document.getElementById("conversation"));
    const item = /** @type {HTMLElement} */ (document.importNode(template.content, true).firstElementChild);
    item.dataset.id = id;
    const link = /** @type {HTMLAnchorElement} */ (item.querySelector("a"));
    link.href = `/c/${id}`;
    link.textContent = title || "New conversation";
    link.title = title;
    /** @type {HTMLElement} */ (item.querySelector('[data-part="dot"]')).hidden = !running;
    mark(item, id === this.#current);
    return item;
  }

  /** @param {MouseEvent} event */
  #press(event) {
    const target = /** @type {Element} */ (event.target);
    const plain = event.button === 0 && !event.ctrlKey && !event.metaKey && !event.shiftKey;
    const item = /** @type {HTMLElement | null} */ (target.closest(".item"));
    const act = target.closest("[data-act]")?.getAttribute("data-act");
    if (act === "more") (this.#pages++, this.load());
    else if (act === "item-menu" && item) this.menu(item.dataset.id ?? "", /** @type {HTMLElement} */ (target.closest("button")));
    else if (act === "new" && plain) (event.preventDefault(), this.#say("chat-new"));
    else if (target.closest("a.item__link") && plain && item) (event.preventDefault(), this.#say("chat-open", { id: item.dataset.id }));
  }

  /** What can be done with a conversation. @param {string} id @param {HTMLElement} button */
  async menu(id, button) {
    const pinned = this.#known.get(id)?.pinned;
    const rows = [
      { id: "rename", name: "Rename", icon: "write" },
      { id: "pin", name: pinned ? "Unpin" : "Pin", icon: "pin" },
      { id: "delete", name: "Delete", icon: "bin", danger: true },
    ];
    const { openMenu } = await import("./menu.js");
    const chosen = await openMenu(button, { rows, label: "Conversation", short: true });
    const item = /** @type {HTMLElement | null} */ (this.#list.querySelector(`[data-id="${CSS.escape(id)}"]`));
    if (!chosen || !item) return;
    if (chosen !== "pin" && !item.checkVisibility({ visibilityProperty: true })) this.#say("chat-drawer");
    if (chosen === "rename") this.#rename(item, id);
    else if (chosen === "delete") this.#askRemoval(item, id);
    else this.update(await api.change(id, { pinned: !pinned }).catch(() => ({ id }))); // it stays where it was
  }

  /** @param {HTMLElement} item @param {string} id */
  #rename(item, id) {
    const old = this.#known.get(id)?.title ?? "";
    const input = document.createElement("input");
    input.className = "item__input";
    input.value = old;
    input.maxLength = 200;
    input.dir = "auto";
    input.setAttribute("aria-label", "Title");
    let over = false;
    const finish = async (/** @type {boolean} */ save, byKey = true) => {
      if (over) return;
      over = true; // taking the field away blurs it
      const title = input.value.trim();
      input.remove();
      this.#draw();
      if (byKey) this.#focusItem(id);
      if (!save || !title || title === old) return;
      this.update({ id, title });
      this.#say("chat-renamed", { id, title });
      await api.change(id, { title }).catch(() => this.update({ id, title: old }));
    };
    input.addEventListener("blur", () => finish(true, false));
    input.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.isComposing) finish(true);
      else if (event.key === "Escape") finish(false);
    });
    item.replaceChildren(input);
    input.focus();
    input.select();
  }

  /** @param {HTMLElement} item @param {string} id */
  #askRemoval(item, id) {
    const ask = document.createElement("span");
    ask.className = "item__ask";
    ask.textContent = "Delete for good?";
    const [yes, no] = ["Delete", "Keep"].map((text) => Object.assign(document.createElement("button"), { type: "button", className: "button", textContent: text }));
    yes.classList.add("button--danger");
    const done = () => (ask.remove(), this.#draw());
    const keep = () => (done(), this.#focusItem(id));
    no.addEventListener("click", keep);
    item.addEventListener("keydown", (event) => event.key === "Escape" && keep());
    yes.addEventListener("click", async () => {
      try {
        await api.remove(id);
      } catch (error) {
        if (error.status !== 404) return void (ask.textContent = error.message);
      }
      const items = [...this.#list.querySelectorAll(".item")];
      const next = items[items.indexOf(item) + 1] ?? items[items.indexOf(item) - 1];
      this.#known.delete(id);
      done();
      this.#focusItem(next?.getAttribute("data-id"));
      this.#say("chat-removed", { id });
    });
    item.replaceChildren(ask, yes, no);
    no.focus();
  }

  /** Where the keyboard was, or next to it; the search if nothing is left. @param {string | null} [id] */
  #focusItem(id) {
    const link = id && this.#list.querySelector(`[data-id="${CSS.escape(id)}"] a`);
    /** @type {HTMLElement} */ (link || this.#search).focus();
  }

  /** @param {string} name @param {object} [detail] */
  #say(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { bubbles: true, detail }));
  }
}

/** @param {Element} item @param {boolean} current */
function mark(item, current) {
  if (current) item.setAttribute("aria-current", "page");
  else item.removeAttribute("aria-current");
}

/** @param {string} text */
function heading(text) {
  return Object.assign(document.createElement("h2"), { className: "sidebar__group", textContent: text });
}

/** @param {string} text */
function sentence(text) {
  return Object.assign(document.createElement("p"), { className: "sidebar__say", textContent: text });
}

function more() {
  const button = Object.assign(document.createElement("button"), { type: "button", className: "button", textContent: "Show older ones" });
  button.dataset.act = "more";
  return button;
}

customElements.define("chat-sidebar", ChatSidebar);
