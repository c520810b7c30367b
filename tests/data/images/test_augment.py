"""Augmentation: the same for the same (seed, epoch, row), the recipe's distributions, and agreement
with torchvision.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as F

from gaal_fast.data.images import augment as A

SIZE = 32


@pytest.fixture
def image() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    small = torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8, generator=generator)
    return F.resize(small, [SIZE, SIZE])


def rng(row: int = 0) -> np.random.Generator:
    return A.sample_rng(1, 2, row)


@pytest.mark.parametrize("preset", ["paper", "light", "none"])
def test_a_version_is_a_function_of_seed_epoch_and_row_alone(
    image: torch.Tensor, preset: str
) -> None:
    before, state = image.clone(), torch.get_rng_state()
    keys = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 5, 7)]
    first = [A.augment(image, preset, A.sample_rng(*key)) for key in keys]
    torch.manual_seed(99)
    again = [A.augment(image, preset, A.sample_rng(*key)) for key in reversed(keys)][::-1]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert torch.equal(image, before)
    different = sum(not torch.equal(first[0], other) for other in first[1:])
    assert different == 0 if preset == "none" else different >= 3
    torch.set_rng_state(state)
    A.augment(image, preset, rng())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("preset", ["paper", "light"])
@pytest.mark.parametrize("size", [1, 2, 5, 13, 32, 64, 130])
def test_any_size_keeps_its_shape_and_type(preset: str, size: int) -> None:
    image = torch.randint(0, 256, (3, size, size), dtype=torch.uint8)
    for row in range(20):
        changed = A.augment(image, preset, rng(row))
        assert changed.shape == image.shape
        assert changed.dtype == torch.uint8


@pytest.mark.parametrize("size", [48, 200])
def test_the_number_of_threads_changes_no_bit(size: int) -> None:
    image = F.resize(torch.randint(0, 256, (3, 9, 9), dtype=torch.uint8), [size, size])
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append([A.augment(image, "paper", rng(row)) for row in range(12)])
    finally:
        torch.set_num_threads(threads)
    assert all(
        torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True)
    )


def test_light_shifts_by_at_most_a_twelfth_and_flips_half() -> None:
    image = torch.zeros(3, 48, 48, dtype=torch.uint8)
    image[:, 20, 12] = 255
    places = []
    for row in range(400):
        changed = A.augment(image, "light", rng(row))
        assert changed.sum() == image.sum()
        places.append(changed[0].nonzero()[0].tolist())
    down = {y - 20 for y, _ in places}
    flipped = [x > 24 for _, x in places]
    right = {x - (35 if flip else 12) for (_, x), flip in zip(places, flipped, strict=True)}
    assert down == right == set(range(-4, 5))
    assert 160 < sum(flipped) < 240


def test_paper_changes_as_often_as_the_recipe_says(
    image: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: dict[str, int] = {}

    def counted(name: str) -> None:
        original = getattr(A, name)
        monkeypatch.setattr(
            A,
            name,
            lambda *args: (calls.__setitem__(name, calls.get(name, 0) + 1), original(*args))[1],
        )

    for name in ("_paper", "_brightness", "_contrast", "_saturation", "gaussian_blur", "_crop_box"):
        counted(name)
    n, grey = 1000, 0
    for row in range(n):
        changed = A.augment(image, "paper", rng(row)).int()
        grey += bool((changed.amax(0) == changed.amin(0)).all())
    expected = {
        "_paper": 0.95,
        "_brightness": 0.76,
        "_contrast": 0.76,
        "_saturation": 0.76,
        "gaussian_blur": 0.475,
        "_crop_box": 0.95,
    }
    assert {name: count / n for name, count in calls.items()} == pytest.approx(expected, abs=0.05)
    assert grey / n == pytest.approx(0.19, abs=0.05)


def test_crops_have_the_recipe_s_area_and_shape() -> None:
    generator = rng()
    boxes = [A._crop_box(1000, generator) for _ in range(2000)]
    for top, left, height, width in boxes:
        assert top >= 0 and left >= 0 and top + height <= 1000 and left + width <= 1000
    area = np.array([height * width for *_, height, width in boxes]) / 1e6
    ratio = np.array([width / height for *_, height, width in boxes])
    assert 0.598 < area.min() < 0.61
    assert area.max() > 0.97
    assert 0.749 < ratio.min() < 0.76
    assert 1.31 < ratio.max() < 1.335
    assert np.median(ratio) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("factor", [0.2, 0.7, 1.0, 1.8])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_jitter_is_torchvision_s(image: torch.Tensor, name: str, factor: float) -> None:
    mine = getattr(A, f"_{name}")(image, factor)
    reference = getattr(F, f"adjust_{name}")(image, factor)
    assert (mine.int() - reference.int()).abs().max() <= 1
    assert (mine != reference).float().mean() < 0.02


@pytest.mark.parametrize("sigma", [0.1, 0.6, 2.0])
@pytest.mark.parametrize("size", [16, 32, 64, 96])
def test_blur_is_torchvision_s(sigma: float, size: int) -> None:
    image = torch.randint(0, 256, (3, size, size), dtype=torch.uint8)
    kernel = A.blur_kernel(size)
    mine = A.gaussian_blur(image, kernel, sigma)
    reference = F.gaussian_blur(image, [kernel, kernel], [sigma, sigma])
    assert (mine.int() - reference.int()).abs().max() <= 1
    assert (mine != reference).float().mean() < 0.01


@pytest.mark.parametrize("box", [(0, 0, 32, 32), (3, 5, 25, 20), (8, 0, 24, 29), (31, 31, 1, 1)])
def test_crops_are_torchvision_s(image: torch.Tensor, box: tuple[int, int, int, int]) -> None:
    assert torch.equal(
        A.resized_crop(image, *box), F.resized_crop(image, *box, [SIZE, SIZE], antialias=True)
    )


def test_the_blur_s_kernel_shrinks_below_64_pixels() -> None:
    assert [A.blur_kernel(size) for size in (300, 64, 63, 32, 16, 8, 1)] == [
        29,
        29,
        29,
        15,
        7,
        3,
        3,
    ]


def test_unknown_presets_are_refused(image: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="preset"):
        A.augment(image, "heavy", rng())
