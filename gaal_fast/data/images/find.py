"""Finds the image files that a column of a table names."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from gaal_fast.data.images.folder import BY_END, SUFFIX_ADDED, ImageFolder, Listing, Match
from gaal_fast.data.images.names import (
    NO_NAME,
    SEVERAL,
    has_image_suffix,
    image_names,
    is_missing,
    looks_like_image_name,
    names_inside,
    what_else,
)
from gaal_fast.data.issues import DataIssue, some, warn
from gaal_fast.data.tables.cells import missing_cells
from gaal_fast.errors import UserError

TABLE_ALONE = ": predicting from the table alone"
_AMBIGUOUS = "ambiguous"
_SAMPLE, _FIRST_LOOK = 200, 16
_SEARCH_LIMIT = 20_000


def image_columns(candidates: pd.DataFrame, folder: ImageFolder) -> dict[str, list[str]]:
    """The columns whose texts name images, by how they do.

    Returns:
        "exact": columns of files that exist in ``folder``. "suffixed": of names with an image
            suffix.
        "stems": of different names that exist once a suffix is added. "nearly": once something else
            is
        changed.
    """
    found: dict[str, list[str]] = {"exact": [], "suffixed": [], "stems": [], "nearly": []}
    rows = len(candidates)
    first_look = candidates.iloc[_spread(rows, _FIRST_LOOK)]
    for name in candidates.columns:
        # With thousands of columns of numbers, a few cells must be enough to pass one over.
        glance = _sample_names(first_look[name])
        named = (
            not glance
            or any(map(looks_like_image_name, glance))
            or any(map(folder.find_exact, glance))
        )
        if not named and not (len(set(glance)) == len(glance) and _mostly_found(glance, folder)):
            continue
        sample = _sample_names(candidates[name].iloc[_spread(rows, _SAMPLE)])
        if len(sample) < min(_FIRST_LOOK, rows):
            cells = candidates[name][~missing_cells(candidates[name])]
            sample = _sample_names(cells.iloc[_spread(len(cells), _SAMPLE)])
        if not sample:
            continue
        share = 1 / len(sample)
        if named and share * sum(map(folder.find_exact, sample)) >= 0.5:
            found["exact"].append(name)
        elif named and share * sum(map(looks_like_image_name, sample)) >= 0.5:
            found["suffixed"].append(name)
        elif len(set(sample)) == len(sample):
            matches = [folder.match(text) for text in sample]
            if share * sum(match.path is not None for match in matches) >= 0.9:
                plain = all(match.how in ("", SUFFIX_ADDED) for match in matches)
                found["stems" if plain else "nearly"].append(name)
    return found


def find_image_column(
    candidates: pd.DataFrame, folder: ImageFolder, source: object, chosen: str | None = None
) -> tuple[str | None, list[str]]:
    """The one column whose texts name images, and the other columns of image names.

    Args:
        candidates: The columns that may be it.
        folder: Where the files would be.
        source: The table, for messages.
        chosen: The one that is declared; else it is the one of the first way of ``image_columns``
            that has any.

    Raises:
        UserError: The first way has more than one.
    """
    ways = image_columns(candidates, folder)
    for found in ways.values() if chosen is None else ():
        if len(found) > 1:
            raise UserError(
                f"{source}: several columns name images ({some(found)}); "
                "choose with --data.image-column"
            )
        if found:
            chosen = found[0]
            break
    return chosen, [name for name in ways["exact"] + ways["suffixed"] if name != chosen]


def _mostly_found(glance: list[str], folder: ImageFolder) -> bool:
    """Whether half of a few names are files, up to suffix and zeros; it stops at the name that
    decides it."""
    misses = 0
    for text in glance:
        misses += (folder.look_up(text) if text.isascii() else folder.match(text)).path is None
        if 2 * misses > len(glance):
            return False
    return True


def _spread(rows: int, count: int) -> np.ndarray:
    """int64: at most ``count`` row numbers, evenly spread."""
    return np.unique(np.linspace(0, rows - 1, min(rows, count)).astype(np.int64))


def _sample_names(cells: pd.Series) -> list[str]:
    try:
        return [name for name in image_names(cells).tolist() if not is_missing(name)]
    except UserError:  # bytes: no names
        return []


def resolve_images(
    names: Sequence[str | None],
    folder: ImageFolder,
    column: str,
    *,
    empty_ok: bool = False,
    warnings: list[str] | None = None,
) -> tuple[list[str | None], list[DataIssue]]:
    """Path of each row's image, None where there is none, and an issue for each of those rows.

    Args:
        names: [N] as the cells have them.
        folder: Where the files are.
        column: What the column is called in messages.
        empty_ok: Whether a column without one image is a warning, and no error.
        warnings: Counts what had to be changed in names so that they are files, and cells that hold
            something else than a name.

    Raises:
        UserError: Not one image exists; the likely reason is given.
    """
    warnings = [] if warnings is None else warnings
    matches = {name: folder.match(name) for name in dict.fromkeys(names) if name is not None}
    _open_shared_ends(matches)
    paths = [None if name is None else matches[name].path for name in names]
    reasons = {
        name: _reason(name, match, folder) for name, match in matches.items() if match.path is None
    }
    issues = [
        DataIssue(row, column, name or "", NO_NAME if name is None else reasons[name])
        for row, (name, path) in enumerate(zip(names, paths, strict=True))
        if path is None
    ]
    named = [
        name
        for name in names
        if name is not None and (matches[name].path is not None or reasons[name] != NO_NAME)
    ]
    if not named:
        if not empty_ok:
            raise UserError(f'the image column "{column}" is empty')
    elif len(issues) == len(paths):
        message = _none_exists(named, [reasons[name] for name in named], folder, column)
        if not empty_ok:
            raise UserError(message)
        warn(warnings, f"{message}{TABLE_ALONE}")
    else:
        _warn_of_other_cells(
            Counter(reasons[name] for name in named if name in reasons), column, warnings
        )
        _warn_of_changes(names, matches, column, warnings)
    return paths, issues


def _open_shared_ends(matches: dict[str, Match]) -> None:
    """Different paths with the same end are different images, of which at most one can be the file
    of that name."""
    by_end: dict[str, list[str]] = {}
    for name, match in matches.items():
        if match.path is not None and match.how.startswith(BY_END):
            by_end.setdefault(match.path, []).append(name)
    for names in by_end.values():
        if len(names) > 1:
            for name in names:
                matches[name] = Match(None, BY_END, tuple(names))


def _reason(name: str, match: Match, folder: ImageFolder) -> str:
    if match.others:
        if match.how == BY_END:
            others = [other for other in match.others if other != name]
            return f"{_AMBIGUOUS}: other paths end alike, such as {some(others, 1)}"
        return f"{_AMBIGUOUS}: the folder has {some(match.others)}"
    if is_missing(name):
        return NO_NAME
    other = what_else(name)
    if other is not None:
        return other
    parts = names_inside(name)
    if len(parts) > 1 and all(folder.look_up(part).path is not None for part in parts):
        return SEVERAL
    directory, tail = folder.split(name)
    similar = folder.listing(directory).folded.get(tail.casefold())
    return (
        "no such file"
        if similar is None
        else f'no such file: upper and lower case differ, the folder has "{similar}"'
    )


def _none_exists(
    named: Sequence[str], reasons: Sequence[str], folder: ImageFolder, column: str
) -> str:
    kinds = [reason.split(":")[0] for reason in reasons]
    kind, count = Counter(kinds).most_common(1)[0]
    if kind != "no such file" and 2 * count >= len(kinds):
        at = kinds.index(kind)
        words = (
            f"name several files ({reasons[at]})" if kind == _AMBIGUOUS else f"hold {reasons[at]}"
        )
        first = _short(named[at])
        return f'column "{column}": {count} of {len(named)} cells {words} (first: "{first}")'
    return (
        f'none of the {len(named)} images named in column "{column}" exists in {folder.base} '
        f'(first: "{_short(named[0])}"){_hint(named, folder)}'
    )


def _warn_of_other_cells(reasons: Counter[str], column: str, warnings: list[str]) -> None:
    """What the issues say of single rows, once for each kind of it."""
    ambiguous = sum(count for reason, count in reasons.items() if reason.startswith(_AMBIGUOUS))
    for reason, count in reasons.items():
        if not reason.startswith(("no such file", _AMBIGUOUS)):
            words = "cell holds" if count == 1 else "cells hold"
            warn(warnings, f'column "{column}": {count} {words} {reason}')
    if ambiguous:
        example = next(reason for reason in reasons if reason.startswith(_AMBIGUOUS))
        words = (
            "name is not used because it is"
            if ambiguous == 1
            else "names are not used because they are"
        )
        warn(warnings, f'column "{column}": {ambiguous} {words} {example}')


def _warn_of_changes(
    names: Sequence[str | None], matches: dict[str, Match], column: str, warnings: list[str]
) -> None:
    counts: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for name in names:
        if name is None:
            continue
        match = matches[name]
        if match.path is not None and match.how:
            counts[match.how] += 1
            examples.setdefault(match.how, f'"{_short(name)}" is "{os.path.basename(match.path)}"')
    if counts:
        parts = ", ".join(f"{count} {how} ({examples[how]})" for how, count in counts.most_common())
        warn(
            warnings,
            f'column "{column}": {counts.total()} of {len(names)} names are no files as written; '
            f"found {parts}",
        )


def _short(name: str) -> str:
    return name if len(name) <= 120 else f"{name[:117]}..."


def _hint(named: Sequence[str], folder: ImageFolder) -> str:
    sample = [named[i] for i in _spread(len(named), 50)]
    for name in sample:
        directory, tail = folder.split(name)
        listing = folder.listing(directory)
        stem = os.path.splitext(tail)[0]
        if tail in listing.folders:
            return f'; "{_short(name)}" is a folder, and one image per row is read'
        if stem in listing.stems:
            return f'; the extension differs: the folder has "{listing.stems[stem][0]}"'
        if tail.casefold() in listing.folded:
            return (
                f'; upper and lower case differ: the folder has "{listing.folded[tail.casefold()]}"'
            )
        numbered = _of_number(stem, listing)
        if numbered is not None:
            return f'; the folder has "{numbered}"'
    elsewhere = _search(sample, folder.base)
    if elsewhere is not None:
        return f"; the folder differs: they are under {elsewhere} ({folder.option})"
    if not any(has_image_suffix(name) for name in folder.listing(str(folder.base)).names):
        return "; the folder holds no images"
    return ""


def _of_number(stem: str, listing: Listing) -> str | None:
    """The image whose stem ends in the number that a stem ends in."""
    number = re.search(r"\d+$", stem)
    if number is None:
        return None
    for other in sorted(listing.stems):
        ending = re.search(r"\d+$", other)
        if ending and int(ending[0]) == int(number[0]):
            return listing.stems[other][0]
    return None


def _search(sample: Sequence[str], base: Path) -> str | None:
    """The folder under which most names of the sample exist, looked for below and beside the
    folder."""
    wanted = {
        PurePosixPath(name.replace("\\", "/")).name: name.replace("\\", "/") for name in sample
    }
    votes: Counter[str] = Counter()
    for path in _walk(base):
        name = wanted.get(os.path.basename(path))
        if name is not None:
            # A name with folders in it is relative to wherever those begin, which may be above the
            # base.
            root = path[: -len(name)] if path.endswith("/" + name) else os.path.dirname(path)
            votes[os.path.normpath(root)] += 1
    return votes.most_common(1)[0][0] if votes else None


def _walk(base: Path) -> Iterator[str]:
    """Files below the folder, then below its siblings; a bounded number, so that a home directory
    is not searched whole."""
    budget = _SEARCH_LIMIT
    parent = base.resolve().parent
    try:
        siblings = sorted(
            entry.path
            for entry in os.scandir(parent)
            if entry.is_dir() and entry.path != str(base.resolve())
        )
    except OSError:
        siblings = []
    for root in (str(base), *siblings):
        for directory, folders, files in os.walk(root):
            folders.sort()
            for name in files:
                budget -= 1
                if budget < 0:
                    return
                yield os.path.join(directory, name).replace(os.sep, "/")
