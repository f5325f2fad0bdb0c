// AnswerStream against an EventSource that does what browsers were seen to do, with a clock that the test holds.
import assert from "node:assert/strict";
import test, { afterEach, beforeEach, mock } from "node:test";

const sources = [];
class FakeEventSource extends EventTarget {
  readyState = 0;
  constructor(url) {
    super();
    this.url = url;
    sources.push(this);
  }
  close() {
    this.readyState = 2;
    this.closed = true;
  }
  open() {
    this.readyState = 1;
    this.onopen?.();
  }
  say(name, fields, seq = "") {
    this.dispatchEvent(Object.assign(new Event(name), { data: JSON.stringify(fields), lastEventId: String(seq) }));
  }
  break(readyState = 2) {
    this.readyState = readyState;
    this.onerror?.();
  }
}
globalThis.EventSource = FakeEventSource;
const window_ = new EventTarget();
globalThis.addEventListener = window_.addEventListener.bind(window_);
globalThis.document = Object.assign(new EventTarget(), { hidden: false });
const { AnswerStream } = await import("../../static/js/stream.js");

let seen, waits, ends, doubts, stream;
const settled = async () => { for (let i = 0; i < 20; i++) await null; };
const last = () => sources.at(-1);
const text = () => seen.filter(({ event }) => event === "token").map(({ content }) => content).join("");

function follow({ doubt = async () => "running", unauthorized = async () => true, after = 0 } = {}) {
  stream = new AnswerStream("/s", {
    onEvent: (event) => seen.push(event),
    onWait: (waiting) => waits.push(waiting),
    onUnauthorized: unauthorized,
    onDoubt: () => (doubts++, doubt()),
    onGiveUp: (why) => ends.push(why),
  }, after);
}

beforeEach(() => {
  mock.timers.enable({ apis: ["setTimeout", "Date"] });
  sources.length = 0;
  [seen, waits, ends, doubts] = [[], [], [], 0];
});
afterEach(() => {
  stream.close();
  mock.timers.reset();
});

test("events are handed on, and the end closes the stream", () => {
  follow();
  last().open();
  last().say("token", { content: "a" }, 1);
  last().say("token", { content: "b" }, 2);
  last().say("done", { finish_reason: "stop" }, 3);
  assert.equal(text(), "ab");
  assert.ok(last().closed);
  mock.timers.tick(100_000);
  assert.equal(sources.length, 1);
});

test("a broken connection is made again from the last seq, and what comes twice is dropped", async () => {
  follow();
  last().open();
  last().say("token", { content: "a" }, 1);
  last().break(0);
  await settled();
  assert.ok(sources[0].closed, "the browser's own return is not waited for");
  mock.timers.tick(1000);
  assert.equal(last().url, "/s?lastEventId=1");
  last().open();
  last().say("token", { content: "a" }, 1);
  last().say("token", { content: "b" }, 2);
  assert.equal(text(), "ab");
  assert.equal(doubts, 0);
});

test("a gap is never shown", async () => {
  follow();
  last().open();
  last().say("token", { content: "a" }, 1);
  last().say("token", { content: "c" }, 3);
  await settled();
  assert.equal(text(), "a");
  mock.timers.tick(1000);
  assert.equal(last().url, "/s?lastEventId=1");
});

test("after a refusal the server is asked; while it is away the stream is tried for ever, at growing distances", async () => {
  follow({ doubt: async () => { throw new Error("away"); } });
  const gaps = [];
  for (let i = 0; i < 8; i++) {
    last().break(2);
    await settled();
    gaps.push(waits.at(-1) ? waits.at(-1).until - Date.now() : 0);
    mock.timers.tick(20_000);
  }
  assert.equal(sources.length, 9);
  assert.ok(gaps.at(-1) > gaps[1] && gaps.at(-1) <= 19_000, String(gaps));
  assert.deepEqual(ends, []);
});

test("streams that cannot be had while the server is there are given up", async () => {
  follow();
  for (let i = 0; i < 3; i++) {
    last().break(2);
    await settled();
    mock.timers.tick(20_000);
  }
  assert.deepEqual(ends, ["refused"]);
});

test("an answer that has ended meanwhile, or is gone, needs no stream", async () => {
  for (const state of ["ended", "gone"]) {
    ends.length = 0;
    follow({ doubt: async () => state });
    last().break(2);
    await settled();
    assert.deepEqual(ends, [state]);
    stream.close();
  }
});

test("a refusal in the stream is not the answer's end: the sign-in is renewed", async () => {
  let renewed = 0;
  follow({ unauthorized: async () => (renewed++, true), after: 4 });
  last().open();
  last().say("fail", { code: "unauthorized", message: "", retryable: false });
  await settled();
  assert.equal(renewed, 1);
  assert.equal(sources.length, 2);
  assert.equal(last().url, "/s?lastEventId=4");
  assert.deepEqual(seen, []);
  last().say("token", { content: "b" }, 5);
  last().say("fail", { code: "interrupted", message: "m", retryable: true }, 6);
  assert.equal(seen.at(-1).code, "interrupted");
});

test("a refusal for a while is waited out, one for good is not", async () => {
  follow({ after: 1 });
  last().open();
  last().say("fail", { code: "overloaded" });
  await settled();
  mock.timers.tick(20_000);
  assert.equal(sources.length, 2);
  last().open();
  last().say("fail", { code: "not_found" });
  await settled();
  assert.deepEqual(ends, ["gone"]);
});

test("a reset takes the place of all that was seen", () => {
  follow({ after: 9 });
  last().open();
  last().say("reset", { text: "abc" }, 3);
  last().say("token", { content: "d" }, 4);
  assert.deepEqual(seen.map(({ event, seq }) => [event, seq]), [["reset", 3], ["token", 4]]);
});

test("forty seconds of silence are a reason to ask again", () => {
  follow();
  last().open();
  last().say("token", { content: "a" }, 1);
  mock.timers.tick(39_000);
  assert.equal(sources.length, 1);
  mock.timers.tick(2_000);
  assert.equal(sources.length, 2);
  assert.deepEqual(waits.filter(Boolean), []);
});

test("being online again, or looked at, ends the wait", async () => {
  follow({ doubt: async () => { throw new Error("away"); } });
  for (const [target, name] of [[window_, "online"], [document, "visibilitychange"]]) {
    const before = sources.length;
    last().break(2);
    await settled();
    target.dispatchEvent(new Event(name));
    assert.equal(sources.length, before + 1, name);
  }
});

test("a page that is put away holds no connection, and goes on when it is taken out again", () => {
  follow();
  last().open();
  last().say("token", { content: "a" }, 1);
  window_.dispatchEvent(new Event("pagehide"));
  assert.ok(last().closed);
  window_.dispatchEvent(Object.assign(new Event("pageshow"), { persisted: true }));
  assert.equal(last().url, "/s?lastEventId=1");
});

test("a stream that rests holds no connection, and goes on from the last seq", () => {
  follow();
  last().open();
  last().say("token", { content: "a" }, 1);
  stream.pause();
  assert.ok(last().closed);
  window_.dispatchEvent(new Event("online"));
  document.dispatchEvent(new Event("visibilitychange"));
  mock.timers.tick(100_000);
  assert.equal(sources.length, 1);
  stream.resume();
  stream.resume();
  assert.equal(sources.length, 2);
  assert.equal(last().url, "/s?lastEventId=1");
  last().open();
  last().say("token", { content: "b" }, 2);
  assert.equal(text(), "ab");
});

test("a renewed sign-in is used at once, also after a break; one that does not help is not renewed without a pause", async () => {
  follow();
  last().open();
  last().say("token", { content: "a" }, 1);
  last().break(0);
  await settled();
  mock.timers.tick(1000);
  for (const count of [3, 3]) {
    last().open();
    last().say("fail", { code: "unauthorized" });
    await settled();
    assert.equal(sources.length, count);
  }
  mock.timers.tick(20_000);
  assert.equal(sources.length, 4);
});
