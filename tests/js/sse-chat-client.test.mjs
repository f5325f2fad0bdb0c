// SSEChatClient against a real HTTP server that cuts, stalls, refuses and splits as the test says.
import assert from "node:assert/strict";
import { createServer } from "node:http";
import test, { after, before, beforeEach } from "node:test";
import { EventParser, SSEChatClient } from "../../static/js/sse-chat-client.js";

const MESSAGE = "5e5f7a63-0000-4000-8000-000000000001";
const TEXT = ['Grüße 🦊 "', "\r\n data: x\u2028", "\\ </script>", " end"];
const bytes = (text) => new TextEncoder().encode(text);
const frame = (seq, event, data, generation = "a".repeat(32)) =>
  `id: ${generation}-${seq}\nevent: ${event}\ndata: ${JSON.stringify(data)}\n\n`;
const FRAMES = [
  frame(1, "message-start", { messageId: MESSAGE }),
  ...TEXT.map((content, n) => frame(n + 3, "message-chunk", { messageId: MESSAGE, content, done: false })),
  frame(9, "message-complete", { messageId: MESSAGE, fullContent: TEXT.join("") }),
];
const WHOLE = `\uFEFFretry: 3000\n\n:\n\n${FRAMES.slice(0, 3).join("")}: silence\n\n${FRAMES.slice(3).join("")}`;

let server, url, calls, answers;
before(async () => {
  server = createServer(async (request, response) => {
    let body = "";
    for await (const part of request) body += part;
    calls.push({ method: request.method, path: request.url, headers: request.headers, body: JSON.parse(body) });
    const answer = answers[Math.min(calls.length, answers.length) - 1];
    await answer(response, request);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  url = `http://127.0.0.1:${server.address().port}`;
});
after(() => {
  server.closeAllConnections();
  server.close();
});
beforeEach(() => {
  [calls, answers] = [[], []];
});

const stream = (response) => response.writeHead(200, { "Content-Type": "text/event-stream; charset=utf-8" });
const says = (text) => (response) => stream(response).end(text);
const cut = (text) => (response) => stream(response).write(text, () => response.destroy());
const refuses = (status, body, headers = {}) => (response) =>
  response.writeHead(status, { "Content-Type": "application/json", ...headers }).end(body);
const error = (message) => JSON.stringify({ error: { code: "x", message } });

async function ask({ chatId, token, url: base = url, ...more } = {}, on = {}) {
  const heard = [];
  const client = new SSEChatClient({ baseUrl: base, token });
  const note = (name) => (data) => {
    heard.push([name, data]);
    on[name]?.(data, client);
  };
  const messages = [{ id: "m1", role: "user", content: "Hello", timestamp: new Date(0) }];
  await client.sendMessage(
    { messages, model: "m", chatId, ...more },
    { onStart: note("start"), onChunk: note("chunk"), onComplete: note("complete"), onError: note("error") },
  );
  return heard;
}
const text = (heard) => heard.filter(([name]) => name === "chunk").map(([, data]) => data.content).join("");
const ENTIRE = [
  ["start", { messageId: MESSAGE }],
  ...TEXT.map((content) => ["chunk", { messageId: MESSAGE, content, done: false }]),
  ["complete", { messageId: MESSAGE, fullContent: TEXT.join("") }],
];

test("an answer is handed on as the site tells it, and the request is as the site takes it", async () => {
  answers = [says(WHOLE)];
  assert.deepEqual(await ask({ token: "secret", chatId: "chat-1", systemPrompt: "Be brief." }), ENTIRE);
  const [{ method, path, headers, body }] = calls;
  assert.deepEqual([method, path, headers.authorization], ["POST", "/api/stream", "Bearer secret"]);
  assert.match(headers["idempotency-key"], /^[0-9a-f-]{32,36}$/);
  assert.equal(headers["last-event-id"], undefined);
  assert.deepEqual(body, {
    messages: [{ id: "m1", role: "user", content: "Hello", timestamp: "1970-01-01T00:00:00.000Z" }],
    model: "m",
    chatId: "chat-1",
    systemPrompt: "Be brief.",
  });
});

for (const [name, wire] of [["LF", WHOLE], ["CR", WHOLE.replaceAll("\n", "\r")], ["CRLF", WHOLE.replaceAll("\n", "\r\n")]]) {
  test(`events are the same wherever the bytes are cut, with ${name}`, () => {
    const all = bytes(wire), expected = new EventParser().feed(all);
    assert.equal(expected.length, FRAMES.length);
    for (let at = 0; at <= all.length; at++) {
      const parser = new EventParser();
      assert.deepEqual([...parser.feed(all.slice(0, at)), ...parser.feed(all.slice(at))], expected, `at ${at}`);
    }
    const parser = new EventParser();
    assert.deepEqual([...all].flatMap((byte) => parser.feed(Uint8Array.of(byte))), expected);
  });
}

test("over a socket too, byte by byte", async () => {
  const all = bytes(WHOLE);
  answers = [
    async (response) => {
      response.socket.setNoDelay(true);
      stream(response);
      for (let at = 0; at < all.length; at += 7) {
        response.write(all.slice(at, at + 7));
        await new Promise((resolve) => setImmediate(resolve));
      }
      response.end();
    },
  ];
  assert.deepEqual(await ask(), ENTIRE);
});

test("what the format allows is read, and what is no event is left out", () => {
  const feed = (wire) => new EventParser().feed(bytes(wire));
  assert.deepEqual(feed("data: a\ndata:b\ndata\n\n"), [{ event: "message", data: "a\nb\n", id: null }]);
  assert.deepEqual(feed("data\n\n"), [{ event: "message", data: "", id: null }]);
  assert.deepEqual(feed("event: x\nid: 1\n\ndata: y\n\n"), [{ event: "message", data: "y", id: null }]);
  assert.deepEqual(feed(": c\nretry: 12x\nunknown: z\nid: a\0b\ndata:  two\n\n"), [{ event: "message", data: " two", id: null }]);
  assert.deepEqual(feed("data: unfinished\n"), []);
});

test("a connection cut after any event, or in one, is gone on with, and each event is handed on once", async () => {
  const ends = FRAMES.map((_, n) => n).slice(1);
  for (const n of ends) {
    calls = [];
    answers = [cut(FRAMES.slice(0, n).join("") + FRAMES[n].slice(0, 40)), says(FRAMES.slice(n).join(""))];
    assert.deepEqual(await ask({ chatId: "c" }), ENTIRE, `after ${n}`);
    assert.equal(calls.length, 2);
    assert.equal(calls[1].headers["last-event-id"], /id: (.*)/.exec(FRAMES[n - 1])[1]);
    assert.equal(calls[1].headers["idempotency-key"], calls[0].headers["idempotency-key"]);
    assert.deepEqual(calls[1].body, calls[0].body);
  }
});

test("a stream that ends before the answer does, and one that begins again, are gone on with too", async () => {
  answers = [says(FRAMES.slice(0, 3).join("")), cut(""), refuses(503, error("busy"), { "Retry-After": "0" }), says(FRAMES.join(""))];
  assert.deepEqual(await ask({ chatId: "c" }), ENTIRE);
  assert.equal(calls.length, 4);
});

test("an answer that nobody keeps is not asked for a second time", async () => {
  answers = [cut(FRAMES.slice(0, 2).join("")), says(FRAMES.join(""))];
  const heard = await ask();
  assert.deepEqual(heard.slice(0, 2), ENTIRE.slice(0, 2));
  assert.equal(heard[2][0], "error");
  assert.match(heard[2][1].message, /broke/);
  assert.deepEqual([heard.length, calls.length], [3, 1]);
});

test("another answer is not mixed into one that broke off", async () => {
  const other = FRAMES.map((one) => one.replaceAll("a".repeat(32), "b".repeat(32)));
  answers = [cut(FRAMES.slice(0, 3).join("")), says(other.join(""))];
  const heard = await ask({ chatId: "c" });
  assert.equal(text(heard), TEXT.slice(0, 2).join(""));
  assert.equal(heard.at(-1)[0], "error");
});

test("after some tries it is told that the site cannot be reached", { timeout: 30_000 }, async (t) => {
  t.mock.method(Math, "random", () => 0); // the shortest waits
  answers = [cut(FRAMES.slice(0, 2).join("")), (response) => response.destroy()];
  const heard = await ask({ chatId: "c" });
  assert.deepEqual(heard.slice(0, 2), ENTIRE.slice(0, 2));
  assert.deepEqual(heard.slice(2).map(([name]) => name), ["error"]);
  assert.equal(calls.length, 6);
});

for (const status of [400, 401, 403, 413, 429, 503]) {
  test(`a refusal, ${status}, is told in the site's own words`, async () => {
    answers = [refuses(status, error("The site says why."))];
    assert.deepEqual(await ask({ chatId: "c" }), [["error", { message: "The site says why." }]]);
    assert.equal(calls.length, 1);
  });
}

test("so is one that meets a reader who comes back", async () => {
  answers = [cut(FRAMES.slice(0, 2).join("")), refuses(401, error("Sign in to go on."))];
  assert.deepEqual((await ask({ chatId: "c" })).at(-1), ["error", { message: "Sign in to go on." }]);
  assert.equal(calls.length, 2);
});

test("an error of the model ends the answer, one of the connection does not", async () => {
  answers = [says(FRAMES[0] + frame(4, "error", { message: "The model is away." }))];
  assert.deepEqual((await ask({ chatId: "c" })).slice(1), [["error", { message: "The model is away." }]]);
  calls = [];
  const passing = `event: error\ndata: ${JSON.stringify({ message: "It goes on in a moment." })}\n\n`;
  answers = [says(FRAMES.slice(0, 2).join("") + passing), says(FRAMES.slice(2).join(""))];
  assert.deepEqual(await ask({ chatId: "c" }), ENTIRE);
  calls = [];
  assert.deepEqual((await ask()).at(-1), ["error", { message: "It goes on in a moment." }]);
});

test("what is no stream is no answer", async () => {
  for (const answer of [(response) => response.end("<html>"), says("id: a-1\nevent: message-start\ndata: {\n\n")]) {
    answers = [answer];
    const heard = await ask();
    assert.deepEqual(heard.map(([name]) => name), ["error"]);
    assert.match(heard[0][1].message, /understand/);
  }
  answers = [refuses(404, "<html>")];
  assert.match((await ask())[0][1].message, /404/);
});

test("nobody there is an error, and no exception", async () => {
  const heard = await ask({ url: "http://127.0.0.1:1" });
  assert.deepEqual(heard.map(([name]) => name), ["error"]);
  assert.match(heard[0][1].message, /cannot be reached/);
});

test("abort ends it: the connection closes and nothing more is handed on", async () => {
  let closed;
  const gone = new Promise((resolve) => (closed = resolve));
  answers = [
    (response) => {
      response.on("close", closed);
      stream(response).write(FRAMES.slice(0, 2).join(""));
    },
  ];
  const heard = await ask({ chatId: "c" }, { chunk: (_, client) => client.abort() });
  assert.deepEqual(heard, ENTIRE.slice(0, 2));
  await gone;
  assert.equal(calls.length, 1);
});

test("abort ends a wait between two tries", async () => {
  answers = [cut(FRAMES[0]), (response) => response.destroy()];
  const heard = await ask({ chatId: "c" }, { start: (_, client) => setTimeout(() => client.abort(), 200) });
  assert.deepEqual(heard, ENTIRE.slice(0, 1));
});

test("what a handler throws reaches who asked, and the connection is let go of", async () => {
  let closed;
  const gone = new Promise((resolve) => (closed = resolve));
  answers = [
    (response) => {
      response.on("close", closed);
      stream(response).write(FRAMES[0]);
    },
  ];
  await assert.rejects(ask({}, { start: () => { throw new Error("mine"); } }), /mine/);
  await gone;
});
