"""Prints a PDF: JSON lines on standard input, the PDF on standard output. A process of its own: streams need not wait.

Text in any script must be seen and found: what the first font lacks is taken from the next, and the last has nearly all
characters there are. What none has is a box. Right-to-left text is shaped, and begins at the right.
"""

from __future__ import annotations

import logging
import os
import re
import resource
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import mistune
import orjson
from fontTools.ttLib import TTFont
from fpdf import FPDF
from fpdf.bidi import auto_detect_base_direction
from fpdf.enums import TextDirection, WrapMode
from fpdf.errors import FPDFException

from chatapp.exports import NONE, author, caption, minute, remarks, source, title

FONTS = Path(__file__).parent / "fonts"
TEXT, MONO = "text", "mono"
FACES = {  # family and style -> file
    (TEXT, ""): "DejaVuSans",
    (TEXT, "B"): "DejaVuSans-Bold",
    (MONO, ""): "DejaVuSansMono",
}
FALLBACKS = ("DroidSansFallbackFull", "unifont", "unifont_upper")  # CJK; all else below U+10000; all above
NICE = 3  # streams come first; more of it starves on a busy machine
CPU_SECONDS = 60
MEMORY_BYTES = 2 * 1024**3
SIZE, SMALL, LINE = 10.0, 8.0, 5.0  # points, points, millimetres
HEADINGS = {1: 15.0, 2: 13.0, 3: 11.5}
INDENT, MOST_INDENTS = 6.0, 8
GREY, BLACK, PAPER = 110, 20, 245
RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001efff]")
UNSEEN = re.compile(
    "[\0-\x08\x0b-\x1f\x7f-\x9f\u200d\ufe00-\ufe0f\ufeff]"
)  # fonts have no glyphs for what joins and selects
BOX = "\ufffd"
Token = dict[str, Any]


class Paper(FPDF):
    """A document that grows by paragraphs, each in a size and at the margin of the moment."""

    def __init__(self, texts: Iterable[str], folder: Path) -> None:
        super().__init__(format="A4")
        self.folder = folder
        self.boxes: dict[int, str] = {}  # what no font has
        self.set_margin(20)
        self.set_auto_page_break(auto=True, margin=18)
        self.alias_nb_pages()
        self.depth = 0
        self.load_fonts(set().union(*texts) - {"\n", "\r", "\t"})

    def load_fonts(self, characters: set[str]) -> None:
        """Load the faces, and of the fallbacks those that are needed: a big one takes a while."""
        missing = set(map(ord, characters))
        for (family, style), name in FACES.items():
            self.add_font(family, style, self.unpacked(name))
        for face in self.fonts.values():
            missing -= face.cmap.keys()  # type: ignore[union-attr]
        used = []
        for name in FALLBACKS:
            if missing:
                self.add_font(name, "", self.unpacked(name))
                found = missing & self.fonts[name.lower()].cmap.keys()  # type: ignore[union-attr]
                missing -= found
                used += [name] if found else []
        self.boxes = dict.fromkeys(missing, BOX)
        missing_in_mono = set(map(ord, characters)) - self.fonts[MONO].cmap.keys()  # type: ignore[union-attr]
        self.set_fallback_fonts([*([TEXT] if missing_in_mono else []), *used], exact_match=False)

    def unpacked(self, name: str) -> Path:
        """Return a font's file as HarfBuzz takes it: not compressed."""
        font = TTFont(FONTS / f"{name}.woff", lazy=True, recalcBBoxes=False, recalcTimestamp=False)
        font.flavor = None
        file = self.folder / f"{name}.ttf"
        font.save(file, reorderTables=False)
        return file

    def footer(self) -> None:
        self.set_y(-12)
        self.look(size=SMALL, grey=GREY)
        self.cell(0, LINE, f"{self.page_no()} / {{nb}}", align="C")

    def look(self, *, family: str = TEXT, bold: bool = False, size: float = SIZE, grey: int = BLACK) -> None:
        self.set_font(family, "B" if bold and family == TEXT else "", size)
        self.set_text_color(grey)

    def paragraph(self, text: str, *, line: float = LINE, fill: bool = False, by_character: bool = False) -> None:
        """Print *text* from the left, or from the right where it is read that way."""
        text = self.seen(text)
        if not text.strip():
            return
        shaped = RIGHT_TO_LEFT.search(text) is not None
        self.set_text_shaping(shaped)
        right = shaped and auto_detect_base_direction(text) == TextDirection.RTL
        self.set_x(self.l_margin)
        self.multi_cell(
            0,
            line,
            text,
            align="R" if right else "L",
            fill=fill,
            new_x="LMARGIN",
            new_y="NEXT",
            wrapmode=WrapMode.CHAR if by_character else WrapMode.WORD,
        )
        self.set_text_shaping(False)

    def runs(self, pieces: list[tuple[str, str]]) -> None:
        """Print a paragraph whose pieces look different: each is a text, and "", "B", "code"."""
        if RIGHT_TO_LEFT.search("".join(text for text, _ in pieces)) or all(not style for _, style in pieces):
            self.paragraph("".join(text for text, _ in pieces))
            return
        self.set_x(self.l_margin)
        for text, style in pieces:
            self.look(family=MONO if style == "code" else TEXT, bold=style == "B", size=SIZE - (style == "code"))
            self.write(LINE, self.seen(text))
        self.look()
        self.ln(LINE)

    def seen(self, text: str) -> str:
        """Return *text* as it can be printed."""
        lines = text.replace("\r\n", "\n").replace("\r", "\n").replace("\t", "    ")
        return UNSEEN.sub("", lines).translate(self.boxes)

    def space(self, height: float = 2.0) -> None:
        self.ln(height)


# Markdown

PARSE = mistune.create_markdown(renderer=None, plugins=["table", "strikethrough"])


def markdown(paper: Paper, text: str) -> None:
    """Print *text* as the Markdown that it is; as it stands where that cannot be done."""
    try:
        tokens = PARSE(text)
        assert isinstance(tokens, list)
        blocks(paper, tokens)
    except (FPDFException, RecursionError, KeyError):
        paper.look()
        paper.paragraph(text, by_character=True)


def blocks(paper: Paper, tokens: list[Token]) -> None:
    for token in tokens:
        draw = BLOCKS.get(token["type"])
        if draw is not None:
            draw(paper, token)
        elif "children" in token:
            blocks(paper, token["children"])
        elif token.get("raw"):
            paper.paragraph(token["raw"])


def paragraph(paper: Paper, token: Token) -> None:
    paper.look()
    paper.runs(list(inline(token["children"])))
    paper.space()


def tight(paper: Paper, token: Token) -> None:
    paper.look()
    paper.runs(list(inline(token["children"])))


def heading(paper: Paper, token: Token) -> None:
    paper.space()
    size = HEADINGS.get(token["attrs"]["level"], SIZE)
    paper.look(bold=True, size=size)
    paper.paragraph(plain(token["children"]), line=size / 2)
    paper.look()
    paper.space(1)


def code(paper: Paper, token: Token) -> None:
    paper.look(family=MONO, size=SMALL)
    paper.set_fill_color(PAPER)
    paper.paragraph(token["raw"].rstrip("\n"), line=4.0, fill=True, by_character=True)
    paper.look()
    paper.space()


def listing(paper: Paper, token: Token) -> None:
    ordered = token["attrs"].get("ordered")
    number = token["attrs"].get("start", 1) if ordered else 0
    for item in token["children"]:
        margin, top, page = paper.l_margin, paper.get_y(), paper.page_no()
        paper.look()
        if top + LINE > paper.page_break_trigger:
            paper.add_page()
            top, page = paper.get_y(), paper.page_no()
        paper.set_x(margin)
        paper.cell(INDENT, LINE, f"{number}." if ordered else "•")
        indented(paper, item["children"])
        if (paper.get_y(), paper.page_no()) == (top, page):  # an empty item
            paper.ln(LINE)
        number += 1
    if paper.depth == 0:
        paper.space()


def quote(paper: Paper, token: Token) -> None:
    indented(paper, token["children"])


def indented(paper: Paper, tokens: list[Token]) -> None:
    margin = paper.l_margin
    paper.depth += 1
    if paper.depth <= MOST_INDENTS:
        paper.set_left_margin(margin + INDENT)
    blocks(paper, tokens)
    paper.set_left_margin(margin)
    paper.depth -= 1


def table(paper: Paper, token: Token) -> None:
    for part in token["children"]:
        rows = [part] if part["type"] == "table_head" else part["children"]
        for row in rows:
            paper.look(bold=part["type"] == "table_head")
            paper.paragraph("  |  ".join(plain(cell["children"]) for cell in row["children"]))
    paper.look()
    paper.space()


def rule(paper: Paper, token: Token) -> None:
    y = paper.get_y() + 1
    paper.set_draw_color(200)
    paper.line(paper.l_margin, y, paper.w - paper.r_margin, y)
    paper.space(4)


BLOCKS = {
    "paragraph": paragraph,
    "block_text": tight,
    "heading": heading,
    "block_code": code,
    "list": listing,
    "block_quote": quote,
    "table": table,
    "thematic_break": rule,
}


def inline(tokens: list[Token], style: str = "") -> Iterator[tuple[str, str]]:
    """Yield the pieces of a line of text; where a link leads is written out."""
    for token in tokens:
        kind = token["type"]
        if kind in ("softbreak", "linebreak"):
            yield " " if kind == "softbreak" else "\n", style
        elif kind == "codespan":
            yield token["raw"], "code"
        elif "children" in token:
            yield from inline(token["children"], "B" if kind == "strong" else style)
            url = (token.get("attrs") or {}).get("url")
            if url and url != plain(token["children"]):
                yield f" ({url})", style
        else:
            yield token.get("raw", ""), style


def plain(tokens: list[Token]) -> str:
    return "".join(text for text, _ in inline(tokens))


# a conversation


def print_head(paper: Paper, head: dict[str, Any], exported_at: str) -> None:
    paper.add_page()
    paper.look(bold=True, size=18)
    paper.paragraph(title(head), line=8)
    paper.look(size=SMALL, grey=GREY)
    paper.paragraph(caption(head, exported_at))
    paper.space(3)


def print_message(paper: Paper, message: dict[str, Any]) -> None:
    paper.space()
    paper.look(bold=True, size=SIZE)
    paper.paragraph(author(message))
    paper.look(size=SMALL, grey=GREY)
    paper.paragraph(minute(message["created_at"]))
    paper.space(1)
    if message["reasoning"]:
        paper.paragraph(message["reasoning"])
        paper.space()
    paper.look()
    if message["role"] == "user":
        paper.paragraph(message["content"])  # people type text, and see it as they typed it
    else:
        markdown(paper, message["content"])
    paper.look(size=SMALL, grey=GREY)
    for number, found in enumerate(message["sources"] or (), 1):
        paper.paragraph(source(number, found))
    for remark in remarks(message):
        paper.paragraph(remark)


def printed(lines: Iterable[bytes], folder: Path) -> bytes:
    """Return the PDF of a manuscript: see `pdf.write`. Files are made in *folder*."""
    [exported_at], *rows = [orjson.loads(line) for line in lines]
    paper = Paper((line.decode() for line in map(orjson.dumps, [exported_at, *rows, "•|"])), folder)
    heads = [row for row in rows if isinstance(row, dict)]
    paper.set_title(title(heads[0]) if len(heads) == 1 else "Conversations")
    if not heads:
        paper.add_page()
        paper.look()
        paper.paragraph(NONE)
    for row in rows:
        if isinstance(row, dict):
            print_head(paper, row, exported_at)
        else:
            print_message(paper, row[0])
    return bytes(paper.output())


def main(manuscript: IO[bytes], paper: IO[bytes], folder: Path) -> None:
    os.nice(NICE)
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    logging.disable(logging.ERROR)  # which glyphs are missing is shown by a box
    paper.write(printed(manuscript, folder))


if __name__ == "__main__":
    main(sys.stdin.buffer, sys.stdout.buffer, Path(sys.argv[1]))
