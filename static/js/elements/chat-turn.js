// @ts-check
/**
 * <chat-turn>: a question and its answer. Shows a state that it is given; what is pressed goes out as `chat-act` events
 * ({act, id, …}) and comes back as a new state. Its markup is templates/_partials/turn.html.
 */
import { fromMessage, isTerminal } from "../answer.js";
import { MarkdownView } from "../markdown.js";

const LONG_QUESTION = 160;
const PATIENCE_SECONDS = 5; // then the wait is counted, so that it can be seen to go on
const SLOW_FRAME_MS = 8;
const COMMAND = "site/command"; // who answers where no model is asked

const NOTICES = {
  interrupted: "The model stopped before the end. What it wrote is kept.",
  partial: "The answer broke off. What was written is kept.",
  length: "The answer reached its longest length.",
};

/** A button within the page's own words. @typedef {{count: number, index: number}} Place */
/** @typedef {{question: Record<string, any>?, answer: Record<string, any>?, questions: Place, answers: Place}} Turn */

export class ChatTurn extends HTMLElement {
  /** @type {Record<string, HTMLElement>} */ #part = {};
  /** @type {Turn | null} */ #turn = null;
  /** @type {import("../answer.js").Answer | null} */ #answer = null;
  /** @type {MarkdownView | null} */ #view = null;
  #frame = 0;
  #busyUntil = 0;
  #since = 0; // when the wait began
  #phase = /** @type {string?} */ (null);
  #phaseChars = 0; // how long the text was when it began
  #thoughtFrom = 0;
  #thoughtFor = 0;
  /** @type {ReturnType<typeof setInterval> | undefined} */ #clock;

  connectedCallback() {
    if (this.#view) return;
    for (const part of this.querySelectorAll("[data-part]")) this.#part[part.getAttribute("data-part") ?? ""] = /** @type {HTMLElement} */ (part);
    this.#view = new MarkdownView(this.#part.text);
    this.addEventListener("click", (event) => this.#press(event));
    this.#part["edit-form"].addEventListener("submit", (event) => this.#submit(event));
    this.#part["edit-form"].addEventListener("keydown", (event) => this.#editKey(event));
  }

  disconnectedCallback() {
    clearInterval(this.#clock);
    cancelAnimationFrame(this.#frame);
  }

  get answerId() {
    return this.#turn?.answer?.id ?? null;
  }

  get answer() {
    return this.#answer;
  }

  /** @param {Turn} turn */
  set turn(turn) {
    const { question, answer, questions, answers } = turn;
    const same = question?.id === this.#turn?.question?.id;
    this.#turn = turn;
    this.#part.question.hidden = !question;
    this.#part.question.toggleAttribute("data-long", (question?.content.length ?? 0) > LONG_QUESTION);
    if (question && this.#part["question-text"].textContent !== question.content) this.#part["question-text"].textContent = question.content;
    if (same) this.#part.question.hidden = !question || !this.#part["edit-form"].hidden; // what is being edited stays
    else this.#closeEdit();
    place(this.#part, "question-pager", "question-count", questions);
    place(this.#part, "pager", "count", answers);
    if (answer) this.show(fromMessage(answer));
    else this.show({ ...fromMessage({}), status: "interrupted" });
  }

  /** Show an answer in the making, or its end. Drawn at most once a frame. @param {import("../answer.js").Answer} answer */
  show(answer) {
    if (!this.#since || (this.#answer && isTerminal(this.#answer) && !isTerminal(answer))) this.#since = Date.now();
    this.#answer = answer;
    if (answer.phase !== this.#phase) [this.#phase, this.#phaseChars] = [answer.phase, answer.text.length];
    if (answer.reasoning && !this.#thoughtFrom) this.#thoughtFrom = Date.now();
    if (answer.text && this.#thoughtFrom && !this.#thoughtFor) this.#thoughtFor = Date.now() - this.#thoughtFrom;
    if (isTerminal(answer)) return this.#draw();
    this.#frame ||= requestAnimationFrame(() => this.#later());
  }

  #later() {
    this.#frame = 0;
    if (performance.now() < this.#busyUntil) this.#frame = requestAnimationFrame(() => this.#later());
    else this.#draw();
  }

  #draw() {
    const answer = this.#answer;
    if (!answer || !this.#view) return;
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    const began = performance.now();
    const running = !isTerminal(answer);
    this.dataset.status = answer.status;
    this.#part.answer.setAttribute("aria-busy", String(running));
    this.#view.update(answer.text, running && answer.text !== "");
    this.#drawReasoning(answer, running);
    this.#drawStatus();
    this.#drawSources(answer);
    this.#drawNotice(answer);
    this.#drawFoot(answer, running);
    clearInterval(this.#clock);
    if (running && !this.#part.status.hidden) this.#clock = setInterval(() => this.#drawStatus(), 1000);
    // A long answer takes long to draw: leave the page four times as long to everything else.
    const spent = performance.now() - began;
    if (spent > SLOW_FRAME_MS) this.#busyUntil = performance.now() + 4 * spent;
  }

  #drawReasoning({ reasoning, text }, running) {
    this.#part.reasoning.hidden = !reasoning;
    if (!reasoning) return;
    if (this.#part["reasoning-text"].textContent !== reasoning) this.#part["reasoning-text"].textContent = reasoning;
    const seconds = Math.round(this.#thoughtFor / 1000);
    this.#part["reasoning-label"].textContent = running && !text ? "Thinking" : seconds ? `Thought for ${seconds} s` : "Thoughts";
  }

  #drawStatus() {
    const { status, text, phase, reasoning, error } = /** @type {import("../answer.js").Answer} */ (this.#answer);
    const waited = Math.floor((Date.now() - this.#since) / 1000);
    const phrase = (this.#turn?.answer ? phase : "Sending") || "Waiting for the model";
    const nothingNew = text ? phase && text.length === this.#phaseChars : !reasoning;
    const line = {
      running: !nothingNew ? "" : `${phrase.replace(/(…|\.\.\.)$/, "")}…${waited >= PATIENCE_SECONDS ? ` ${waited} s` : ""}`,
      stopped: text ? "Stopped" : "Stopped before the first word",
      finished: text || error ? "" : "The model gave an empty answer.",
    }[status];
    this.#part.status.hidden = !line;
    if (this.#part.status.textContent !== (line ?? "")) this.#part.status.textContent = line ?? "";
    this.#part.status.toggleAttribute("data-after", text !== "");
  }

  /** @param {{sources: {metadata?: Record<string, any>}[]?}} answer */
  #drawSources({ sources }) {
    this.#part.sources.hidden = !sources?.length;
    if (!sources?.length || this.#part.sources.childElementCount === sources.length) return;
    this.#part.sources.replaceChildren(
      ...sources.map(({ metadata = {} }, index) => {
        const item = document.createElement("li");
        const [name, where] = [document.createElement("bdi"), document.createElement("span")];
        name.className = "sources__name";
        name.textContent = `${index + 1}  ${metadata.title ?? "Document"}`;
        where.className = "sources__place";
        where.textContent = metadata.page == null ? "" : `page ${metadata.page}`;
        item.append(name, where);
        return item;
      }),
    );
  }

  /** @param {import("../answer.js").Answer} answer */
  #drawNotice({ status, text, error, finish_reason }) {
    const broken = status === "failed" || status === "interrupted";
    const short = status === "finished" && finish_reason === "length";
    const canGoOn = text !== "" && Boolean(this.#turn?.answer) && (broken || short || status === "stopped");
    for (const button of this.querySelectorAll('[data-act="continue"]')) button.toggleAttribute("hidden", !canGoOn || (button.closest(".notice") === null) !== (status === "stopped"));
    this.#part.retry.classList.toggle("button--outlined", !canGoOn);
    this.#part.notice.hidden = !broken && !short;
    this.#part.notice.classList.toggle("notice--doubt", short);
    if (!broken && !short) return;
    const said = error?.message || "There is no answer yet.";
    const kept = short ? NOTICES.length : NOTICES[status] ?? NOTICES.partial;
    this.#part["notice-text"].textContent = text ? kept : said;
    this.#part["details-button"].hidden = !text || !error?.message;
    this.#part["notice-details"].textContent = error?.message ?? "";
  }

  #drawFoot({ text, model, usage, metadata }, running) {
    const pages = (this.#turn?.answers.count ?? 0) > 1;
    this.#part.foot.hidden = running || (!text && !pages && !this.#turn?.answer);
    this.querySelector('[data-act="copy"]')?.toggleAttribute("hidden", !text);
    const button = this.#part.model;
    const name = model === COMMAND ? "" : [model?.split("/").slice(1).join("/") || model, metadata.cached && "from memory"].filter(Boolean).join(" · ");
    const figures = metadata.cached ? [] : [
      usage && `${usage.completion_tokens.toLocaleString()} tokens${usage.estimated ? " (about)" : ""}`,
      metadata.time_to_first_token_ms != null && `first word after ${(metadata.time_to_first_token_ms / 1000).toFixed(1)} s`,
      metadata.tokens_per_second != null && `${Number(metadata.tokens_per_second).toFixed(0)} a second`,
    ].filter(Boolean);
    button.textContent = [name, ...(button.getAttribute("aria-expanded") === "true" ? figures : [])].join(" · ");
    button.hidden = !name;
    button.dataset.figures = figures.join(" · ");
  }

  /** @param {MouseEvent} event */
  #press(event) {
    const button = /** @type {Element} */ (event.target).closest("[data-act]");
    if (!(button instanceof HTMLElement)) return;
    const act = button.dataset.act ?? "";
    const own = { edit: () => this.#openEdit(), "edit-cancel": () => this.#closeEdit(true), details: () => this.#toggleDetails(), figures: () => this.#toggleFigures(button), copy: () => copy(button, this.#answer?.text ?? ""), "copy-code": () => copy(button, button.closest(".code")?.querySelector("code")?.textContent ?? "") }[act];
    if (own) own();
    else if (act === "regenerate") this.#say("regenerate", { id: this.#turn?.answer?.id ?? this.#turn?.question?.id });
    else if (act === "continue") this.#say("continue", { id: this.#turn?.answer?.id });
    else if (act === "before" || act === "after") this.#say("turn-to", { id: this.#turn?.answer?.id, step: act === "after" ? 1 : -1 });
    else this.#say("turn-to", { id: this.#turn?.question?.id, step: act === "question-after" ? 1 : -1 });
  }

  #toggleDetails() {
    const open = this.#part["notice-details"].toggleAttribute("hidden") === false;
    this.#part["details-button"].setAttribute("aria-expanded", String(open));
  }

  /** @param {HTMLElement} button */
  #toggleFigures(button) {
    button.setAttribute("aria-expanded", String(button.getAttribute("aria-expanded") !== "true"));
    if (this.#answer) this.#drawFoot(this.#answer, false);
  }

  #openEdit() {
    const input = /** @type {HTMLTextAreaElement} */ (this.#part["edit-input"]);
    this.#part.question.hidden = true;
    this.#part["edit-form"].hidden = false;
    input.value = this.#turn?.question?.content ?? "";
    input.focus();
    input.setSelectionRange(input.value.length, input.value.length);
  }

  #closeEdit(focus = false) {
    if (this.#part["edit-form"].hidden) return;
    this.#part["edit-form"].hidden = true;
    this.#part.question.hidden = !this.#turn?.question;
    if (focus) /** @type {HTMLElement} */ (this.querySelector('[data-act="edit"]')).focus();
  }

  /** @param {KeyboardEvent} event */
  #editKey(event) {
    if (event.key === "Escape") this.#closeEdit(true);
    else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) this.#submit(event);
  }

  /** @param {Event} event */
  #submit(event) {
    event.preventDefault();
    const content = /** @type {HTMLTextAreaElement} */ (this.#part["edit-input"]).value;
    if (!content.trim()) return;
    this.#say("edit", { id: this.#turn?.question?.id, content });
  }

  /** @param {string} act @param {object} detail */
  #say(act, detail) {
    this.dispatchEvent(new CustomEvent("chat-act", { bubbles: true, detail: { act, ...detail } }));
  }
}

/** @param {Record<string, HTMLElement>} part @param {string} pager @param {string} label @param {Place} place */
function place(part, pager, label, { count, index }) {
  part[pager].hidden = count < 2;
  part[label].textContent = `${index + 1} of ${count}`;
  const [back, forth] = part[pager].querySelectorAll("button");
  back.disabled = index === 0;
  forth.disabled = index === count - 1;
}

/** Copy *text* and say so on the button itself. @param {HTMLElement} button @param {string} text */
async function copy(button, text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = document.createElement("textarea"); // plain http has no clipboard API
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    button.focus();
  }
  const [use, word] = [button.querySelector("use"), button.lastChild];
  const said = word instanceof Text ? word.data : "";
  button.dataset.done = "";
  use?.setAttribute("href", "#i-check");
  if (said === "Copy") /** @type {Text} */ (word).data = "Copied";
  setTimeout(() => {
    delete button.dataset.done;
    use?.setAttribute("href", "#i-copy");
    if (said === "Copy") /** @type {Text} */ (word).data = "Copy";
  }, 1600);
}

customElements.define("chat-turn", ChatTurn);
