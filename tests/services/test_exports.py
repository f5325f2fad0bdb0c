"""Files on paper, which are made one at a time."""

from __future__ import annotations

import pytest

from chatapp.exports import pdf


def test_who_takes_a_file_slowly_keeps_nobody_from_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdf, "WAIT_SECONDS", 0.05)
    now = "2026-01-02T03:04:05.000000Z"
    slow = pdf.dump([], now)
    assert next(slow).startswith(b"%PDF")
    assert next(pdf.dump([], now)).startswith(b"%PDF")
