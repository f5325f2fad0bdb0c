// Several tabs in one process: each has its own module with its own document, and they share a BroadcastChannel.
import assert from "node:assert/strict";
import test, { afterEach, beforeEach, mock } from "node:test";

let channels, tabs;
class FakeChannel {
  constructor() {
    channels.add(this);
  }
  postMessage(data) {
    for (const other of [...channels]) if (other !== this) other.onmessage?.({ data: structuredClone(data) });
  }
  close() {
    channels.delete(this);
  }
}
globalThis.BroadcastChannel = FakeChannel;
globalThis.addEventListener = () => {};
globalThis.document = Object.assign(new EventTarget(), { hidden: false });
const { Share } = await import("../../static/js/shares.js");

function tab(options) {
  const own = { granted: true, document: globalThis.document, changes: 0 };
  own.share = new Share((granted) => Object.assign(own, { granted, changes: own.changes + 1 }), options);
  tabs.push(own);
  mock.timers.tick(10); // each was looked at a little later
  return own;
}
const granted = () => tabs.map((each) => each.granted);
/** All tabs of this process share one document: what is hidden is so for all. */
function hide(hidden) {
  document.hidden = hidden;
  document.dispatchEvent(new Event("visibilitychange"));
}

beforeEach(() => {
  mock.timers.enable({ apis: ["setInterval", "Date"], now: 1_000_000 });
  [channels, tabs, document.hidden] = [new Set(), [], false];
});
afterEach(() => {
  for (const { share } of tabs) share.close();
  mock.timers.reset();
});

test("ten tabs: those four hold a stream that were looked at last", () => {
  for (let i = 0; i < 10; i++) tab();
  assert.deepEqual(granted(), [false, false, false, false, false, false, true, true, true, true]);
  mock.timers.tick(20_000);
  assert.equal(granted().filter(Boolean).length, 4);
});

test("who needs none any more makes room for the next", () => {
  for (let i = 0; i < 6; i++) tab();
  tabs.pop().share.close();
  assert.deepEqual(granted(), [false, true, true, true, true]);
});

test("a tab that is not heard any more counts no more", () => {
  for (let i = 0; i < 5; i++) tab();
  const frozen = [...channels].at(-1);
  frozen.postMessage = () => {};
  assert.equal(tabs[0].granted, false);
  mock.timers.tick(10_000);
  assert.equal(tabs[0].granted, true);
});

test("a tab that is hidden for long holds none, until it is looked at", () => {
  const one = tab();
  hide(true);
  mock.timers.tick(50_000);
  assert.equal(one.granted, true);
  mock.timers.tick(15_000);
  assert.equal(one.granted, false);
  hide(false);
  assert.equal(one.granted, true);
  assert.equal(one.changes, 2);
});

test("where a connection carries many streams, tabs do not count", () => {
  for (let i = 0; i < 10; i++) tab({ many: true });
  assert.equal(granted().every(Boolean), true);
});
