"""SUN Attribute: is a scene an open area? From its image and 101 other attributes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from gaal_fast.errors import UserError, some
from gaal_fast.published.prepared import (
    EVERYWHERE,
    IMAGE_COLUMN,
    PARTS,
    SPLIT_COLUMN,
    Note,
    Prepared,
)
from gaal_fast.published.raw import Wanted

if TYPE_CHECKING:
    import numpy as np

NAME, TARGET = "sun", "open area"
COMPLEMENTS = ("semi-enclosed area", "enclosed area")
ATTRIBUTES = 102
Votes = Literal["majority", "unanimous"]

_SEED, _VAL, _TEST = 2022, 0.1, 0.2
_ARCHIVE = 'the archive "SUNAttributeDB.tar.gz" of the SUN Attribute download'
_HOME = "https://cs.brown.edu/~gmpatter/sunattributes.html"
_PLACES = ("SUNAttributeDB", "")
NAMES = Wanted("attributes.mat", _PLACES, f"{_ARCHIVE} ({_HOME})")
PATHS = Wanted("images.mat", _PLACES, f"{_ARCHIVE} ({_HOME})")
LABELS = Wanted("attributeLabels_continuous.mat", _PLACES, f"{_ARCHIVE} ({_HOME})")
FILES = Wanted(
    "images",
    ("", "SUN", "SUNAttributeDB_Images"),
    f'the archive "SUNAttributeDB_Images.tar.gz" of the SUN Attribute download ({_HOME})',
    True,
)

SPLIT = Note(
    "choice",
    "Nobody published a split: 70% train, 10% validation and 20% test, stratified by scene category"
    " (14, 2 and 4 images of each), seed 2022.",
)
MAJORITY = Note(
    "choice",
    "Nobody published a rule for the votes: an attribute is 1 where two or three of its three"
    " annotators gave it (--votes majority). The released loader cuts fractions off, so that on"
    " unchanged votes only three of three would count (--votes unanimous).",
)
UNANIMOUS = Note(
    "choice",
    "Nobody published a rule for the votes: an attribute is 1 only where all three annotators gave"
    " it (--votes unanimous), as the released loader has it on unchanged votes.",
)
WITH_COMPLEMENTS = Note(
    "choice",
    'The columns "semi-enclosed area" and "enclosed area" are kept, as in the released two-modality'
    " loader; they nearly tell the label. --without-complements leaves them out, as in the released"
    " loader of the table alone.",
)
WITHOUT_COMPLEMENTS = Note(
    "choice",
    'The columns "semi-enclosed area" and "enclosed area" are left out (--without-complements), as'
    " in the released loader of the table alone; the two-modality loader keeps them.",
)
INPUTS = Note(
    "deviation",
    "The trainer gives an input to each value that an attribute has in the training rows: 202"
    " inputs as the authors have, or fewer where an attribute is constant there.",
)


def read(raw: Path, *, votes: Votes = "majority", complements: bool = True) -> Prepared:
    """The data set from what the official downloads unpack to.

    Args:
        raw: Folder with ``SUNAttributeDB/`` and ``images/``.
        votes: When an attribute counts as given.
        complements: Whether the two attributes that nearly tell the label are kept.

    Raises:
        UserError: With the key ``raw``: a file is missing or not what it should be.
    """
    places = [wanted.under(raw) for wanted in (NAMES, PATHS, LABELS)]
    files = FILES.under(raw)
    names = _texts(places[0], "attributes")
    paths = _texts(places[1], "images")
    given = _votes(places[2], len(paths), len(names))
    if len(names) != ATTRIBUTES or len(set(names)) != ATTRIBUTES:
        raise UserError(
            f": {places[0]} names {len(set(names))} attributes, not {ATTRIBUTES}", key="raw"
        )
    if lacking := {TARGET, *COMPLEMENTS} - set(names):
        raise UserError(f": {places[0]} has no attribute {some(sorted(lacking))}", key="raw")
    features = [
        name for name in names if name != TARGET and (complements or name not in COMPLEMENTS)
    ]
    columns = [names.index(name) for name in (TARGET, *features)]
    cells = given[:, columns] >= (0.5 if votes == "majority" else 1)
    parts = _split(paths)
    return Prepared(
        name=NAME,
        images=files,
        header=(IMAGE_COLUMN, TARGET, *features, SPLIT_COLUMN),
        rows=_Rows(paths, cells, parts),
        length=len(paths),
        target=TARGET,
        notes=(
            SPLIT,
            MAJORITY if votes == "majority" else UNANIMOUS,
            WITH_COMPLEMENTS if complements else WITHOUT_COMPLEMENTS,
            INPUTS,
            *EVERYWHERE,
        ),
        counts={
            "images": len(paths),
            "categories": len({_category(path) for path in paths}),
            "attributes": len(features),
            "open areas": int(cells[:, 0].sum()),
        },
        official={"features": features},
        options={"votes": votes, "complements": complements},
    )


def _load(path: Path, key: str) -> Any:
    """One variable of a MATLAB file."""
    from scipy.io import loadmat

    try:
        return loadmat(path, variable_names=[key])[key]
    except KeyError:
        raise UserError(f': {path} holds no variable "{key}"', key="raw") from None
    # scipy raises NotImplementedError for the format of MATLAB 7.3, which is HDF5.
    except (ValueError, TypeError, NotImplementedError, OSError) as error:
        words = " ".join(str(error).split())
        raise UserError(
            f": {path} is no MATLAB file that can be read: {words}", key="raw"
        ) from error


def _texts(path: Path, key: str) -> list[str]:
    """The texts of a cell array, each wrapped in an array of its own."""
    import numpy as np

    texts = []
    for cell in _load(path, key).ravel():
        while isinstance(cell, np.ndarray) and cell.size == 1:
            cell = cell.ravel()[0]
        if not isinstance(cell, str):
            raise UserError(f': "{key}" in {path} is no list of texts', key="raw")
        texts.append(cell.strip())
    return texts


def _votes(path: Path, images: int, attributes: int) -> np.ndarray:
    """float [images, attributes]: the share of annotators, 0, 1/3, 2/3 or 1."""
    import numpy as np

    votes = np.asarray(_load(path, "labels_cv"))
    if votes.shape != (images, attributes) or votes.dtype.kind not in "fiu":
        raise UserError(
            f": labels_cv in {path} must be numbers of {images} images and {attributes} attributes,"
            f" and is {votes.dtype} {votes.shape}",
            key="raw",
        )
    if not ((votes >= 0) & (votes <= 1)).all():
        raise UserError(f": labels_cv in {path} has votes outside of 0 to 1", key="raw")
    return votes


def _category(path: str) -> str:
    """``a/abbey`` of ``a/abbey/sun_x.jpg``."""
    return str(PurePosixPath(path).parent)


def _split(paths: list[str]) -> list[str]:
    """The part of each image."""
    import numpy as np
    from sklearn.model_selection import train_test_split

    categories = np.unique([_category(path) for path in paths], return_inverse=True)[1]
    rows = np.arange(len(paths))
    try:
        rest, test = train_test_split(
            rows, test_size=round(_TEST * len(rows)), random_state=_SEED, stratify=categories
        )
        _, val = train_test_split(
            rest, test_size=round(_VAL * len(rows)), random_state=_SEED, stratify=categories[rest]
        )
    except ValueError as error:
        raise UserError(
            f": {len(paths)} images of {categories.max() + 1} categories cannot be divided:"
            f" {error}",
            key="raw",
        ) from None
    parts = np.full(len(rows), PARTS[0], dtype=object)
    parts[val], parts[test] = PARTS[1:]
    return list(parts)


@dataclass(frozen=True)
class _Rows:
    """The rows of the table, in the order of the download."""

    paths: list[str]
    cells: np.ndarray
    parts: list[str]

    def __iter__(self) -> Iterator[list[Any]]:
        for path, cells, part in zip(self.paths, self.cells, self.parts, strict=True):
            yield [path, *cells.astype(int).tolist(), part]
