// @ts-check
/**
 * fold(events) -> answer: the one account of what a log says. The same fold as chatapp/answer.py; both pass
 * tests/data/answers/*.json. Law: fold(rest, fold(prefix)) equals fold(prefix + rest), wherever the cut is made.
 *
 * The wire says `fail` for `error`, since EventSource raises an `error` of its own, and `reset` where a cursor could
 * not be honoured: the text so far in place of all that was seen.
 *
 * @typedef {"running" | "finished" | "stopped" | "failed" | "interrupted"} Status
 * @typedef {{code: string, message: string, retryable: boolean}} Failure
 * @typedef {{event: string, [field: string]: any}} Event
 * @typedef {{generation: string?, conversation: string?, message: string?, model: string?, status: Status,
 *   phase: string?, sources: {text: string, score: number, metadata?: Record<string, any>}[]?, reasoning: string, text: string, usage: object?, finish_reason: string?,
 *   error: Failure?, metadata: Record<string, any>}} Answer
 */

/** @type {Readonly<Answer>} */
export const EMPTY = Object.freeze({
  generation: null,
  conversation: null,
  message: null,
  model: null,
  status: "running",
  phase: null,
  sources: null,
  reasoning: "",
  text: "",
  usage: null,
  finish_reason: null,
  error: null,
  metadata: {},
});

/** @type {Record<string, (answer: Answer, event: Event) => Partial<Answer>>} */
const STEPS = {
  start: (_, { generation, conversation, message, model }) => ({ generation, conversation, message, model }),
  status: (_, { content }) => ({ phase: content }),
  sources: (_, { content }) => ({ sources: content }),
  reasoning: (answer, { content }) => ({ reasoning: answer.reasoning + content }),
  token: (answer, { content }) => ({ text: answer.text + content }),
  usage: (_, { event, ...usage }) => ({ usage }),
  done: (_, { finish_reason, metadata = {} }) => ({
    status: finish_reason === "stopped" ? "stopped" : "finished",
    finish_reason,
    metadata,
  }),
  error: (_, { code, message, retryable, metadata = {} }) => ({
    status: code === "interrupted" ? "interrupted" : "failed",
    error: { code, message, retryable },
    metadata,
  }),
  fail: (answer, event) => STEPS.error(answer, event),
  reset: (_, { event, ...known }) => ({ ...EMPTY, ...pick(known) }),
};

/**
 * The answer after *events*, in order. An unknown event changes nothing.
 * @param {Iterable<Event>} events
 * @param {Answer} [onto] by default the empty answer
 * @returns {Answer}
 */
export function fold(events, onto = EMPTY) {
  let answer = onto;
  for (const event of events) {
    const step = Object.hasOwn(STEPS, event.event) ? STEPS[event.event] : null;
    if (step) answer = { ...answer, ...step(answer, event) };
  }
  return answer;
}

/**
 * The answer that a stored message says.
 * @param {Record<string, any>} message
 * @returns {Answer}
 */
export function fromMessage(message) {
  return {
    ...EMPTY,
    ...pick({ ...message, text: message.content, generation: message.generation_id, message: message.id }),
  };
}

/** True once the log has ended. @param {Answer} answer */
export const isTerminal = (answer) => answer.status !== "running";

/** The known fields of *values* that hold something. @param {Record<string, any>} values @returns {Partial<Answer>} */
function pick(values) {
  return Object.fromEntries(Object.entries(values).filter(([key, value]) => key in EMPTY && value != null));
}
