// Read a stream with a client that somebody else wrote, and print its events as JSON.
//
//     node read.mjs CLIENT '{"method", "url", "headers", "body", "times": [{"most", "resume"}], "ends", "names"}'
//
// One reading for each of `times`: up to `most` events, or to one that ends the stream (with one of the names in `ends`, or a
// `type` among them). With `resume` it begins where the last one stopped.
import { createRequire } from "node:module";

const [client, given] = process.argv.slice(2);
const { method, url, headers, body, times, ends, names } = JSON.parse(given);
let events, most, lastEventId, finish, finished;

/** Note an event; true where it is the last one that is wanted. */
function take(event, data, id) {
  if (events.length < most) events.push({ event: event || "message", data, id });
  const kind = event && event !== "message" ? event : JSON.parse(data).type;
  const last = events.length >= most || ends.includes(kind);
  if (last) finish();
  return last;
}

const clients = {
  // EventSource as in browsers: headers and the last id of an earlier connection need its `fetch`
  async eventsource() {
    const { EventSource } = await import("eventsource");
    const withHeaders = (input, init) => fetch(input, { ...init, headers: { ...init.headers, ...headers, ...resume() } });
    const source = new EventSource(url, { fetch: withHeaders });
    for (const name of names) {
      source.addEventListener(name, (event) => {
        if (event.data !== undefined && take(event.type, event.data, event.lastEventId)) source.close();
      });
    }
    await finished;
  },

  async "eventsource-parser"() {
    const { createParser } = await import("eventsource-parser");
    const leaving = new AbortController();
    const response = await fetch(url, { method, headers: { ...headers, ...resume() }, body, signal: leaving.signal });
    if (response.status !== 200) throw new Error(`${response.status} ${await response.text()}`);
    let last = false;
    const parser = createParser({ onEvent: ({ event, data, id }) => (last ||= take(event, data, id)) });
    const decoder = new TextDecoder();
    for await (const bytes of response.body) {
      parser.feed(decoder.decode(bytes, { stream: true }));
      if (last) break;
    }
    leaving.abort();
  },

  // it was written for browsers, and looks for a window and a document
  async "fetch-event-source"() {
    globalThis.window = globalThis;
    globalThis.document = { hidden: false, addEventListener() {}, removeEventListener() {} };
    const { fetchEventSource } = createRequire(import.meta.url)("@microsoft/fetch-event-source");
    const leaving = new AbortController();
    await fetchEventSource(url, {
      method,
      headers: { ...headers, ...resume() },
      body,
      signal: leaving.signal,
      openWhenHidden: true,
      onmessage: ({ event, data, id }) => {
        if (data && take(event, data, id)) leaving.abort(); // it also calls for a block without data, as `retry:` is
      },
      onerror: (error) => {
        throw error;
      },
    });
  },
};

const resume = () => (lastEventId ? { "Last-Event-ID": lastEventId } : {});
const readings = [];
for (const time of times) {
  lastEventId = time.resume ? events.at(-1).id : null;
  [events, most] = [[], time.most];
  finished = new Promise((resolve) => (finish = resolve));
  await clients[client]();
  readings.push(events);
}
process.stdout.write(JSON.stringify(readings), () => process.exit(0));
