// useEventSource with Node's own EventSource and a real server; tests/browser has the same in a real browser.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:http";
import test, { afterEach, beforeEach } from "node:test";
import { fileURLToPath } from "node:url";

const FLAG = "--experimental-eventsource";
if (globalThis.EventSource) tests();
else if (process.allowedNodeEnvironmentFlags.has(FLAG)) {
  test("in a Node that has EventSource", () => {
    const { NODE_TEST_CONTEXT, ...env } = process.env;
    const run = spawnSync(process.execPath, [FLAG, "--test", fileURLToPath(import.meta.url)], { env, encoding: "utf8" });
    assert.equal(run.status, 0, run.stdout + run.stderr);
  });
} else test("this Node has no EventSource", { skip: true }, () => {});

async function tests() {
  const { LOST, useEventSource } = await import("../../static/js/use-event-source.js");
  /** What the server answers, request by request; the last again and again. */
  let answers, requests, server, url, live, log;

  beforeEach(async () => {
    [answers, requests, log] = [[], [], []];
    server = createServer((request, response) => {
      requests.push({ url: request.url, id: request.headers["last-event-id"], cookie: request.headers.cookie });
      answers[Math.min(requests.length, answers.length) - 1](response, request);
    });
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    url = `http://127.0.0.1:${server.address().port}/stream`;
  });
  afterEach(() => {
    live.close();
    server.closeAllConnections();
    server.close();
  });

  /** An answer that streams *frames*, and ends if *end*. */
  const streams = (frames, end = true) => (response) => {
    response.writeHead(200, { "Content-Type": "text/event-stream" });
    response.write("retry: 10\n\n");
    for (const frame of frames) response.write(frame);
    if (end) response.end();
  };
  const frame = (event, data, id) => `${id ? `id: ${id}\n` : ""}event: ${event}\ndata: ${JSON.stringify(data)}\n\n`;
  const status = (code, body = "") => (response) => response.writeHead(code, { "Content-Type": "application/json" }).end(body);
  const opened = (options = {}) =>
    (live = useEventSource(url, {
      onMessage: (event) => log.push([event.type, event.data]),
      onError: () => log.push(["lost"]),
      onOpen: () => log.push(["open"]),
      onClose: () => log.push(["close"]),
      ...options,
    }));
  async function until(condition, what = condition.toString()) {
    const deadline = Date.now() + 10_000;
    while (!condition()) {
      assert.ok(Date.now() < deadline, `${what} did not come true: ${JSON.stringify({ log: log.slice(-9), requests: requests.slice(-5), error: live.error })}`);
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  }
  const count = (name) => log.filter(([one]) => one === name).length;

  test("events of every name of the contract reach onMessage, and the latest is parsed", async () => {
    const names = ["message", "chunk", "typing", "progress", "sources", "heartbeat", "notification", "conversation", "mine"];
    answers = [streams([...names.map((name, n) => frame(name, { n }, `a-${n}`)), "data: not JSON\n\n"], false)];
    opened({ events: ["mine"] });
    assert.deepEqual([live.data, live.error, live.isConnected], [null, null, false]);
    await until(() => log.length === names.length + 2);
    assert.deepEqual(log[0], ["open"]);
    assert.deepEqual(log.slice(1, -1), names.map((name, n) => [name, JSON.stringify({ n })]));
    assert.deepEqual([live.data, live.error, live.isConnected], ["not JSON", null, true]);
  });

  test("a heartbeat is heard and is no data", async () => {
    answers = [streams([frame("chunk", { content: "a" }), frame("heartbeat", {})], false)];
    opened();
    await until(() => count("heartbeat"));
    assert.deepEqual(live.data, { content: "a" });
  });

  test("a done ends it: nothing is asked any more", async () => {
    answers = [streams([frame("chunk", { content: "a" }), frame("done", {})])];
    opened();
    await until(() => count("close"));
    await new Promise((resolve) => setTimeout(resolve, 100));
    assert.deepEqual(log, [["open"], ["chunk", '{"content":"a"}'], ["done", "{}"], ["close"]]);
    assert.deepEqual([requests.length, live.isConnected, live.error], [1, false, null]);
  });

  test("a lost connection says so, comes back with the last id, and goes on", async () => {
    answers = [streams([frame("chunk", 1, "a-1")]), streams([frame("chunk", 2, "a-2")], false)];
    const errors = [];
    opened({ onError: () => errors.push([live.error, live.isConnected]) });
    await until(() => count("chunk") === 2);
    assert.deepEqual(errors, [[LOST, false]]);
    assert.equal(LOST, "Connection lost. Reconnecting…");
    assert.equal(requests[1].id, "a-1");
    assert.deepEqual([live.data, live.error, live.isConnected], [2, null, true]);
  });

  test("a 502 is outlived, from the last id", async () => {
    answers = [streams([frame("chunk", 1, "a 1")]), status(502), status(503), streams([]), streams([frame("chunk", 2)], false)];
    opened();
    await until(() => count("chunk") === 2);
    assert.deepEqual(requests.slice(2).map(({ url }) => url), Array(3).fill("/stream?lastEventId=a%201"));
    assert.equal(count("close"), 0);
  });

  test("a server that is away is waited for", async () => {
    answers = [status(500), (response) => response.destroy(), streams([]), streams([frame("chunk", 1)], false)];
    opened();
    await until(() => count("chunk"));
    assert.equal(live.error, null);
  });

  test("a 204 is the end and no error", async () => {
    answers = [streams([frame("chunk", 1, "a-1")]), status(204)];
    opened();
    await until(() => count("close"));
    assert.deepEqual([live.error, live.isConnected, live.data], [null, false, 1]);
    assert.equal(log.filter(([name]) => name === "close").length, 1);
  });

  test("a refusal is the end and says why", async () => {
    answers = [status(404, '{"error": {"code": "not_found", "message": "There is no such conversation."}}')];
    opened();
    await until(() => count("close"));
    assert.equal(live.error, "There is no such conversation.");
    answers = [status(403, "<html>")];
    opened();
    await until(() => count("close") === 2);
    assert.match(live.error, /403/);
  });

  test("an error of the server's is a message, with data; the connection is not lost", async () => {
    answers = [streams([frame("error", { code: "provider_timeout", message: "The model took too long." }, "a-1")], false)];
    opened();
    await until(() => count("error"));
    assert.deepEqual([live.error, live.isConnected, count("lost")], ["The model took too long.", true, 0]);
    assert.equal(live.data.code, "provider_timeout");
  });

  test("after an error of the server's, the end keeps what it said", async () => {
    answers = [streams([frame("error", { message: "The model took too long." }, "a-1")]), status(204)];
    opened();
    await until(() => count("close"));
    assert.deepEqual([live.error, requests.length, requests[1].url], ["The model took too long.", 2, "/stream?lastEventId=a-1"]);
  });

  test("who is told an error each time comes back later each time", async () => {
    answers = [streams([frame("error", { message: "Sign in." })])];
    opened();
    await new Promise((resolve) => setTimeout(resolve, 1500));
    assert.ok(requests.length <= 7, `${requests.length} requests`); // EventSource alone: more than fifty
    assert.equal(live.error, "Sign in.");
  });

  test("closed is closed, also while it waits", async () => {
    answers = [status(502)];
    opened();
    await until(() => count("lost"));
    live.close();
    live.close();
    await new Promise((resolve) => setTimeout(resolve, 800));
    assert.equal(requests.length, 1);
    assert.deepEqual([count("close"), live.isConnected], [1, false]);
  });

  test("a listener hears each change until it ends its subscription", async () => {
    answers = [streams([frame("chunk", 1), frame("chunk", 2)], false)];
    opened();
    const seen = [];
    const stop = live.subscribe(() => seen.push([live.isConnected, live.data]));
    await until(() => live.data === 2);
    stop();
    live.close();
    assert.deepEqual(seen, [[true, null], [true, 1], [true, 2]]);
  });

  test("an address with a query and a fragment keeps both", async () => {
    answers = [streams([frame("chunk", 1, "a-1")]), status(502), streams([]), streams([frame("chunk", 2)], false)];
    url += "?heartbeat=event#here";
    opened();
    await until(() => count("chunk") === 2);
    assert.equal(requests.at(-1).url, "/stream?heartbeat=event&lastEventId=a-1");
  });
}
