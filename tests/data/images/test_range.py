"""The range of values of deep images: decided once over the training images, kept, and said where
it does not suit."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gaal_fast.data.images.range import decide_ranges, extend_ranges, survey, warn_of_frames
from gaal_fast.data.reading import ImageReading, Reading
from gaal_fast.errors import UserError
from tests.data.images.image_bytes import write_png16, write_tiff


def save(path: Path, low: int, high: int, kind: type = np.uint16) -> str:
    samples = np.linspace(low, high, 64).reshape(8, 8).astype(kind)
    write_png16(path, samples) if path.suffix == ".png" else write_tiff(path, samples)
    return str(path)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    Image.new("L", (8, 8), 9).save(tmp_path / "bytes.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg")
    (tmp_path / "broken.png").write_bytes(b"broken")
    return {
        "twelve": save(tmp_path / "twelve.png", 0, 4000),
        "bright": save(tmp_path / "bright.png", 0, 60000),
        "signed": save(tmp_path / "signed.tif", -1000, 2000, np.int16),
        "float": save(tmp_path / "float.tif", 0, 1, np.float32),
        **{
            name: str(tmp_path / name)
            for name in ("bytes.png", "a.jpg", "broken.png", "absent.png")
        },
    }


def test_the_training_images_decide_each_kind_once(files: dict[str, str]) -> None:
    found = survey(list(files.values()))
    assert found.files == 8
    assert found.deep == {
        "16-bit": [files["twelve"], files["bright"]], "integer": [files["signed"]],
        "float": [files["float"]],
    }  # fmt: skip
    warnings: list[str] = []
    reading = decide_ranges(
        found, {files["twelve"], files["float"], files["bytes.png"]}, None, warnings
    )
    # No training row has a signed image: the others decide.
    assert reading == ImageReading((0.0, 4095.0), (-1000.0, 2000.0), (0.0, 1.0))
    assert decide_ranges(found, set(files.values()), None, warnings).bits16 == (0.0, 65535.0)
    assert warnings == []
    assert (
        reading.describe()[0]
        == "16-bit images: values 0 to 4095 become 0 to 255 (found in the training images;"
        " --data.image-range changes it)"
    )
    assert ImageReading().describe() == []


def test_a_range_that_is_given_holds_for_every_kind_and_is_kept(
    files: dict[str, str], tmp_path: Path
) -> None:
    warnings: list[str] = []
    reading = decide_ranges(survey([files["twelve"]]), {files["twelve"]}, (0.0, 5000.0), warnings)
    assert reading.ranges == dict.fromkeys(("16-bit", "integer", "float"), (0.0, 5000.0))
    assert reading.describe() == [
        "images of more than 8 bits: values 0 to 5000 become 0 to 255 (--data.image-range)"
    ]
    assert warnings == []
    Reading(images=reading).save(tmp_path)
    assert Reading.load(tmp_path).images == reading
    decide_ranges(survey([files["a.jpg"]]), set(), (0.0, 5000.0), warnings)
    assert warnings == ["--data.image-range has no effect: no image has more than 8 bits"]
    decide_ranges(survey([files["twelve"]]), set(), (0.0, 1000.0), warnings)
    assert (
        warnings[1]
        == "the range 0 to 1000 of --data.image-range does not suit: 75% of the values of these"
        " 16-bit images lie beyond it and are cut off"
    )


@pytest.mark.parametrize(
    "limits", [(5.0, 5.0), (6.0, 5.0), (0.0, float("inf")), (float("nan"), 1.0)]
)
def test_no_range_is_refused(tmp_path: Path, limits: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="is no range of pixel values"):
        ImageReading(bits16=limits)
    Reading().save(tmp_path)
    path = tmp_path / "reading.json"
    path.write_text(path.read_text().replace('"bits16": null', '"bits16": [5, 5]'))
    with pytest.raises(
        UserError, match=r"reading\.json is damaged: 5 to 5 is no range of pixel values"
    ):
        Reading.load(tmp_path)


def test_a_prediction_keeps_the_ranges_and_says_what_they_do_not_suit(
    files: dict[str, str],
) -> None:
    trained = ImageReading(bits16=(0.0, 4095.0))
    warnings: list[str] = []
    assert extend_ranges(survey([files["twelve"], files["a.jpg"]]), trained, warnings) == trained
    assert warnings == []
    assert extend_ranges(survey([files["bright"]]), trained, warnings) == trained
    assert (
        warnings.pop()
        == "the range 0 to 4095 of the training images does not suit: 92% of the values of these"
        " 16-bit images lie beyond it and are cut off"
    )
    assert extend_ranges(
        survey([files["twelve"]]), ImageReading(bits16=(0.0, 65535.0)), warnings
    ).bits16 == (0.0, 65535.0)
    assert (
        warnings.pop()
        == "the range 0 to 65535 of the training images does not suit: these 16-bit images reach"
        " 4000 only and become nearly black"
    )
    assert extend_ranges(survey([files["signed"]]), trained, warnings) == ImageReading(
        (0.0, 4095.0), (-1000.0, 2000.0)
    )
    assert (
        warnings.pop()
        == "integer images (1), which the training did not have: values -1000 to 2000, found in"
        " these images, become 0 to 255"
    )
    extend_ranges(survey([files["bytes.png"]]), ImageReading(bits16=(3000.0, 3100.0)), warnings)
    assert re.search(
        "the values 3000 to 3100 were stretched; these images have 8 bits", warnings.pop()
    )
    assert warnings == []


@pytest.mark.parametrize("name", ["a.gif", "a.tif", "a.png", "a.webp"])
def test_files_of_several_frames_are_counted(tmp_path: Path, name: str) -> None:
    first, second = (Image.new("RGB", (8, 8), color) for color in ("red", "lime"))
    first.save(tmp_path / name, save_all=True, append_images=[second])
    first.save(tmp_path / f"one{name}")
    warnings: list[str] = []
    warn_of_frames(survey([str(tmp_path / name), str(tmp_path / f"one{name}")]), warnings)
    assert warnings == [
        f'1 image file has several frames, of which the first is used ("{tmp_path / name}")'
    ]
