// What can be tested of the Markdown view without a page; tests/browser does the rest.
import assert from "node:assert/strict";
import test from "node:test";
import { safeHref, settle } from "../../static/js/markdown.js";

test("a link leads to http, https or mail", () => {
  for (const good of ["https://a.example/x?y#z", "http://a.example", "mailto:a@b.example", "HTTPS://A.example"]) assert.ok(safeHref(good), good);
});

test("a link leads nowhere else", () => {
  const bad = ["javascript:alert(1)", "JaVaScRiPt:alert(1)", " javascript:alert(1)", "java\nscript:alert(1)", "java\0script:x", "&#106;avascript:alert(1)", "javascript&colon;alert(1)", "data:text/html,x", "vbscript:x", "file:///etc/passwd", "blob:https://x/y", "//evil.example", "/api/auth/logout", "relative", "#x", "", "https://", "http:javascript:alert(1)//%", "ftp://x", "\u0001javascript:x", "view-source:https://x"];
  for (const href of bad) {
    const target = safeHref(href);
    assert.ok(target === null || /^https?:\/\/[^/]/.test(target), `${href} -> ${target}`);
  }
});

const HELD = [
  ["Text\n-", "Text\n"], ["Text\n--", "Text\n"], ["Text\n\n#", "Text\n\n"], ["Text\n\n1", "Text\n\n"], ["Text\n\n1.", "Text\n\n"], ["Text\n\n```", "Text\n\n"],
  ["Text\n\n| a | b |", "Text\n\n"], ["Text\n\n| a | b |\n|--", "Text\n\n"], ["| a | b", ""], ["Text\n\n> ", "Text\n\n"],
];
for (const [text, shown] of HELD) test(`${JSON.stringify(text)} is held until it is clear what it is`, () => assert.equal(settle(text), shown));

const CLOSED = [
  ["a **bold", "a **bold**"], ["a *word", "a *word*"], ["a `code", "a `code`"], ["see [it](https://a.ex", "see [it](https://a.ex)"], ["a **b *c", "a **b *c***"], ["a ~~b", "a ~~b~~"], ["a **bold ", "a **bold** "], ["a **bold*", "a **bold**"], ["a **", "a "], ["a ***b", "a ***b***"], ["(*a", "(*a*)".slice(0, 4)], ["**a `b", "**a `b`**"],
];
for (const [text, shown] of CLOSED) test(`${JSON.stringify(text)} is closed`, () => assert.equal(settle(text), shown));

const KEPT = ["2 * 3", "snake_case_name", "a **bold** word", "`a` b", "* item", "- a\n- b", "5 * 3 * 2", "```js\nconst a = 2 ** 3", "```\n| a", "| a |\n|---|\n| 1 |", "\\*a", "a \\*", "**bold**"];
for (const text of KEPT) test(`${JSON.stringify(text)} stays as it is`, () => assert.equal(settle(text), text));

test("settling takes linear time", () => {
  for (const piece of ["*a ", "`a``", "[a](", "**a ", "\\", "| a", "~~a", "```\n", "_a ", "*", "`", " ", "\n", "> ", "* ", "a\n", "[", "](", "~ "]) {
    const text = piece.repeat(Math.ceil(200_000 / piece.length));
    const began = performance.now();
    settle(text);
    assert.ok(performance.now() - began < 300, `${piece}: ${performance.now() - began} ms`);
  }
});
