"""``report.html``: a run folder's results as one file that opens anywhere, without scripts.

It is made from the CSV and JSON files of the folder alone, so it can be made again at any time.
"""

from __future__ import annotations

from pathlib import Path

from gaal_fast.errors import UserError
from gaal_fast.files import write_text
from gaal_fast.runs.folder import RunFolder

LARGEST = 2 * 2**20  # bytes; larger pages are slow to open and cannot be sent around


def write(folder: RunFolder, path: Path) -> None:
    """Write the report of a run, of several seeds or of a comparison.

    Args:
        folder: A finished one.
        path: The file, which is replaced whole.

    Raises:
        UserError: Where the folder has not finished, or a file of it is damaged.
        WriteError: Where the disk is full or cannot be written.
    """
    write_text(path, html(folder))


def html(folder: RunFolder) -> str:
    """The text of the report; see ``write``."""
    # Jinja2 and matplotlib are needed here alone.
    from gaal_fast.runs.report.compare_page import compare_page, seeds_page
    from gaal_fast.runs.report.rendering import render
    from gaal_fast.runs.report.run_page import run_page

    try:
        if folder.compared():
            page = compare_page(folder)
        else:
            page = seeds_page(folder) if folder.seeds() else run_page(folder)
    except (KeyError, TypeError, IndexError, ValueError) as error:
        message = f"{folder.path}: its files do not fit together: {error!r}"
        raise UserError(message) from error
    text = render(page)
    if len(text.encode("utf-8")) > LARGEST and page.sections:
        for section in page.sections:  # the images are what is large
            section.examples = []
        text = render(page)
    return text
