// The page's fold passes the cases that chatapp/answer.py passes, and the law of the fold. Run by `node --test tests/js`.
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import test from "node:test";
import { EMPTY, fold, fromMessage, isTerminal } from "../../static/js/answer.js";

const folder = new URL("../data/answers/", import.meta.url);
const cases = readdirSync(folder)
  .filter((name) => name.endsWith(".json"))
  .map((name) => [name, JSON.parse(readFileSync(new URL(name, folder), "utf8"))]);

test("there are cases", () => assert.ok(cases.length >= 10));

for (const [name, { events, answer }] of cases) {
  test(`${name}: the events fold to the answer`, () => assert.deepEqual(fold(events), answer));

  test(`${name}: a prefix, then the rest, give the same`, () => {
    for (let cut = 0; cut <= events.length; cut++) {
      assert.deepEqual(fold(events.slice(cut), fold(events.slice(0, cut))), answer);
    }
  });

  test(`${name}: the wire's name for an error is as good`, () => {
    const wire = events.map((event) => (event.event === "error" ? { ...event, event: "fail" } : event));
    assert.deepEqual(fold(wire), answer);
  });

  test(`${name}: a reset says again what was said`, () => {
    const { status, ...known } = fold(events.filter(({ event }) => !["done", "error"].includes(event)));
    const end = events.filter(({ event }) => ["done", "error"].includes(event));
    assert.deepEqual(fold([{ event: "token", content: "rubbish" }, { event: "reset", ...known }, ...end]), answer);
  });
}

test("an event that nobody knows changes nothing", () => {
  assert.deepEqual(fold([{ event: "telepathy", content: "x" }, { event: "constructor" }, { event: "__proto__" }]), { ...EMPTY });
});

test("a reset forgets what it does not name", () => {
  const answer = fold([{ event: "token", content: "a" }, { event: "reasoning", content: "b" }, { event: "reset", text: "c" }]);
  assert.deepEqual([answer.text, answer.reasoning, answer.status], ["c", "", "running"]);
});

test("a stored message is an answer", () => {
  const answer = fromMessage({ id: "m", content: "x", status: "failed", error: { code: "c", message: "m", retryable: true }, generation_id: "g", sources: null, metadata: null });
  assert.deepEqual(answer, { ...EMPTY, message: "m", generation: "g", text: "x", status: "failed", error: { code: "c", message: "m", retryable: true } });
  assert.ok(isTerminal(answer));
});
