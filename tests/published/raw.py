"""Miniature downloads in the exact grammar of the real ones, with their traps."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

# Model -> maker, name, adverts. 2_1 has just enough; 96_9 keeps 99 complete adverts of its 101.
MODELS = {
    "29_20": ("Ford", "Grand C-Max", 120),
    "2_1": ("Abarth", "124 Spider", 100),
    "69_36": ("Peugeot", "RCZ", 131),
    "96_9": ("Volvo", "V50", 101),
}
YEARS = (2004, 2011, 2007)
_ADVERT_COLUMNS = [
    *("Maker", " Genmodel", " Genmodel_ID", "Adv_ID", "Adv_year", "Adv_month", "Color"),
    *("Reg_year", "Bodytype", "Runned_Miles", "Engin_size", "Gearbox", "Fuel_type", "Price"),
    *("Seat_num", "Door_num"),
]
SUN_CATEGORIES = ("a/abbey", "c/church/indoor", "b/bay window", "w/waterfall/block")
CELEBA_ROWS = {"0": 30, "1": 8, "2": 10}


def jpeg(shade: int, blue: int) -> bytes:
    pixels = np.full((20, 16, 3), shade, np.uint8)
    pixels[4:12, 4:12, 2] = blue
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG")
    return stream.getvalue()


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])


def write_dvm(raw: Path) -> Path:
    """``tables_V2.0/`` and ``resized_DVM/``.

    Traps: blanks around headers and in paths, several images of an advert in any order, adverts
    without an entry price, an image, a color, a price that is a number or a line among the sizes,
    zero and empty sizes, a model just under 100, years of registration mixed within a model.
    """
    rng = np.random.default_rng(5)
    adverts: list[list[object]] = []
    images: list[list[object]] = []
    sizes: list[list[object]] = []
    for label, (model, (maker, name, count)) in enumerate(MODELS.items()):
        pixels = jpeg(40 + 50 * label, 250 - 60 * label)
        for number in range(1, count + 1):
            advert = f"{model}$${number}"
            year = YEARS[int(rng.integers(len(YEARS)))]
            color = ["Silver", "Blue", "Pearl Red"][int(rng.integers(3))]
            row: list[object] = [
                *(maker, name, model, advert, 2018 + number % 3, int(rng.integers(1, 13)), color),
                *(float(year), ["Saloon", "Coupe"][int(rng.integers(2))]),
                *(str(rng.integers(1000, 90_000)), f"{rng.integers(10, 40) / 10}L"),
                *(["Manual", "Automatic"][int(rng.integers(2))], ["Petrol", "Diesel"][number % 2]),
                *(str(rng.integers(900, 30_000)), float(rng.integers(2, 6)), float(number % 3 + 2)),
            ]
            _break_advert(row, model, number)
            adverts.append(row)
            length = "" if number % 17 == 1 else 4000 + 10 * label
            width = 0 if number % 13 == 1 else 1700 + number % 5
            wheelbase = "" if model == "69_36" else 2500 + label
            if (model, number) != ("2_1", 7):  # not among the sizes
                sizes.append([maker, name, model, advert, 9, 9, wheelbase, 1400, width, length])
            if (model, number) == ("29_20", 8):  # no image
                continue
            for view in rng.permutation(int(rng.integers(1, 4))).tolist():
                file = f"{maker}$${name}$${year}$${color}$${advert}$$image_{view}.jpg"
                quality = "P" if view == 0 else ""
                images.append([model, f"{advert}$${view}", file, 45 * view, quality])
                folder = raw / "resized_DVM" / maker / name / str(year) / color
                if (model, number) != ("2_1", 5):  # listed, and not in the archive
                    folder.mkdir(parents=True, exist_ok=True)
                    (folder / file).write_bytes(pixels)
    images.append(["99_1", "99_1$$1$$0", "Zenos$$E10$$2016$$Red$$99_1$$1$$image_0.jpg", 0, "P"])
    tables = raw / "tables_V2.0"
    write_csv(tables / "Ad_table.csv", _ADVERT_COLUMNS, adverts)
    write_csv(
        tables / "Image_table.csv",
        ["Genmodel_ID", " Image_ID", " Image_name", " Predicted_viewpoint", " Quality_check"],
        [images[i] for i in rng.permutation(len(images))],
    )
    prices = [
        [maker, name, model, year, 9000 + 700 * label + 100 * at]
        for label, (model, (maker, name, _)) in enumerate(MODELS.items())
        for at, year in enumerate(YEARS)
    ]
    write_csv(
        tables / "Price_table.csv",
        ["Maker", " Genmodel", " Genmodel_ID", " Year", " Entry_price"],
        prices,
    )
    write_csv(
        tables / "Ad_table (extra).csv",
        [
            *("Maker", " Genmodel", " Genmodel_ID", "Adv_ID", "Average_mpg", "Top_speed"),
            *("Wheelbase", "Height", "Width", "Length"),
        ],
        sizes,
    )
    for unused in ("Basic_table.csv", "Sales_table.csv", "Trim_table.csv"):
        write_csv(tables / unused, ["Maker", "Genmodel "], [["Ford", "RCZ"]])
    return raw


def _break_advert(row: list[object], model: str, number: int) -> None:
    """Some adverts lack something, each in its own way."""
    column = {name.strip(): place for place, name in enumerate(_ADVERT_COLUMNS)}
    if model == "29_20":
        broken = {
            3: ("Reg_year", 1999.0),  # no entry price for that year
            4: ("Color", ""),
            5: ("Price", "Unknown"),
            6: ("Runned_Miles", "1 mile"),
            9: ("Reg_year", ""),
            10: ("Door_num", ""),
        }
    else:
        broken = {1: ("Price", "POA"), 2: ("Seat_num", "")} if model == "96_9" else {}
    if number in broken:
        name, cell = broken[number]
        row[column[name]] = cell


def write_sun(raw: Path) -> Path:
    """``SUNAttributeDB/`` and ``images/``: cell arrays of texts, votes in thirds."""
    rng = np.random.default_rng(6)
    paths = [
        f"{category}/sun_{category.replace('/', '_')}{number:02d}.jpg"
        for category in SUN_CATEGORIES
        for number in range(20)
    ]
    names = [f"attribute {number}" for number in range(102)]
    names[0], names[5] = "sailing/ boating", "trees, shrubs"
    names[89:92] = ["open area", "semi-enclosed area", "enclosed area"]
    votes = rng.integers(0, 4, (len(paths), len(names))) / 3.0
    for path, given in zip(paths, votes[:, 89], strict=True):
        (raw / "images" / path).parent.mkdir(parents=True, exist_ok=True)
        (raw / "images" / path).write_bytes(jpeg(60 if given > 0.5 else 180, 200))
    folder = raw / "SUNAttributeDB"
    folder.mkdir()
    savemat(folder / "attributes.mat", {"attributes": _cells(names)})
    savemat(folder / "images.mat", {"images": _cells(paths)})
    savemat(folder / "attributeLabels_continuous.mat", {"labels_cv": votes})
    return raw


def _cells(texts: Sequence[str]) -> np.ndarray:
    """A MATLAB cell array, one column of texts."""
    cells = np.empty((len(texts), 1), dtype=object)
    cells[:, 0] = texts
    return cells


def write_celeba(raw: Path) -> Path:
    """``Anno/``, ``Eval/`` and ``Img/``: two header lines, several blanks between cells, -1 and
    1.
    """
    rng = np.random.default_rng(7)
    names = [f"Attribute_{number}" for number in range(40)]
    names[2] = "Attractive"
    parts = [part for part, count in CELEBA_ROWS.items() for _ in range(count)]
    signs = rng.choice([-1, 1], (len(parts), 40))
    lines = [str(len(parts)), " ".join(names) + " "]
    (raw / "Img" / "img_align_celeba").mkdir(parents=True)
    for row, cells in enumerate(signs.tolist()):
        image = f"{row + 1:06d}.jpg"
        lines.append(image + " " + " ".join(f"{cell:2d}" for cell in cells))
        file = raw / "Img" / "img_align_celeba" / image
        file.write_bytes(jpeg(60 if cells[2] > 0 else 180, 200))
    partition = [f"{row + 1:06d}.jpg {part}" for row, part in enumerate(parts)]
    for name, text in (
        ("Anno/list_attr_celeba.txt", lines),
        ("Eval/list_eval_partition.txt", partition),
    ):
        (raw / name).parent.mkdir(exist_ok=True)
        (raw / name).write_text("\n".join(text) + "\n")
    return raw


WRITE: dict[str, Callable[[Path], Path]] = {
    "dvm": write_dvm,
    "sun": write_sun,
    "celeba": write_celeba,
}
