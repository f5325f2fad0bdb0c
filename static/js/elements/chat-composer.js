// @ts-check
/**
 * <chat-composer>: where a question is written. Says `chat-ask` ({prompt}), `chat-stop`, `chat-try-now`; holds the chosen
 * model, the "Stream responses" switch, the draft, and one question that waits until the running answer has ended.
 */
import { api } from "../api.js";

const DRAFT = "chat.draft.";
const MODEL = "chat.model";
const STREAM = "chat.stream";

/** What this browser keeps; a full or forbidden store only forgets. */
export const kept = {
  get: (/** @type {string} */ key) => {
    try {
      return localStorage.getItem(key);
    } catch {
      return null;
    }
  },
  set: (/** @type {string} */ key, /** @type {string?} */ value) => {
    try {
      if (value) localStorage.setItem(key, value);
      else localStorage.removeItem(key);
    } catch {
      // Nothing depends on it.
    }
  },
};

/** @typedef {{id: string, name: string, provider: string}} Model */

export class ChatComposer extends HTMLElement {
  /** @type {Record<string, HTMLElement>} */ #part = {};
  /** @type {Model[]} */ #models = [];
  #modelId = kept.get(MODEL);
  #drafts = DRAFT; // of one person: others may use this browser too
  #draftKey = DRAFT;
  #maxChars = Infinity;
  #running = false;
  /** @type {Promise<{models: Model[], default: string?}> | null} */ #loading = null;
  #next = "";
  /** @type {ReturnType<typeof setInterval> | undefined} */ #countdown;

  connectedCallback() {
    for (const part of this.querySelectorAll("[data-part]")) this.#part[part.getAttribute("data-part") ?? ""] = /** @type {HTMLElement} */ (part);
    this.#stream.checked = kept.get(STREAM) !== "off";
    this.#stream.addEventListener("change", () => kept.set(STREAM, this.streaming ? null : "off"));
    this.#text.addEventListener("input", () => this.#typed());
    this.#text.addEventListener("keydown", (event) => this.#key(event));
    this.#part.form.addEventListener("submit", (event) => (event.preventDefault(), this.#send()));
    this.#part.form.addEventListener("pointerdown", (event) => {
      if (event.target === this.#part.form || /** @type {Element} */ (event.target).matches(".composer__tools")) (event.preventDefault(), this.#text.focus());
    });
    this.addEventListener("click", (event) => this.#press(event));
  }

  /** @returns {HTMLTextAreaElement} */
  get #text() {
    return /** @type {any} */ (this.#part.prompt);
  }

  /** @returns {HTMLInputElement} */
  get #stream() {
    return /** @type {any} */ (this.#part.stream);
  }

  get streaming() {
    return this.#stream.checked;
  }

  get modelId() {
    return this.#modelId;
  }

  set user(/** @type {string} */ id) {
    this.#drafts = `${DRAFT}${id}.`;
  }

  set maxChars(/** @type {number} */ value) {
    this.#maxChars = value;
  }

  /** Ask which models there are. */
  async loadModels() {
    this.#loading ??= api.models();
    try {
      const { models, default: fallback } = await this.#loading;
      this.#models = models;
      if (!models.some(({ id }) => id === this.#modelId)) this.#modelId = fallback ?? models[0]?.id ?? null;
    } catch {
      // They are asked for again when the menu is opened.
    }
    this.#loading = null;
    this.#showModel();
  }

  #showModel() {
    const model = this.#models.find(({ id }) => id === this.#modelId);
    this.#part["model-name"].textContent = model?.name ?? (this.#modelId || "No model");
    this.#part.model.setAttribute("aria-label", `Model: ${model?.name ?? "none"}`);
  }

  /** Which conversation is being written to. @param {string?} conversation */
  open(conversation) {
    this.#draftKey = this.#drafts + (conversation ?? ""); // what waited as "Next" is in the other's draft
    this.#text.value = kept.get(this.#draftKey) ?? "";
    this.#text.placeholder = conversation ? "Ask a follow-up" : "Ask a question";
    this.#showNext("");
    this.#typed(false);
  }

  /** A new conversation has its name: what is written from now on belongs to it. @param {string} conversation */
  adopted(conversation) {
    kept.set(this.#draftKey, null);
    this.#draftKey = this.#drafts + conversation;
    this.#text.placeholder = "Ask a follow-up";
    this.#keep();
  }

  /** A question could not be asked, and another conversation is shown now: it is there when one comes back. @param {string?} conversation @param {string} prompt */
  keep(conversation, prompt) {
    const key = this.#drafts + (conversation ?? "");
    if (key === this.#draftKey) this.write(prompt);
    else kept.set(key, [prompt, kept.get(key)].filter(Boolean).join("\n\n"));
  }

  #keep() {
    kept.set(this.#draftKey, [this.#next, this.#text.value].filter(Boolean).join("\n\n"));
  }

  set running(/** @type {boolean} */ value) {
    this.#running = value;
    const focused = document.activeElement === this.#part.stop || document.activeElement === this.#part.send;
    this.#part.stop.hidden = !value;
    this.#part.send.hidden = value;
    if (focused) this.#text.focus();
    if (!value && this.#next) {
      const prompt = this.#next;
      this.#setNext("");
      this.#ask(prompt);
    }
  }

  /** The question that waits is wanted no more without a look: back into the field with it. */
  holdNext() {
    const next = this.#next;
    this.#setNext("");
    if (next) this.write(next);
  }

  /** Whether there is a model *id*; also while nobody knows. @param {string?} id */
  has(id) {
    return !this.#models.length || this.#models.some((model) => model.id === id);
  }

  /** The button of an answer that had the focus goes away: it is here now, but for touch screens, whose keyboard would open. */
  keepFocus() {
    const { activeElement } = document;
    if ((activeElement === document.body || activeElement?.matches(".turn [data-act]")) && matchMedia("(pointer: fine)").matches) this.#text.focus({ preventScroll: true });
  }

  focusText() {
    this.#text.focus();
  }

  /** Put *text* into the field, before what is there. @param {string} text */
  write(text) {
    this.#text.value = [text, this.#text.value].filter(Boolean).join("\n\n");
    this.#typed();
    this.#text.focus();
  }

  /** "Connection lost", with a countdown to the next try; null: it is back. @param {{until: number} | null} waiting */
  connection(waiting) {
    clearInterval(this.#countdown);
    this.#part.connection.hidden = !waiting;
    if (!waiting) return;
    const tell = () => {
      const seconds = Math.ceil((waiting.until - Date.now()) / 1000);
      this.#part["connection-text"].textContent = seconds > 0 ? `Connection lost. Reconnecting in ${seconds} s` : "Connection lost. Reconnecting…";
    };
    tell();
    this.#countdown = setInterval(tell, 250);
  }

  /** One sentence about what is being sent. @param {string} text */
  hint(text) {
    this.#part.hint.hidden = !text;
    this.#part.hint.textContent = text;
  }

  #typed(keep = true) {
    const { value } = this.#text;
    if (!CSS.supports("field-sizing", "content")) {
      this.#text.style.blockSize = "auto";
      this.#text.style.blockSize = `${this.#text.scrollHeight}px`;
    }
    const length = [...value].length;
    /** @type {HTMLButtonElement} */ (this.#part.send).disabled = !value.trim() || length > this.#maxChars;
    this.hint(length > this.#maxChars ? `${(length - this.#maxChars).toLocaleString()} characters too many.` : "");
    if (keep) this.#keep();
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    // 229: Safari ends a composition before it reports the Enter that ended it.
    if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
    event.preventDefault();
    this.#send();
  }

  #send() {
    const prompt = this.#text.value.trim();
    if (!prompt || /** @type {HTMLButtonElement} */ (this.#part.send).disabled) return;
    if (this.#running && this.#next) return this.hint("One question waits already.");
    this.#text.value = "";
    this.#typed();
    if (this.#running) this.#setNext(prompt);
    else this.#ask(prompt);
  }

  /** @param {string} prompt */
  #ask(prompt) {
    this.dispatchEvent(new CustomEvent("chat-ask", { bubbles: true, detail: { prompt } }));
  }

  /** @param {string} prompt */
  #setNext(prompt) {
    this.#showNext(prompt);
    this.#keep();
  }

  /** @param {string} prompt */
  #showNext(prompt) {
    this.#next = prompt;
    this.#part.next.hidden = !prompt;
    this.#part["next-text"].textContent = `Next: ${prompt}`;
  }

  /** @param {MouseEvent} event */
  #press(event) {
    const act = /** @type {Element} */ (event.target).closest("[data-act]")?.getAttribute("data-act");
    if (act === "stop" && event.detail > 1) return; // the second click of a double one on Send, whose place Stop has taken
    if (act === "stop") this.holdNext();
    if (act === "stop" || act === "try-now") this.dispatchEvent(new CustomEvent(`chat-${act}`, { bubbles: true }));
    else if (act === "models") this.#choose();
    else if (act === "next-edit") this.holdNext();
    else if (act === "next-remove") (this.#setNext(""), this.#text.focus());
  }

  async #choose() {
    const [{ openMenu }] = await Promise.all([import("./menu.js"), this.#models.length ? null : this.loadModels()]);
    const rows = this.#models.map(({ id, name, provider }) => ({ id, name, note: provider, selected: id === this.#modelId }));
    const chosen = await openMenu(this.#part.model, { rows, label: "Model", role: "listbox", above: this.#part.form, empty: "There is no model. Start Ollama, or set a model API's key." });
    if (!chosen) return;
    this.choose(chosen);
    this.#text.focus();
  }

  /** The model that is asked from now on. @param {string} id */
  choose(id) {
    this.#modelId = id;
    kept.set(MODEL, id);
    this.#showModel();
  }
}

customElements.define("chat-composer", ChatComposer);
