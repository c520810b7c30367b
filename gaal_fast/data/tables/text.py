"""The text of a table file: unpacked, decoded, and the mark between its fields."""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import lzma
import re
import zipfile
import zlib
from collections.abc import Collection, Iterable
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from gaal_fast.data.issues import warn
from gaal_fast.data.tables.encoding import detect_encoding
from gaal_fast.errors import UserError

if TYPE_CHECKING:
    from _csv import Reader as CsvReader

_DELIMITERS = (",", ";", "\t", "|")
_TAB_SUFFIXES = (".tsv", ".tab")
_SPREADSHEET_SUFFIXES = (".xlsx", ".xls", ".xlsm", ".ods", ".numbers")
_EXCEL_LINE = re.compile(r'\A"?sep=(.)"?[ \t]*(?:\r\n|\r|\n)', re.IGNORECASE)
_BLANK_LINES = re.compile(r"\A(?:[ \t]*(?:\r\n|\r|\n))+")
# Longest first: the mark of UTF-32 begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_UNMARKED = ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be")


def unpack(path: Path, raw: bytes) -> tuple[bytes, str]:
    """The table's bytes out of a compressed file (gzip, bzip2, xz, or zip with one member), and the
    name they had.

    Raises:
        UserError: A damaged archive, one of several members, a spreadsheet.
    """
    if path.suffix.lower() in _SPREADSHEET_SUFFIXES:
        raise UserError(f"{path} is a spreadsheet: save it as CSV first")
    openers = {
        b"\x1f\x8b": gzip.decompress,
        b"BZh": bz2.decompress,
        b"\xfd7zXZ\x00": lzma.decompress,
    }
    try:
        for mark, decompress in openers.items():
            if raw.startswith(mark):
                return decompress(raw), path.stem
        if raw.startswith(b"PK\x03\x04"):
            with zipfile.ZipFile(io.BytesIO(raw)) as archive:
                members = [
                    name
                    for name in archive.namelist()
                    if not name.endswith("/") and not name.startswith("__MACOSX/")
                ]
                if any(name in ("[Content_Types].xml", "mimetype") for name in members):
                    raise UserError(f"{path} is a spreadsheet: save it as CSV first")
                if len(members) != 1:
                    raise UserError(
                        f"{path} holds {len(members)} files: a table must be the only one"
                    )
                return archive.read(members[0]), PurePath(members[0]).name
    except (
        OSError,
        EOFError,
        zlib.error,
        lzma.LZMAError,
        zipfile.BadZipFile,
        RuntimeError,
        ValueError,
    ) as error:
        raise UserError(f"{path} is a damaged archive: {' '.join(str(error).split())}") from error
    return raw, path.name


def decode(
    path: Path, raw: bytes, warnings: list[str], *, declared: str | None = None, trained: str = ""
) -> tuple[str, str]:
    """The text of a file and its encoding.

    A byte order mark decides, then ``declared``, then whether the bytes are UTF-8, of which a few
    may be damaged; else it is ``trained``, or what the bytes look like. Bytes that are no text
    become U+FFFD.

    Args:
        path: The file, for messages.
        raw: Its bytes.
        warnings: Counts the bytes that are no text.
        declared: The encoding that the user says.
        trained: The encoding of the training table.

    Raises:
        UserError: Binary data.
    """
    if declared is not None:
        return _replacing(path, raw, declared, warnings), declared
    for mark, encoding in _MARKS:
        if raw.startswith(mark):
            return (
                _replacing(path, raw[3:] if encoding == "utf-8" else raw, encoding, warnings),
                encoding,
            )
    if b"\0" in raw:
        return _decode_wide(path, raw)
    try:
        text = raw.decode("utf-8")
        return _as_trained(raw, text, trained)
    except UnicodeDecodeError:
        pass
    if _mostly_utf8(raw):
        return _replacing(path, raw, "utf-8", warnings), "utf-8"
    encoding = (
        trained
        if trained and trained != "utf-8" and _decodes(raw, trained)
        else detect_encoding(raw)
    )
    text = _replacing(path, raw, encoding, warnings)
    if encoding != trained:
        warn(
            warnings,
            f"{path} is not UTF-8; read as {encoding} ({'--' if trained else '--data.'}encoding"
            " says otherwise)",
        )
    return text, encoding


def _as_trained(raw: bytes, text: str, trained: str) -> tuple[str, str]:
    """Encodings with shifts, such as ISO-2022-JP, look like ASCII: the trained one is taken if it
    reads anything else.
    """
    if trained and trained != "utf-8" and text.isascii() and _decodes(raw, trained):
        other = raw.decode(trained)
        if other != text:
            return other, trained
    return text, "utf-8"


def _decodes(raw: bytes, encoding: str) -> bool:
    try:
        raw.decode(encoding)
    except (UnicodeError, LookupError):
        return False
    return True


def _replacing(path: Path, raw: bytes, encoding: str, warnings: list[str]) -> str:
    """Decodes; bytes that are none of the encoding are replaced, and their first line and number
    told.
    """
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError:
        text = raw.decode(encoding, errors="replace")
        first = text.index("\ufffd") if "\ufffd" in text else 0
        line = len(re.findall(r"\r\n|\r|\n", text[:first])) + 1
        count = text.count("\ufffd")
        warn(
            warnings,
            f"{path}: {count} bytes that are no {encoding.upper()} are replaced (first: line"
            f" {line})",
        )
    text = text.removeprefix("\ufeff")
    if "\0" in text:
        raise UserError(f"{path} is not a table (it holds binary data)")
    return text


def _decode_wide(path: Path, raw: bytes) -> tuple[str, str]:
    """UTF-16 or UTF-32 without a mark, which is known by where the zero bytes are; other zero bytes
    are binary data.
    """
    for encoding in _UNMARKED:
        try:
            text = raw.decode(encoding)
        except UnicodeDecodeError:
            continue
        head = text[:2000]
        if "\0" not in text and "\n" in head.replace("\r", "\n") and _readable(head):
            return text, encoding
    raise UserError(f"{path} is not a table (it holds binary data)")


def _readable(text: str) -> bool:
    """Whether a text has no control characters, and as much ASCII as a table's marks and numbers
    bring.
    """
    controls = sum(char < " " and char not in "\t\r\n" for char in text)
    return (controls == 0 and text.isprintable()) or (
        controls == 0 and sum(char.isascii() for char in text) * 10 >= len(text)
    )


def _mostly_utf8(raw: bytes) -> bool:
    """Whether more characters beyond ASCII are whole UTF-8 than are not; in other encodings few
    look like it by accident.
    """
    text = raw.decode("utf-8", errors="replace")
    bad = text.count("\ufffd") - raw.count("\ufffd".encode())
    return sum(map(len, re.findall(r"[^\x00-\x7f\ufffd]+", text))) >= bad


def find_delimiter(
    text: str,
    name: str,
    *,
    declared: str | None = None,
    trained: str = "",
    expected: Collection[str] = (),
) -> tuple[str, str, int]:
    """The mark between the fields, the text from its header on, and the lines before it.

    ``declared`` decides, then Excel's first line "sep=;", then which mark cuts the lines as the
    header, or gives the header the most ``expected`` columns.

    Args:
        text: Of the file.
        name: Of the file; ".tsv" says tab where the header has one.
        declared: The mark that the user says.
        trained: The mark of the training table.
        expected: Columns the table should have.

    Returns:
        The mark, " " standing for any run of blanks; the text; the number of lines before it.
    """
    blank = _BLANK_LINES.match(text)
    skipped = 0
    if blank:
        skipped, text = _count_lines(blank[0]), text[blank.end() :]
    said = _EXCEL_LINE.match(text)
    if said:
        skipped, text = skipped + 1, text[said.end() :]
    if declared is not None:
        return declared, text, skipped
    if said:
        return said[1], text, skipped
    header = re.split(r"\r|\n", text, maxsplit=1)[0]
    if PurePath(name).suffix.lower() in _TAB_SUFFIXES and "\t" in header:
        return "\t", text, skipped
    return _sniff(text, trained, set(expected)), text, skipped


def _count_lines(text: str) -> int:
    return len(re.findall(r"\r\n|\r|\n", text))


def _sniff(text: str, trained: str, expected: set[str]) -> str:
    sample = text[:65536]
    lines = io.StringIO(sample, newline="").readlines()
    if len(text) > len(sample) and len(lines) > 1:
        lines.pop()  # cut in the middle
    lines = lines[:50]
    candidates = dict.fromkeys((*_DELIMITERS, *([trained] if trained else ())))
    best, best_score = "", (0, 0.0, 0)
    for delimiter in candidates:
        if delimiter == " ":
            continue
        score = _score(lines, delimiter, expected)
        if score > best_score:
            best, best_score = delimiter, score
    if best:
        return best
    # Blanks are in many headers and texts: they cut fields only where they cut every line alike.
    score = _score(lines, " ", expected)
    return " " if score[1] == 1.0 and len(lines) > 1 else ","


def _score(lines: list[str], delimiter: str, expected: set[str]) -> tuple[int, float, int]:
    """How well a delimiter fits: known columns, the share of lines as wide as the header, the
    width; zeros if it cuts nothing.
    """
    try:
        rows = [row for row in rows_of(lines, delimiter) if row]
    except csv.Error:
        return 0, 0.0, 0
    if delimiter == " ":
        rows = [row[:-1] if row[-1] == "" else row for row in rows]
    widths = [len(row) for row in rows]
    if not widths or widths[0] < 2:
        return 0, 0.0, 0
    known = len(expected.intersection(cell.strip() for cell in rows[0])) if expected else 0
    return known, sum(width == widths[0] for width in widths) / len(widths), widths[0]


def rows_of(lines: Iterable[str], delimiter: str) -> CsvReader:
    """The rows of a text, " " as a delimiter standing for any run of blanks."""
    return csv.reader(lines, delimiter=delimiter, skipinitialspace=delimiter == " ")
