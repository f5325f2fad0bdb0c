"""Answers that were given before: the same person, asking the same model the same with the same settings, gets the same.

A key is a keyed hash of all that decides an answer: who asks, the model, its settings, and every turn that it is told. So
nobody is answered from another's, and a changed history or system prompt is another question. Only whole answers are kept,
never one that failed, was stopped, cut off or gone on with. What goes wrong here is logged: the model is asked then.
"""

from __future__ import annotations

import hmac
import logging

import orjson

from chatapp import metrics
from chatapp.caches import Cache
from chatapp.events import Event, Finished
from chatapp.runner import Job, Script
from chatapp.settings import Settings

logger = logging.getLogger(__name__)

MAX_BYTES = 256 * 1024  # of an answer: one of many, in a memory that is small
WHOLE = "stop"
CACHED = "cached"


def find(cache: Cache, settings: Settings, job: Job) -> Script | None:
    """Return the answer that was given to the same question before; None where there is none."""
    if not settings.cache_seconds or job.script is not None:
        return None
    try:
        kept = cache.get(key(settings, job))
        script = Script(kept.decode(), CACHED) if kept is not None else None
    except Exception:
        logger.exception("generation %s: the cache failed; the model is asked", job.message["generation_id"])
        script = None
    if script is None:
        metrics.cache_miss()
    else:
        metrics.cache_hit()
    return script


def keep(cache: Cache, settings: Settings, job: Job, terminal: Event) -> None:
    """Keep an answer that has ended, if it is whole and the model's own."""
    if not settings.cache_seconds or job.script is not None or job.seams:
        return
    if not isinstance(terminal, Finished) or terminal.finish_reason != WHOLE or terminal.message["sources"]:
        return
    text = terminal.message["content"].encode()
    if text and len(text) <= MAX_BYTES:
        cache.put(key(settings, job), text, seconds=settings.cache_seconds)


def key(settings: Settings, job: Job) -> str:
    """Return the name of the answer to what *job* asks; it tells nothing of it."""
    params = {name: value for name, value in job.params.items() if name != "script"}
    turns = [[turn.role, turn.content] for turn in job.turns]
    asked = orjson.dumps([job.user_id, job.model, params, turns], option=orjson.OPT_SORT_KEYS)
    return "answer:" + hmac.digest(settings.derived_key("answers kept"), asked, "sha256").hex()
