// What the page takes a reply for.

import assert from "node:assert/strict";
import { test } from "node:test";

globalThis.document = { cookie: "" };
const { ApiError, api } = await import("../../static/js/api.js");

/** Let fetch answer with *body*, of which the connection may break. */
function replies(status, body) {
  globalThis.fetch = async () => ({
    status,
    ok: status < 400,
    headers: new Headers(),
    json: async () => JSON.parse(body),
  });
}

test("a reply that was cut off is no reply: it can be asked for again", async () => {
  replies(200, '{"models": [{"id"');
  await assert.rejects(api.conversation("x"), (error) => error instanceof ApiError && error.transient);
});

test("of a proxy's page the status counts", async () => {
  replies(502, "<html>");
  await assert.rejects(api.conversation("x"), (error) => error.status === 502 && error.transient);
});
