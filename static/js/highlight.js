// @ts-check
/**
 * Three things of a program's text made visible: comments faint, strings in the accent, keywords bold. Loaded when the
 * first code block has come to its end. Builds nodes, no HTML; the text itself is never changed.
 */

const C_LIKE = "//[^\\n]*|/\\*[\\s\\S]*?(?:\\*/|$)";
const HASH = "(?<=^|\\s)#[^\\n]*";
const QUOTED = '"(?:\\\\.|[^"\\\\\\n])*"|\'(?:\\\\.|[^\'\\\\\\n])*\'';
const TRIPLE = '"""[\\s\\S]*?(?:"""|$)|\'\'\'[\\s\\S]*?(?:\'\'\'|$)|';
const BACKTICK = "|`(?:\\\\.|[^`\\\\])*`";
const COMMON = "if else for while do return break continue switch case default try catch finally throw new class extends import export from function const let var static public private protected void null true false this super async await yield in of typeof instanceof delete interface enum implements type";

/** @typedef {{comment: string, string: string, words: string, flags?: string}} Language */
/** @type {Record<string, Language>} */
const LANGUAGES = {
  python: { comment: HASH, string: TRIPLE + QUOTED, words: "and as assert async await break class continue def del elif else except False finally for from global if import in is lambda match case None nonlocal not or pass raise return True try while with yield" },
  javascript: { comment: C_LIKE, string: QUOTED + BACKTICK, words: COMMON },
  java: { comment: C_LIKE, string: QUOTED, words: `${COMMON} final int long double float boolean char byte package abstract throws struct func fn let mut impl trait use pub match mod where namespace using template typename auto bool unsigned include define nil defer go chan map range select val fun object when override` },
  bash: { comment: HASH, string: QUOTED, words: "if then else elif fi for in do done while until case esac function return exit export local set unset readonly shift trap" },
  sql: { comment: "--[^\\n]*|/\\*[\\s\\S]*?(?:\\*/|$)", string: QUOTED, words: "select from where and or not insert into values update set delete create table alter drop index join left right inner outer full on group by order having limit offset union all distinct as null is in exists between like case when then else end primary key foreign references default with returning begin commit rollback view", flags: "i" },
  html: { comment: "<!--[\\s\\S]*?(?:-->|$)", string: QUOTED, words: "" },
  css: { comment: "/\\*[\\s\\S]*?(?:\\*/|$)", string: QUOTED, words: "" },
  yaml: { comment: HASH, string: QUOTED, words: "true false null" },
  json: { comment: C_LIKE, string: QUOTED, words: "true false null" },
};
const ALIASES = {
  py: "python", python3: "python", js: "javascript", jsx: "javascript", ts: "javascript", tsx: "javascript", typescript: "javascript", mjs: "javascript",
  c: "java", cpp: "java", "c++": "java", h: "java", cs: "java", csharp: "java", go: "java", golang: "java", rust: "java", rs: "java", kotlin: "java", swift: "java", php: "java", scala: "java", dart: "java",
  sh: "bash", shell: "bash", zsh: "bash", console: "bash", dockerfile: "bash", makefile: "bash", ruby: "bash", rb: "bash", perl: "bash", r: "bash",
  postgresql: "sql", sqlite: "sql", mysql: "sql", xml: "html", svg: "html", vue: "html", scss: "css", less: "css", yml: "yaml", toml: "yaml", ini: "yaml", conf: "yaml", nginx: "yaml", jsonc: "json",
};
const MAX_CHARS = 40_000; // more is read by nobody, and would take long

/** @type {Map<string, RegExp>} */
const compiled = new Map();

/** @param {string} name @returns {RegExp | null} */
function expression(name) {
  const key = Object.hasOwn(ALIASES, name) ? ALIASES[name] : name;
  if (!Object.hasOwn(LANGUAGES, key)) return null;
  if (!compiled.has(key)) {
    const { comment, string, words, flags = "" } = LANGUAGES[key];
    const keyword = words ? `|(?<k>(?<![\\w$.-])(?:${words.split(" ").join("|")})(?![\\w$-]))` : "";
    const option = key === "bash" ? "|(?<o>(?<=\\s)--?[a-zA-Z][\\w-]*)" : "";
    compiled.set(key, new RegExp(`(?<c>${comment})|(?<s>${string})${keyword}${option}`, `gm${flags}`));
  }
  return compiled.get(key) ?? null;
}

/** Mark up a code element, once. @param {HTMLElement} code */
export function highlight(code) {
  const text = code.textContent ?? "";
  const pattern = expression(code.dataset.language ?? "");
  if (!pattern || text.length > MAX_CHARS || code.childElementCount) return;
  /** @type {(Node | string)[]} */
  const nodes = [];
  let at = 0;
  for (const match of text.matchAll(pattern)) {
    if (match.index > at) nodes.push(text.slice(at, match.index));
    const { c, s } = match.groups ?? {};
    const span = document.createElement("span");
    span.className = c !== undefined ? "c" : s !== undefined ? "s" : "k";
    span.textContent = match[0];
    nodes.push(span);
    at = match.index + match[0].length;
  }
  code.replaceChildren(...nodes, text.slice(at));
}
