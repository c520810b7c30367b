"""What is not published or not followed is in the documentation, word for word."""

from __future__ import annotations

from pathlib import Path

import pytest

from gaal_fast import published
from gaal_fast.published import celeba, dvm_notes, sun
from gaal_fast.published.prepared import EVERYWHERE, Note

README = Path(published.__file__).with_name("README.md")
OF_DVM = (*(dvm_notes.STRATA, dvm_notes.ORDER, dvm_notes.PUBLISHED_IDS), *dvm_notes.NOTES)
OF_SUN = (
    *(sun.SPLIT, sun.MAJORITY, sun.UNANIMOUS, sun.WITH_COMPLEMENTS, sun.WITHOUT_COMPLEMENTS),
    sun.INPUTS,
)


@pytest.mark.parametrize(
    ("title", "notes"),
    [
        ("All three", EVERYWHERE),
        ("DVM", OF_DVM),
        ("SUN Attribute", OF_SUN),
        ("CelebA", celeba.NOTES),
    ],
)
def test_every_note_stands_in_its_section(title: str, notes: tuple[Note, ...]) -> None:
    section = README.read_text(encoding="utf-8").split(f"\n## {title}\n")[1].partition("\n## ")[0]
    words = " ".join(section.split())
    for note in notes:
        assert note.text in words
    assert section.count("\n* ") == len(notes)
