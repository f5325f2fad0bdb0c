"""fold(events) -> Answer: the one account of what a log says. The page's `answer.js` is the same, and passes the same
cases.

Law: fold(rest, onto=fold(prefix)) == fold(prefix + rest), wherever the cut is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from chatapp.events import Event, Failed, Finished, Reasoning, Sources, Started, Status, Token, Usage, dump

RUNNING = "running"
FINISHED = "finished"
STOPPED = "stopped"
FAILED = "failed"
INTERRUPTED = "interrupted"
TERMINAL = (FINISHED, STOPPED, FAILED, INTERRUPTED)


@dataclass(frozen=True, slots=True)
class Answer:
    """What is known of an answer after some of its events."""

    generation: str | None = None
    conversation: str | None = None
    message: str | None = None
    model: str | None = None
    status: str = RUNNING  # or one of TERMINAL
    phase: str | None = None  # the last status line
    sources: list[dict[str, Any]] | None = None
    reasoning: str = ""
    text: str = ""
    usage: dict[str, Any] | None = None
    finish_reason: str | None = None
    error: dict[str, Any] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


def fold(events: Iterable[Event], onto: Answer | None = None) -> Answer:
    """Return *onto* (by default the empty answer) after *events*, in order.

    The text is joined once a call, so that folding a log in batches stays linear in the number of batches.
    """
    answer = onto or Answer()
    text: list[str] = []
    reasoning: list[str] = []
    for event in events:
        if type(event) is Token:
            text.append(event.content)
        elif type(event) is Reasoning:
            reasoning.append(event.content)
        else:
            step = STEPS.get(type(event))
            answer = step(answer, event) if step else answer
    if text or reasoning:
        answer = replace(answer, text=answer.text + "".join(text), reasoning=answer.reasoning + "".join(reasoning))
    return answer


def started(answer: Answer, event: Started) -> Answer:
    return replace(answer, **dump(event))


def status(answer: Answer, event: Status) -> Answer:
    return replace(answer, phase=event.content)


def sources(answer: Answer, event: Sources) -> Answer:
    return replace(answer, sources=event.content)


def usage(answer: Answer, event: Usage) -> Answer:
    return replace(answer, usage=dump(event))


def finished(answer: Answer, event: Finished) -> Answer:
    state = STOPPED if event.finish_reason == "stopped" else FINISHED
    return replace(answer, status=state, finish_reason=event.finish_reason, metadata=event.metadata)


def failed(answer: Answer, event: Failed) -> Answer:
    state = INTERRUPTED if event.code == "interrupted" else FAILED
    error = {"code": event.code, "message": event.message, "retryable": event.retryable}
    return replace(answer, status=state, error=error, metadata=event.metadata)


STEPS: dict[type[Event], Callable[[Answer, Any], Answer]] = {
    Started: started,
    Status: status,
    Sources: sources,
    Usage: usage,
    Finished: finished,
    Failed: failed,
}
