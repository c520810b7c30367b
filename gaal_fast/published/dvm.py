"""DVM-CAR: 286 car models from an advert's table and one of its images.

Step by step as the notebook ``create_dvm_dataset.ipynb`` of MMCL (Hager et al. 2023), which TIP,
CHARMS and GAAL use unchanged. Where the order of its pandas, scikit-learn and ``random`` calls
decides the result, the order here is the same.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from gaal_fast.errors import UserError, some
from gaal_fast.published.dvm_notes import NOTES, ORDER, PUBLISHED_IDS, STRATA
from gaal_fast.published.prepared import EVERYWHERE, IMAGE_COLUMN, PARTS, SPLIT_COLUMN, Prepared
from gaal_fast.published.raw import Wanted, read_table, read_table_in_chunks

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

NAME, TARGET, ADVERT = "dvm", "label", "Adv_ID"
PHYSICAL = ("Wheelbase", "Height", "Width", "Length")
CONTINUOUS = (
    *("Adv_year", "Adv_month", "Reg_year", "Runned_Miles", "Price", "Seat_num", "Door_num"),
    *("Entry_price", "Engine_size"),
)
CATEGORICAL = ("Color", "Bodytype", "Gearbox", "Fuel_type")
FEATURES = (*PHYSICAL, *CONTINUOUS, *CATEGORICAL)
PUBLISHED = {"train": 70_565, "val": 17_642, "test": 88_207}

_MODEL = "Genmodel_ID"
_SEED, _SMALLEST_CLASS, _JITTER = 2022, 100, 50
_FILL_AND_JITTER_ORDER = ("Wheelbase", "Length", "Width", "Height")
# Set by hand in the notebook: Peugeot RCZ and Ford Grand C-Max.
_WHEELBASES = {"69_36": 2612, "29_20": 2788}
_IMAGE_ROWS = 200_000  # of Image_table.csv in memory at once

_TABLES = 'the archive "tables_V2.0" of the DVM-CAR download'
_MMCL = "the folder data of https://github.com/paulhager/MMCL-Tabular-Imaging"
_HOME = "https://deepvisualmarketing.github.io"
ADVERTS = Wanted("Ad_table.csv", ("tables_V2.0", ""), f"{_TABLES} ({_HOME})")
PRICES = Wanted("Price_table.csv", ("tables_V2.0", ""), f"{_TABLES} ({_HOME})")
IMAGES = Wanted("Image_table.csv", ("tables_V2.0", ""), f"{_TABLES} ({_HOME})")
SIZES = Wanted(
    "Ad_table (extra).csv",
    ("tables_V2.0", "features", ""),
    f"a file of its own beside the tables of the DVM-CAR download ({_HOME})",
)
FILES = Wanted(
    "resized_DVM", ("",), f'the archive "resized_DVM" of the DVM-CAR download ({_HOME})', True
)


def read(raw: Path, ids: Path | None = None) -> Prepared:
    """The data set from what the official downloads unpack to.

    The joined table is held in memory (about 225,000 rows); the image table, six times as long, is
    read in chunks.

    Args:
        raw: Folder with ``tables_V2.0/`` and ``resized_DVM/``.
        ids: Folder with the lists of adverts by part that MMCL published; None: divided as the
            notebook does.

    Raises:
        UserError: With the key ``raw`` or ``ids``: a file is missing or not what it should be.
    """
    places = [wanted.under(raw) for wanted in (ADVERTS, PRICES, IMAGES, SIZES)]
    files = FILES.under(raw)
    lists = {} if ids is None else _read_ids(ids)
    adverts = read_table(
        places[0], (_MODEL, ADVERT, "Reg_year", "Engin_size"), text=(_MODEL, ADVERT)
    )
    prices = read_table(places[1], (_MODEL, "Entry_price", "Year"), text=(_MODEL,), only=True)
    joined = _with_prices(adverts, prices)
    counts = {"adverts": len(adverts), "adverts with an entry price": len(joined)}
    joined = joined.merge(_first_images(places[2]), on=ADVERT)
    counts["of these with an image"] = len(joined)
    complete = joined.dropna()
    normalized = _normalized(complete, places[0])
    counts["of these complete"] = len(normalized)
    kept, models = _large_models(normalized)
    counts["of these of a model with 100 or more"] = len(kept)
    counts["models"] = len(models)
    sizes = _sizes(places[3])
    split = _split(kept) if ids is None else _split_as_published(kept, lists, counts)
    parts = {part: _with_sizes(rows, sizes) for part, rows in split.items()}
    counts["of these with sizes"] = sum(len(part) for part in parts.values())
    lengths = [int(kept[name].max()) + 1 for name in CATEGORICAL]
    return Prepared(
        name=NAME,
        images=files,
        header=(IMAGE_COLUMN, ADVERT, *FEATURES, TARGET, SPLIT_COLUMN),
        rows=_Rows(parts),
        length=counts["of these with sizes"],
        target=TARGET,
        notes=(*((STRATA, ORDER) if ids is None else (PUBLISHED_IDS,)), *NOTES, *EVERYWHERE),
        counts=counts,
        official={
            "features": list(FEATURES),
            "lengths": [1] * (len(PHYSICAL) + len(CONTINUOUS)) + lengths,
            "models": models,
            "categories": _categories(complete),
        },
        options={} if ids is None else {"ids": {name: len(lists[name]) for name in PARTS}},
        published=PUBLISHED,
    )


def _with_prices(adverts: pd.DataFrame, prices: pd.DataFrame) -> pd.DataFrame:
    """Adverts with the entry price of their model in the year of registration."""
    import numpy as np
    import pandas as pd

    for table, column, wanted in ((adverts, "Reg_year", ADVERTS), (prices, "Year", PRICES)):
        if not pd.api.types.is_numeric_dtype(table[column]):
            raise UserError(f': column "{column}" of {wanted.name} holds text', key="raw")
    # The order of rows that pandas before 2.2 gave to the join.
    adverts = adverts.assign(_group=adverts.groupby([_MODEL, "Reg_year"], sort=False).ngroup())
    joined = adverts.merge(
        prices, left_on=[_MODEL, "Reg_year"], right_on=[_MODEL, "Year"], how="inner"
    )
    order = np.argsort(joined["_group"].to_numpy(), kind="stable")
    joined = joined.drop(columns="_group").iloc[order].reset_index(drop=True)
    if not joined[ADVERT].is_unique:
        twice = joined.loc[joined[ADVERT].duplicated(), ADVERT]
        raise UserError(
            f": adverts {some(twice)} stand twice in {ADVERTS.name}, or their model and year in"
            f" {PRICES.name}",
            key="raw",
        )
    return joined


def _first_images(path: Path) -> pd.DataFrame:
    """The first image of each advert: columns ``Adv_ID``, ``Image_name``, ``Predicted_viewpoint``.

    All views count, whatever their quality.
    """
    import pandas as pd

    seen: set[str] = set()
    found = []
    needed = ("Image_ID", "Image_name", "Predicted_viewpoint")
    chunks = read_table_in_chunks(path, needed, rows=_IMAGE_ROWS)
    for chunk in tqdm(chunks, desc="Reading the list of images", leave=False, disable=None):
        parts = chunk["Image_ID"].str.split("$$", n=2, regex=False)
        chunk[ADVERT] = parts.str[0] + "$$" + parts.str[1]
        if chunk[ADVERT].isna().any():
            wrong = chunk.loc[chunk[ADVERT].isna(), "Image_ID"]
            raise UserError(f": Image_ID {some(wrong)} of {path.name} names no advert", key="raw")
        new = chunk[~chunk[ADVERT].duplicated() & ~chunk[ADVERT].isin(seen)]
        seen.update(new[ADVERT])
        found.append(new[[ADVERT, "Image_name", "Predicted_viewpoint"]])
    return pd.concat(found, ignore_index=True)


def _normalized(joined: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Standardized numbers (sample standard deviation) and codes of categories, complete rows only.

    The mean and the deviation are those of all rows of ``joined``, also of the ones that then turn
    out to have no number of miles or no price.
    """
    import pandas as pd

    if lacking := [name for name in (*CONTINUOUS[:-2], *CATEGORICAL) if name not in joined.columns]:
        raise UserError(f": {path} has no column {some(lacking)}", key="raw")
    size = pd.to_numeric(joined["Engin_size"].astype(str).str[:-1], errors="coerce")
    if size.isna().any():
        wrong = joined.loc[size.isna(), "Engin_size"]
        raise UserError(
            f": Engin_size {some(wrong)} of {path.name} is no size in liters", key="raw"
        )
    numbers = joined.assign(Engine_size=size).loc[:, list(CONTINUOUS)]
    for name in ("Runned_Miles", "Price"):
        numbers[name] = pd.to_numeric(numbers[name], errors="coerce")
    for name in CONTINUOUS:
        if not pd.api.types.is_numeric_dtype(numbers[name]):
            raise UserError(f': column "{name}" of the joined tables holds text', key="raw")
    numbers = (numbers - numbers.mean()) / numbers.std()
    codes = {name: joined[name].astype("category").cat.codes for name in CATEGORICAL}
    kept = joined.loc[:, [ADVERT, "Image_name", _MODEL, *_names_of(joined)]]
    return pd.concat([kept, numbers, pd.DataFrame(codes)], axis=1).dropna(subset=list(CONTINUOUS))


def _names_of(joined: pd.DataFrame) -> list[str]:
    """The columns that say what a model is called, as far as they are there."""
    return [name for name in ("Maker", "Genmodel") if name in joined.columns]


def _categories(joined: pd.DataFrame) -> dict[str, list[str]]:
    """What the codes of each categorical column stand for."""
    return {
        name: [str(level) for level in joined[name].astype("category").cat.categories]
        for name in CATEGORICAL
    }


def _large_models(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[list[str]]]:
    """The rows of models with 100 or more, with a column ``label``: models in order of their first
    row; and the id and names of each model.
    """
    sizes = rows[_MODEL].map(rows[_MODEL].value_counts())
    kept = rows[sizes >= _SMALLEST_CLASS].copy()
    order = list(dict.fromkeys(kept[_MODEL]))
    if len(order) < 2:
        raise UserError(
            f": {len(order)} models have {_SMALLEST_CLASS} or more complete adverts, 286 in the"
            " whole download",
            key="raw",
        )
    kept[TARGET] = kept[_MODEL].map({model: label for label, model in enumerate(order)})
    first = kept.drop_duplicates(TARGET)[[_MODEL, *_names_of(rows)]]
    return kept, [[str(cell) for cell in model] for model in first.itertuples(index=False)]


def _split(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """40, 10 and 50 percent, each in the order of the shuffle."""
    import numpy as np
    from sklearn.model_selection import train_test_split

    labels: np.ndarray = rows[TARGET].to_numpy()
    first, test = train_test_split(
        np.arange(len(rows)), test_size=0.5, random_state=_SEED, stratify=labels
    )
    # The strata are not those of the shuffled rows but of the same rows in the table's order, as in
    # the notebook.
    train, val = train_test_split(
        first, test_size=0.2, random_state=_SEED, stratify=labels[np.sort(first)]
    )
    return {part: rows.iloc[chosen] for part, chosen in zip(PARTS, (train, val, test), strict=True)}


def _read_ids(folder: Path) -> dict[str, list[str]]:
    """The adverts of each part, in order, from files of names with commas between them."""
    found: dict[str, list[str]] = {}
    for part in PARTS:
        path = Wanted(f"{part}_ids_dvm_all_views.txt", ("", "data"), _MMCL, key="ids").under(folder)
        text = path.read_text(encoding="utf-8", errors="replace").replace("\n", ",")
        found[part] = [name.strip() for name in text.split(",") if name.strip()]
    names = [name for part in found.values() for name in part]
    if len(set(names)) != len(names):
        raise UserError(f": {folder} names an advert twice", key="ids")
    return found


def _split_as_published(
    rows: pd.DataFrame, lists: dict[str, list[str]], counts: dict[str, int]
) -> dict[str, pd.DataFrame]:
    """The rows that each list names, in its order; ``counts`` gets what has no match, and how many
    rows ``_split`` puts in the same part.
    """
    of_advert = rows.set_index(ADVERT, drop=False).rename_axis(None)
    known = set(of_advert.index)
    split = {
        part: of_advert.loc[[name for name in names if name in known]]
        for part, names in lists.items()
    }
    if empty := [part for part, found in split.items() if not len(found)]:
        raise UserError(f": no advert of the list for {some(empty)} is in the tables", key="ids")
    named = sum(map(len, split.values()))
    counts["of these in no published list"] = len(rows) - named
    counts["published adverts that are not here"] = sum(map(len, lists.values())) - named
    counts["of these in the part that is drawn without --ids"] = sum(
        len(drawn.index.intersection(split[part].index))
        for part, drawn in _split(of_advert).items()
    )
    return split


def _sizes(path: Path) -> pd.DataFrame:
    """Wheelbase, length, width and height in mm of every advert, filled and jittered."""
    import pandas as pd

    sizes = read_table(
        path, (_MODEL, ADVERT, *_FILL_AND_JITTER_ORDER), text=(_MODEL, ADVERT), only=True
    )
    if not sizes[ADVERT].is_unique:
        twice = sizes.loc[sizes[ADVERT].duplicated(), ADVERT]
        raise UserError(f": adverts {some(twice)} stand twice in {path.name}", key="raw")
    for model, wheelbase in _WHEELBASES.items():
        sizes.loc[sizes[_MODEL] == model, "Wheelbase"] = wheelbase
    draws = random.Random(_SEED)
    for name in _FILL_AND_JITTER_ORDER:
        column = sizes[name]
        if not pd.api.types.is_numeric_dtype(column):
            raise UserError(f': column "{name}" of {path.name} holds text', key="raw")
        known = sizes[column > 0]
        others = sizes[_MODEL].map(known.drop_duplicates(_MODEL).set_index(_MODEL)[name])
        empty = (column.isna() | (column == 0)) & others.notna()
        filled = column.where(~empty, others)
        sizes[name] = [value + draws.randint(-_JITTER, _JITTER) for value in filled.tolist()]
    return sizes[[ADVERT, *PHYSICAL]]


def _with_sizes(rows: pd.DataFrame, sizes: pd.DataFrame) -> pd.DataFrame:
    """One part of the split with its sizes, standardized among themselves."""
    merged = rows.merge(sizes, on=ADVERT)
    for name in PHYSICAL:
        if merged[name].isna().any():
            models = merged.loc[merged[name].isna(), _MODEL].unique()
            raise UserError(
                f": no advert of model {some(models)} has a {name} in {SIZES.name}", key="raw"
            )
        merged[name] = (merged[name] - merged[name].mean()) / merged[name].std()
    return merged


@dataclass(frozen=True)
class _Rows:
    """The rows of the table, part by part."""

    parts: dict[str, pd.DataFrame]

    def __iter__(self) -> Iterator[list[Any]]:
        for part, rows in self.parts.items():
            columns = ["Image_name", ADVERT, *FEATURES, TARGET]
            for name, *cells in rows[columns].itertuples(index=False, name=None):
                yield [_image_path(name), *cells, part]


def _image_path(name: str) -> str:
    """Maker, model, year and color are the first four parts of an image's name."""
    maker, model, year, color = (name.split("$$") + [""] * 4)[:4]
    return f"{maker}/{model}/{year}/{color}/{name}"
