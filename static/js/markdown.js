// @ts-check
/**
 * Markdown that grows: text in, DOM nodes out. Never a string of HTML.
 *
 * marked's lexer says what the text means; what it becomes is decided here, node by node, so nothing that a model writes
 * can turn into more than the elements below. HTML is shown as the text that it is, a link leads only to http, https
 * or mail, and an image is a link that somebody has to press.
 *
 * Invariant: of a growing text all blocks but the last are final. Only the last one is read again, and its nodes
 * are changed in place where they differ, so that a selection, a focus or a scrolled code block stays.
 */
import { Lexer } from "../vendor/marked-18.2.1.js";

const MAX_INLINE = 12_000; // a longer run of prose, or one with more marks, is shown as it is:
const MAX_MARKS = 400; // marked takes quadratic time for marks that do not match
const MAX_DEPTH = 40; // blocks in blocks
const MAX_MARK = 300; // longer is no mark, no address
// A line that may yet become a rule, a heading's underline, a fence with its language, an item or a task.
const UNCLEAR = /^[\s>]*(?:[-*_=+#~`|:\s]+|(?:[-*+]\s+)?\d{1,9}[.)]?\s*|(?:[-*+]|\d{1,9}[.)])\s+\[[ xX]?\]?\s*|(?:(?:[-*+]|\d{1,9}[.)])\s+)?(?:```|~~~)[^`\s]*)$/;
const MAX_OPEN_CODE = 160; // a backtick that stands alone for longer is just one

const ENTITIES = {
  amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: "\u00a0", ensp: "\u2002", emsp: "\u2003", thinsp: "\u2009",
  shy: "\u00ad", copy: "©", reg: "®", trade: "™", hellip: "…", mdash: "—", ndash: "–", lsquo: "‘", rsquo: "’", sbquo: "‚",
  ldquo: "“", rdquo: "”", bdquo: "„", laquo: "«", raquo: "»", bull: "•", middot: "·", times: "×", divide: "÷", minus: "−",
  plusmn: "±", deg: "°", micro: "µ", para: "¶", sect: "§", euro: "€", pound: "£", yen: "¥", cent: "¢", frac12: "½",
  frac14: "¼", frac34: "¾", sup2: "²", sup3: "³", larr: "←", rarr: "→", uarr: "↑", darr: "↓", harr: "↔", rArr: "⇒", ne: "≠",
  le: "≤", ge: "≥", asymp: "≈", infin: "∞", radic: "√", sum: "∑", pi: "π", alpha: "α", beta: "β", gamma: "γ", delta: "δ",
  lambda: "λ", mu: "μ", sigma: "σ", omega: "ω", check: "✓", ouml: "ö", auml: "ä", uuml: "ü", szlig: "ß", eacute: "é",
};

/** @param {string} text */
function decode(text) {
  return text.replace(/&(?:#(\d{1,7})|#x([\da-f]{1,6})|([a-z]\w{1,7}));/gi, (whole, decimal, hex, name) => {
    if (name) return Object.hasOwn(ENTITIES, name) ? ENTITIES[name] : whole;
    const code = decimal ? Number(decimal) : parseInt(hex, 16);
    return code && code <= 0x10ffff && !(code >= 0xd800 && code <= 0xdfff) ? String.fromCodePoint(code) : "\ufffd";
  });
}

/** @typedef {Record<string, any>} Token */

/** @param {string} name @param {string} className @param {(Node | string)[]} children @returns {HTMLElement} */
function element(name, className = "", ...children) {
  const node = document.createElement(name);
  if (className) node.className = className;
  node.append(...children);
  return node;
}

/** The address if it may be followed, else null. @param {string} href */
export function safeHref(href) {
  const bare = decode(href).replace(/[\0-\x20\x7f]/g, "");
  if (!/^(https?:\/\/|mailto:)/i.test(bare)) return null;
  try {
    const url = new URL(bare);
    return ["http:", "https:", "mailto:"].includes(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}

/** @param {string} href @param {(Node | string)[]} children @returns {Node | DocumentFragment} */
function link(href, className, ...children) {
  const target = safeHref(href);
  const node = element(target ? "a" : "span", className, ...children);
  if (target) {
    node.setAttribute("href", target);
    node.setAttribute("rel", "noopener noreferrer nofollow");
    node.setAttribute("target", "_blank");
    node.title = target; // where it leads is never only what the model says
  }
  return node;
}

/** @type {Record<string, (token: Token) => Node | string>} */
const INLINE = {
  text: (token) => (token.tokens ? inline(token.tokens) : decode(token.text)),
  escape: (token) => token.text,
  strong: (token) => element("strong", "", inline(token.tokens)),
  em: (token) => element("em", "", inline(token.tokens)),
  del: (token) => element("del", "", inline(token.tokens)),
  codespan: (token) => element("code", "", token.text),
  br: () => element("br"),
  checkbox: (token) => element("span", token.checked ? "task task--done" : "task", token.checked ? "☑ " : "☐ "),
  html: (token) => (/^<br\s*\/?>$/i.test(token.text) ? element("br") : token.text),
  link: (token) => link(token.href, "", inline(token.tokens)),
  image: (token) => link(token.href, "image-link", token.text || token.href),
};

/** @param {Token[]} tokens */
function inline(tokens) {
  const fragment = document.createDocumentFragment();
  for (const token of tokens ?? []) fragment.append((INLINE[token.type] ?? INLINE.html)(token));
  return fragment;
}

/** @type {Record<string, (token: Token, depth: number) => Node | string>} */
const BLOCK = {
  paragraph: (token) => prose("p", inline(token.tokens)),
  text: (token) => inline(token.tokens ?? [{ type: "text", text: token.text }]),
  heading: (token) => prose(token.depth < 3 ? "h3" : "h4", inline(token.tokens)),
  hr: () => element("hr"),
  html: (token) => prose("p", token.text.trimEnd()),
  blockquote: (token, depth) => prose("blockquote", blocks(token.tokens, depth)),
  list: (token, depth) => {
    const list = prose(token.ordered ? "ol" : "ul");
    if (token.ordered && token.start !== 1) list.setAttribute("start", String(Number(token.start) || 0));
    for (const item of token.items) list.append(element("li", item.task ? "task-item" : "", blocks(item.tokens, depth)));
    return list;
  },
  code: (token) => codeBlock(token.text, token.lang ?? ""),
  table: (token) => {
    const cell = (name, { tokens, align }) => {
      const node = element(name, "", inline(tokens)); // its columns run as the whole table does
      if (align) node.dataset.align = align;
      return node;
    };
    const row = (name, cells) => element("tr", "", ...cells.map((each) => cell(name, each)));
    const head = element("thead", "", row("th", token.header));
    const body = element("tbody", "", ...token.rows.map((cells) => row("td", cells)));
    const scroller = element("div", "table", prose("table", head, body));
    scroller.tabIndex = 0;
    scroller.setAttribute("role", "region");
    scroller.setAttribute("aria-label", "Table");
    return scroller;
  },
};

/** An element whose text may run either way. @param {string} name @param {(Node | string)[]} children */
function prose(name, ...children) {
  const node = element(name, "", ...children);
  node.dir = "auto";
  return node;
}

/** One of the page's own icons. @param {string} name */
export function drawing(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  svg.append(document.createElementNS(svg.namespaceURI, "use"));
  svg.firstElementChild?.setAttribute("href", `#i-${name}`);
  return svg;
}

/** @param {string} text @param {string} info */
function codeBlock(text, info) {
  const language = info.trim().split(/\s/)[0].slice(0, 30);
  const copy = element("button", "code__copy", drawing("copy"), "Copy");
  copy.setAttribute("type", "button");
  copy.dataset.act = "copy-code";
  const code = element("code", "", text);
  code.dataset.language = language.toLowerCase();
  const pre = element("pre", "code__text", code);
  pre.tabIndex = 0; // it scrolls sideways: the keyboard must reach it
  const block = element("div", "code", element("div", "code__head", element("span", "code__language", language || "text"), copy), pre);
  block.dir = "ltr";
  return block;
}

/** @param {Token[]} tokens @param {number} depth @returns {DocumentFragment} */
function blocks(tokens, depth) {
  const fragment = document.createDocumentFragment();
  for (const token of tokens) {
    const make = depth < MAX_DEPTH ? BLOCK[token.type] : null;
    if (make) fragment.append(make(token, depth + 1));
    else if (INLINE[token.type]) fragment.append(INLINE[token.type](token));
    else if (token.type !== "space" && token.type !== "def") fragment.append(token.raw);
  }
  return fragment;
}

/** The tokens of *source*; plain text where it is nested or long beyond reason. @param {string} source @param {object} links */
function lex(source, links) {
  const lexer = new Lexer({ gfm: true });
  Object.assign(lexer.tokens, { links });
  try {
    lexer.blockTokens(source, lexer.tokens);
    for (let next = 0; next < lexer.inlineQueue.length; next++) {
      const { src, tokens } = lexer.inlineQueue[next];
      if (src.length > MAX_INLINE || (src.match(/[*_~[]/g)?.length ?? 0) > MAX_MARKS) tokens.push({ type: "escape", raw: src, text: src });
      else lexer.inlineTokens(src, tokens);
    }
    return lexer.tokens;
  } catch (error) {
    if (!(error instanceof RangeError)) throw error; // too deep for the stack
    return [{ type: "html", raw: source, text: source }];
  }
}

/**
 * What of a text in the making can be shown without taking it back a moment later: the start of a rule, a fence, a
 * list or a table is held until it is clear what it is; emphasis, code and links that are still open are closed.
 * @param {string} text the last block and what follows
 */
export function settle(text) {
  const lineStart = text.lastIndexOf("\n") + 1;
  const line = text.slice(lineStart);
  if (line.length < MAX_MARK && UNCLEAR.test(line)) text = text.slice(0, lineStart);
  if (inCode(text)) return text;
  const block = text.slice(text.lastIndexOf("\n\n") + 1).trimStart();
  if (block.startsWith("|") && /^\|[^\n]*(?:\n[ |:-]*)?$/.test(block)) return text.slice(0, text.length - block.length);
  if (block.length > MAX_INLINE) return text;
  const trimmed = text.trimEnd();
  let end = trimmed.length;
  while (end > 0 && "*~`".includes(trimmed[end - 1]) && trimmed[end - 2] !== "\\") end -= 1;
  if (/(?:^|[^\\])(?:\\\\)*\\$/.test(trimmed.slice(-MAX_MARK))) end -= 1; // it may take the next letter with it
  end -= trimmed.slice(end - 9, end).match(/(?:&#?\w*|<(?:br?\s*\/?)?)$/i)?.[0].length ?? 0; // an entity, a break
  const bare = text.slice(0, end);
  return bare + closers(bare.slice(-block.length)) + (end === trimmed.length ? text.slice(end) : "");
}

/** Whether *text* ends within a fenced code block. @param {string} text */
function inCode(text) {
  let open = "";
  for (const [, mark, rest] of text.matchAll(/^ {0,3}(?:[-*+] |\d{1,9}[.)] )?[ \t]*(`{3,}|~{3,})(.*)$/gm)) {
    if (!open) open = mark;
    else if (mark.startsWith(open) && !rest.trim()) open = "";
  }
  return open !== "";
}

/** What closes the emphasis, code and link that *text* leaves open. @param {string} text */
function closers(text) {
  /** @type {string[]} */
  const open = [];
  for (let at = 0; at < text.length; at++) {
    const char = text[at];
    if (char === "\\") at += 1;
    else if (char === "`") {
      const mark = run(text, at);
      const end = closing(text, mark, at + mark.length);
      if (end < 0 && text.length - at < MAX_OPEN_CODE) return mark + open.reverse().join("");
      if (end >= 0) at = end + mark.length - 1;
      else at += mark.length - 1;
    } else if (char === "*" || char === "~") {
      const mark = run(text, at);
      const [before, after] = [text[at - 1] ?? " ", text[at + mark.length] ?? " "];
      let left = /\s/.test(before) ? 0 : mark.length;
      for (let top = open.at(-1); left && top?.[0] === char && top.length <= left; top = open.at(-1)) left -= open.pop()?.length ?? 0;
      const unused = left === mark.length || left === 0 && /\s/.test(before);
      if (unused && /\S/.test(after) && /[\s(["'“‘—:]/.test(before) && mark.length <= 3 && (char === "*" || mark === "~~")) open.push(mark);
      at += mark.length - 1;
    } else if (char === "]" && text[at + 1] === "(" && text.length - at < MAX_MARK) {
      const target = text.slice(at + 2);
      if (!/[)\n]/.test(target)) return (target.split('"').length % 2 ? ")" : '")') + open.reverse().join("");
    }
  }
  return open.reverse().join("");
}

/** The run of one character at *at*. @param {string} text @param {number} at */
function run(text, at) {
  let end = at;
  while (text[end] === text[at]) end += 1;
  return text.slice(at, end);
}

/** Where a run just like *mark* begins, -1 if nowhere. @param {string} text @param {string} mark @param {number} from */
function closing(text, mark, from) {
  for (let at = text.indexOf("`", from); at >= 0; at = text.indexOf("`", at)) {
    const found = run(text, at);
    if (found === mark) return at;
    at += found.length;
  }
  return -1;
}

/** Make *old* like *fresh*, keeping what is alike. @param {Node} old @param {Node} fresh @returns {Node} */
function morph(old, fresh) {
  if (old.nodeName !== fresh.nodeName) {
    /** @type {ChildNode} */ (old).replaceWith(fresh);
    return fresh;
  }
  if (old instanceof Text && fresh instanceof Text) {
    if (fresh.data.startsWith(old.data)) old.appendData(fresh.data.slice(old.data.length));
    else if (old.data !== fresh.data) old.data = fresh.data;
    return old;
  }
  if (old instanceof Element && fresh instanceof Element) {
    for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
    for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    morphChildren(old, [...fresh.childNodes], 0);
  }
  return old;
}

/** @param {Node} parent @param {Node[]} fresh @param {number} from the first child that may change */
function morphChildren(parent, fresh, from) {
  /** @type {ChildNode | null} */
  let old = parent.childNodes[from] ?? null;
  for (const node of fresh) {
    if (old) old = /** @type {ChildNode | null} */ (morph(old, node).nextSibling);
    else parent.appendChild(node);
  }
  while (old) {
    const next = old.nextSibling;
    /** @type {ChildNode} */ (old).remove();
    old = next;
  }
}

export class MarkdownView {
  #root;
  #caret = element("span", "caret");
  #shown = "";
  #final = false; // coloured, hence never changed in place
  #links = {};
  #doneChars = 0; // of the text, what is final
  #doneNodes = 0; // and its nodes

  /** @param {Element} root an empty element that becomes this view's own */
  constructor(root) {
    this.#root = root;
    this.#caret.setAttribute("aria-hidden", "true");
  }

  /** Show *text*, which is usually the last one and more. @param {string} text @param {boolean} [growing] */
  update(text, growing = false) {
    const source = text.includes("\r") ? text.replace(/\r\n?/g, "\n") : text;
    if (this.#final && source === this.#shown) {
      this.#caret.remove();
      if (growing) this.#place(); // it goes on in a moment; until then it stays as it is
      return;
    }
    // A reference may be defined after it was used: only the whole text knows.
    const late = !growing && Object.keys(this.#links).length > 0;
    if (late || !source.startsWith(this.#shown) || (this.#final && Object.keys(this.#links).length)) this.#clear();
    else if (this.#final) this.#reopen();
    [this.#shown, this.#final] = [source, !growing];
    this.#caret.remove();
    const open = source.slice(this.#doneChars);
    const tokens = lex(growing ? settle(open) : open, this.#links);
    /** @type {Node[]} */
    const nodes = [];
    let [chars, count] = [0, 0];
    const last = tokens.findLastIndex((token) => token.type !== "space");
    tokens.forEach((token, index) => {
      if (index === last) [chars, count] = [tokens.slice(0, last).reduce((sum, { raw }) => sum + raw.length, 0), nodes.length];
      nodes.push(...blocks([token], 0).childNodes);
    });
    morphChildren(this.#root, nodes, this.#doneNodes);
    const prefix = tokens.slice(0, Math.max(0, last)).map(({ raw }) => raw).join("");
    if (open.startsWith(prefix)) [this.#doneChars, this.#doneNodes] = [this.#doneChars + chars, this.#doneNodes + count];
    if (growing) this.#place();
    else this.#colour();
  }

  /** The text is whole: nothing will be changed in place any more. */
  async #colour() {
    const codes = /** @type {NodeListOf<HTMLElement>} */ (this.#root.querySelectorAll(".code code"));
    if (!codes.length) return;
    const { highlight } = await import("./highlight.js");
    for (const code of codes) highlight(code);
  }

  /** What was whole grows after all: its last block is made anew, in the same frame; the others stay as they are. */
  #reopen() {
    for (const node of [...this.#root.childNodes].slice(this.#doneNodes)) node.remove();
  }

  #clear() {
    this.#root.replaceChildren();
    [this.#shown, this.#links, this.#doneChars, this.#doneNodes] = ["", {}, 0, 0];
  }

  /** The caret stands after the last letter. */
  #place() {
    let end = /** @type {Element} */ (this.#root);
    while (end.lastElementChild && /^(P|H3|H4|UL|OL|LI|BLOCKQUOTE|DIV|PRE|CODE|TABLE|TBODY|TR|TD)$/.test(end.lastElementChild.nodeName)) {
      if (end.nodeName === "LI" && end.lastChild instanceof Text) break;
      end = end.lastElementChild;
    }
    if (end !== this.#root) end.append(this.#caret);
  }
}
