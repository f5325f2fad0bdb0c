"""Scripts: what a model API may send, byte for byte, and what must become of it.

A script is an API's answer with one thing done to it at one place, its lines ended in one of the ways that there are. What
is expected follows from how it was made, and not from any parser.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle, product

from tests.faults import LONG
from tests.support.fake_models import Anthropic, Dialect, Ollama, OpenAI, Scenario

# what is cut badly, escaped wrongly or taken for the end of a line
TOKENS = ("Grüße ", "\u2028\u0085 ", "😀", '\\"\n\r\t', "data: [DONE]\n\n", "👩‍💻 e\u0301", " {}")
PLACES = (0, 1, 3, len(TOKENS))
NEWLINES = {"lf": b"\n", "crlf": b"\r\n", "cr": b"\r", "bom": b"\n"}
APIS: dict[str, type[Dialect]] = {"openai": OpenAI, "anthropic": Anthropic, "ollama": Ollama}

WELL = None
BROKEN = "provider_unavailable"
CUT = "interrupted"


@dataclass(frozen=True)
class Script:
    """`code` is that of the error at the end, None for an answer that ends well."""

    name: str
    api: str
    body: bytes
    text: str
    reasoning: str
    code: str | None


Answer = tuple[bytes, bytes, str | None]  # what comes in between, what after it, and the code
Fault = Callable[[Dialect, bytes], Answer | None]  # of an API, and what would have come; None where the API has no such


def line(dialect: Dialect, text: str) -> bytes:
    """Return *text* as one payload."""
    return text.encode() + b"\n" if dialect.name == "ollama" else b"data: " + text.encode() + b"\n\n"


def halves(data: bytes) -> bytes:
    return data[: len(data) // 2]


def named(dialect: Dialect, code: str) -> str:
    """Return the code of an error that names its kind: Ollama's never does."""
    return BROKEN if dialect.name == "ollama" else code


FAULTS: dict[str, Fault] = {
    # what changes nothing
    "nothing": lambda api, rest: (b"", rest, WELL),
    "silence": lambda api, rest: (api.heartbeat() * 3, rest, WELL),
    "empty-lines": lambda api, rest: (b"\n" * 5, rest, WELL),
    "odd": lambda api, rest: (api.odd(), rest, WELL),
    "tool-calls": lambda api, rest: (api.tools(), rest, WELL),
    "thoughts": lambda api, rest: (api.reasoning("Höm… 😀"), rest, WELL),
    "comment": lambda api, rest: None if api.name == "ollama" else (b": \xff\xfe hello\nfoo: bar\n\n", rest, WELL),
    "said-after-the-end": lambda api, rest: (b"", rest + api.token("late") + b"\xff\n\n{", WELL),
    "ended-twice": lambda api, rest: (b"", rest * 2, WELL),
    # connections that break
    "cut": lambda api, rest: (b"", b"", CUT),
    "cut-in-an-event": lambda api, rest: (b"", halves(api.token("never seen")), CUT),
    "cut-in-a-character": lambda api, rest: (b"", api.token("😀").partition(b"\x80")[0], CUT),
    "cut-before-the-end-mark": lambda api, rest: (b"", halves(api.end("stop", 1, 1, usage=False)), CUT),
    "nothing-more-but-silence": lambda api, rest: (b"", api.heartbeat() * 20, CUT),
    # what is no answer
    "broken-json": lambda api, rest: (api.broken(), rest, BROKEN),
    "number-for-text": lambda api, rest: (api.token(7), rest, BROKEN),
    "list-for-text": lambda api, rest: (api.token(["x"]), rest, BROKEN),
    "list-for-object": lambda api, rest: (line(api, "[1]"), rest, BROKEN),
    "null-for-object": lambda api, rest: (line(api, "null"), rest, BROKEN),
    "nan": lambda api, rest: (line(api, '{"x": NaN}'), rest, BROKEN),
    "deep": lambda api, rest: (line(api, "[" * 3000), rest, BROKEN),
    "lone-surrogate": lambda api, rest: (line(api, '{"x": "\\ud800"}'), rest, BROKEN),
    "page": lambda api, rest: (b"<html>\n<p>Bad gateway</p>\n", b"", CUT if api.name != "ollama" else BROKEN),
    # what the API says instead
    "error": lambda api, rest: (api.event(api.error(529)), b"", BROKEN),
    "error-429": lambda api, rest: (api.event(api.error(429)), b"", named(api, "rate_limited")),
    "error-413": lambda api, rest: (api.event(api.error(413)), b"", "payload_too_large"),
    "filtered": lambda api, rest: None if api.name == "ollama" else (api.filtered(), b"", BROKEN),
    "length": lambda api, rest: (b"", rest.replace(b'"stop"', b'"length"').replace(b"end_turn", b"max_tokens"), WELL),
}  # fmt: skip


def scripts() -> Iterator[Script]:
    """Yield the corpus: each fault of each API at each place, with one kind of newline, or with all of them in the long run."""
    turns = cycle(NEWLINES)
    for api, (fault, do), place in product(APIS, FAULTS.items(), PLACES):
        for newline in NEWLINES if LONG else (next(turns),):
            made = script(api, fault, do, place, newline)
            if made is not None:
                yield made


def script(api: str, fault: str, do: Fault, place: int, newline: str) -> Script | None:
    dialect = APIS[api]("m", Scenario("script", None))
    before = dialect.start(3) + b"".join(map(dialect.token, TOKENS[:place]))
    rest = b"".join(map(dialect.token, TOKENS[place:])) + dialect.end("stop", 3, len(TOKENS), usage=True)
    done = do(dialect, rest)
    if done is None:
        return None
    between, after, code = done
    body = (b"\xef\xbb\xbf" if newline == "bom" else b"") + (before + between + after).replace(b"\n", NEWLINES[newline])
    return Script(
        name=f"{api}-{fault}-after-{place}-{newline}",
        api=api,
        body=body,
        text="".join(TOKENS if code is WELL else TOKENS[:place]),
        reasoning="Höm… 😀" if fault == "thoughts" else "",
        code=code,
    )


def told(script: Script) -> str:
    """Return what a person needs to repeat a failure."""
    return json.dumps({"name": script.name, "body": script.body.decode("latin-1")})
