"""The demo set: the same bytes every time, never half there, and as hard as it says it is."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import stats

from gaal_fast.data import demo
from gaal_fast.errors import UserError

ROWS = 120
MEASURES = ["height_cm", "weight_g", "price_eur", "wall_mm"]
BOTH = ("image", "table")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets of ROWS rows in place of the full ones."""
    monkeypatch.setattr(demo, "DEMO_ROWS", ROWS)


@pytest.fixture(scope="module")
def sample() -> demo.Items:
    return demo.sample_items(20_000, seed=3)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def read(paths: demo.DemoPaths) -> pd.DataFrame:
    return pd.read_csv(paths.csv)


# --- the folder
# ------------------------------------------------------------------------------------------------------


def test_same_seed_same_bytes_and_other_seed_other_rows(small, tmp_path):
    first, again, other = (
        demo.ensure_demo(tmp_path / name, seed) for name, seed in (("a", 7), ("b", 7), ("c", 8))
    )
    one, two = contents(tmp_path / "a"), contents(tmp_path / "b")
    assert one == two
    assert len(one) == ROWS + 4
    assert first[2:] == again[2:] == other[2:] == (demo.IMAGE_COLUMN, demo.TARGET)
    three = contents(tmp_path / "c")
    assert not any(one[name] == three[name] for name in one if name.endswith(".png"))
    assert one["catalogue.csv"] != three["catalogue.csv"]


def test_bytes_of_version_1_are_pinned():
    """Whoever changes these bytes has made another data set and must raise DEMO_VERSION."""
    assert demo.DEMO_VERSION == 1
    items = demo.sample_items(64, seed=0)
    table = "\n".join(",".join(row) for row in demo._csv_rows(items))
    images = b"".join(demo._png_bytes(demo.render_image(items, row)) for row in range(64))
    digests = (
        hashlib.sha256(table.encode()).hexdigest()[:16],
        hashlib.sha256(images).hexdigest()[:16],
    )
    assert digests == ("828ba82114e67c2b", "5fa20630055e9e02")


def test_a_row_does_not_depend_on_the_number_of_rows():
    short, long = demo.sample_items(5, seed=2), demo.sample_items(50, seed=2)
    assert list(demo._csv_rows(short)) == list(demo._csv_rows(long))[:5]
    assert np.array_equal(demo.render_image(short, 4, 2), demo.render_image(long, 4, 2))


def test_table_and_images_have_the_promised_form(small, tmp_path):
    paths = demo.ensure_demo(tmp_path / "set", seed=1)
    table, items = read(paths), demo.sample_items(ROWS, seed=1)
    assert tuple(table.columns) == demo.COLUMNS
    assert len(table) == ROWS
    assert table["item_id"].is_unique and table["currency"].unique().tolist() == ["EUR"]
    assert all(
        pd.api.types.is_numeric_dtype(table[name])
        for name in [*MEASURES, "catalogue_page", "stock_count"]
    )
    assert (table[MEASURES].min() > 0).all()
    for name, levels in (
        ("material", demo.MATERIALS),
        ("maker", demo.MAKERS),
        ("glaze", demo.GLAZES),
    ):
        assert set(table[name].dropna()) <= set(levels)
    holes = table.columns[table.isna().any()]
    assert set(holes) <= {*MEASURES, "material", "maker", "glaze"}
    assert table[demo.TARGET].tolist() == [demo.KINDS[kind] for kind in items.kind]
    assert sorted(table[demo.IMAGE_COLUMN]) == sorted(path.name for path in paths.images.iterdir())
    for row in (0, 1, ROWS - 1):
        with Image.open(paths.images / table[demo.IMAGE_COLUMN][row]) as image:
            assert (image.mode, image.size) == ("RGB", (demo.IMAGE_SIZE, demo.IMAGE_SIZE))
            assert np.array_equal(np.asarray(image), demo.render_image(items, row, seed=1))
    readme = (tmp_path / "set" / "README.txt").read_text(encoding="utf-8")
    assert all(f"{value:.4f}" in readme for value in demo.best_possible().values())
    assert max(map(len, readme.splitlines())) <= 120
    with Image.open(tmp_path / "set" / "contact_sheet.png") as sheet:
        assert min(sheet.size) > 500


def test_a_whole_set_is_not_rendered_again(small, tmp_path, monkeypatch):
    first = demo.ensure_demo(tmp_path / "set")
    monkeypatch.setattr(demo, "_render", lambda *_: pytest.fail("rendered again"))
    assert demo.ensure_demo(tmp_path / "set") == first


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_rendering_leaves_nothing(small, tmp_path, monkeypatch, error):
    draw = demo.render_image

    def stop(items, row, *rest):
        if row == 20:
            raise error
        return draw(items, row, *rest)

    with monkeypatch.context() as patch, pytest.raises(error):
        patch.setattr(demo, "render_image", stop)
        demo.ensure_demo(tmp_path / "set")
    assert list(tmp_path.iterdir()) == []
    assert len(read(demo.ensure_demo(tmp_path / "set"))) == ROWS


def test_a_killed_rendering_is_never_taken_for_a_whole_one(small, tmp_path):
    program = (
        "import importlib.util, os, pathlib, sys\nspec ="
        " importlib.util.spec_from_file_location('demo', sys.argv[2])\ndemo = sys.modules['demo']"
        " = importlib.util.module_from_spec(spec)\nspec.loader.exec_module(demo)\ndemo.DEMO_ROWS ="
        f" {ROWS}\ndraw = demo.render_image\ndemo.render_image = lambda items, row, *rest:"
        " os._exit(9) if row == 20 else draw(items, row,"
        " *rest)\ndemo.ensure_demo(pathlib.Path(sys.argv[1]))\n"
    )
    root = tmp_path / "set"
    command = [sys.executable, "-c", program, str(root), demo.__file__]
    done = subprocess.run(command, cwd=Path(demo.__file__).parents[2], timeout=300)
    assert done.returncode == 9
    assert not root.exists()
    (partial,) = tmp_path.iterdir()
    assert len(list((partial / "images").iterdir())) == 20
    assert len(read(demo.ensure_demo(root))) == ROWS
    assert partial.exists()  # it might belong to a run still at work
    os.utime(partial, (time.time() - 2 * demo._STALE_SECONDS,) * 2)
    demo._remove_stale(root)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_two_at_once_share_one_set(small, tmp_path):
    found: list[demo.DemoPaths] = []
    threads = [
        threading.Thread(target=lambda: found.append(demo.ensure_demo(tmp_path / "set")))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2 and found[0] == found[1]
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    assert demo._is_whole(tmp_path / "set", 0, ROWS)


def _lose_image(folder: Path) -> None:
    (folder / "images" / "00003.png").unlink()


def _cut_image(folder: Path) -> None:
    image = folder / "images" / "00003.png"
    image.write_bytes(image.read_bytes()[:-7])


def _cut_table(folder: Path) -> None:
    table = folder / "catalogue.csv"
    table.write_bytes(table.read_bytes()[:-100])


def _other_count(folder: Path) -> None:
    marker = json.loads((folder / "demo.json").read_text())
    (folder / "demo.json").write_text(json.dumps({**marker, "rows": ROWS - 1}))


@pytest.mark.parametrize("damage", [_lose_image, _cut_image, _cut_table, _other_count])
def test_a_damaged_set_is_made_anew_and_kept_aside(small, tmp_path, damage):
    root = tmp_path / "set"
    demo.ensure_demo(root)
    good = contents(root)
    damage(root)
    (root / "notes.txt").write_text("mine")
    bad = contents(root)
    with pytest.warns(UserWarning, match=r"set\.replaced-1"):
        demo.ensure_demo(root)
    assert contents(root) == good
    assert contents(tmp_path / "set.replaced-1") == bad


def test_a_folder_that_holds_something_else_is_left_alone(small, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="mine holds other files"):
        demo.ensure_demo(mine)
    assert contents(mine) == {"notes.txt": b"mine"}
    with pytest.raises(UserError, match=r"notes\.txt is a file"):
        demo.ensure_demo(mine / "notes.txt")
    demo.ensure_demo(tmp_path / "set", seed=1)
    with pytest.raises(UserError, match="version 1, seed 1, not version 1, seed 2"):
        demo.ensure_demo(tmp_path / "set", seed=2)
    assert demo._is_whole(tmp_path / "set", 1, ROWS)
    (tmp_path / "empty").mkdir()
    assert len(read(demo.ensure_demo(tmp_path / "empty"))) == ROWS


@pytest.mark.parametrize("seed", [-1, 1.5, True, "0"])
def test_a_bad_seed_is_refused(seed, tmp_path):
    with pytest.raises(UserError, match="seed"):
        demo.ensure_demo(tmp_path / "set", seed)


def test_default_place_is_the_user_cache_then_the_temporary_files(small, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    place = tmp_path / "cache" / "gaal_fast" / "demo-v1-seed4"
    assert demo.ensure_demo(seed=4).csv == place / "catalogue.csv"
    (place / "demo.json").unlink()
    with pytest.warns(UserWarning, match="replaced-1"):
        demo.ensure_demo(seed=4)
    assert demo._is_whole(place, 4, ROWS)

    (tmp_path / "file").write_text("")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    assert (tmp_path / "tmp") in demo.ensure_demo(seed=4).csv.parents
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
    with pytest.raises(UserError, match="cannot write the demo set"):
        demo.ensure_demo(seed=4)


# --- the model
# -------------------------------------------------------------------------------------------------------


def test_best_possible_pays_for_fusion_and_says_how_sure_it_is():
    best, error = demo.best_possible(), demo.best_possible_error()
    assert best["multi"] > max(best["image"], best["table"]) + 0.1
    assert (
        0.80 <= best["image"] <= 0.88
        and 0.75 <= best["table"] <= 0.85
        and 0.95 <= best["multi"] <= 0.98
    )
    assert error["image"] == 0.0 and 0.0 < error["multi"] < error["table"] < 1e-3
    fewer, wider = demo.best_possible(20_000), demo.best_possible_error(20_000)
    for name in ("table", "multi"):
        assert abs(fewer[name] - best[name]) <= 4 * np.hypot(error[name], wider[name])


@pytest.mark.parametrize(
    ("name", "modalities"), [("image", ("image",)), ("table", ("table",)), ("multi", BOTH)]
)
def test_the_bayes_classifier_reaches_the_stated_figure(sample, name, modalities):
    p = demo.posterior(sample, modalities)
    assert np.allclose(p.sum(axis=1), 1.0)
    best, error = demo.best_possible()[name], demo.best_possible_error()[name]
    hits = p.argmax(axis=1) == sample.kind
    assert abs(hits.mean() - best) <= 3 * np.hypot(error, np.sqrt(best * (1 - best) / len(hits)))
    # A posterior that is right is also calibrated, whichever class it speaks of.
    for low, high in ((0.05, 0.2), (0.2, 0.5), (0.5, 0.8), (0.8, 0.99)):
        inside = (p > low) & (p <= high)
        truth = (sample.kind[:, None] == np.arange(len(demo.KINDS)))[inside]
        sd = np.sqrt((p[inside] * (1 - p[inside])).sum())
        assert abs(truth.sum() - p[inside].sum()) <= 4 * sd


def test_image_figure_by_brute_force():
    total = 0.0
    for body in demo.BODIES:
        pair = [kind for kind in demo._KINDS if kind.body == body]
        for mark in range(len(demo.DECORATIONS)):
            weight = [kind.prior * kind.decoration[mark] / sum(kind.decoration) for kind in pair]
            total += max(w * kind.part_shown for w, kind in zip(weight, pair, strict=True))
            total += max(w * (1 - kind.part_shown) for w, kind in zip(weight, pair, strict=True))
    assert demo.best_possible()["image"] == pytest.approx(total, abs=1e-12)


def test_posterior_agrees_with_distributions_written_out_by_hand(sample):
    """Each cell by scipy.stats, from the numbers of the kind and the text in the table."""
    rows = list(range(40))
    text = [
        dict(zip(demo.COLUMNS, row, strict=True))
        for _, row in zip(rows, demo._csv_rows(sample), strict=False)
    ]
    step = {"height_cm": 0.1, "weight_g": 1.0, "price_eur": 0.01, "wall_mm": 0.1}
    gone = {"height_cm": 0.05, "price_eur": 0.03, "wall_mm": 0.10}
    rank = np.arange(len(demo.MAKERS))
    expected = np.empty((len(rows), len(demo._KINDS)))
    for y, kind in enumerate(demo._KINDS):
        maker = (rank + 1.0) ** -1.7 * np.where((3 * rank + y) % 10 < 3, 1.45, 0.8)
        for row in rows:
            p = kind.prior
            for name in MEASURES:
                missing = kind.weight_missing if name == "weight_g" else gone[name]
                if text[row][name] == "":
                    p *= missing
                    continue
                centre, spread = getattr(kind, name)
                log_normal = name in ("weight_g", "price_eur")
                law = (
                    stats.lognorm(spread, scale=centre)
                    if log_normal
                    else stats.norm(centre, spread)
                )
                value, half = float(text[row][name]), step[name] / 2
                p *= (1 - missing) * (law.cdf(value + half) - law.cdf(value - half))
            if text[row]["material"]:
                p *= kind.material[demo.MATERIALS.index(text[row]["material"])] / sum(kind.material)
            if text[row]["maker"]:
                p *= maker[demo.MAKERS.index(text[row]["maker"])] / maker.sum()
            expected[row, y] = p
    expected /= expected.sum(axis=1, keepdims=True)
    # The differences of cdf above lose digits in the far tails, hence the absolute part.
    np.testing.assert_allclose(
        demo.posterior(sample, ("table",))[rows], expected, rtol=1e-6, atol=1e-9
    )


def test_posterior_of_images_by_hand(sample):
    for row, found in enumerate(demo.posterior(sample, ("image",))[:40]):
        body, shown = demo.BODIES[sample.look[row] // 2], sample.look[row] % 2
        expected = np.array(
            [
                kind.prior
                * (kind.part_shown if shown else 1 - kind.part_shown)
                * (kind.decoration[sample.decoration[row]] / sum(kind.decoration))
                * (kind.body == body)
                for kind in demo._KINDS
            ]
        )
        np.testing.assert_allclose(found, expected / expected.sum(), rtol=1e-12)


def test_log_normal_interval_in_both_tails():
    low = np.array([-40.0, -8.0, -0.5, 0.3, 8.0, 40.0])
    found = demo._log_normal_interval(low, low + 0.02)
    np.testing.assert_allclose(
        found, found_mirrored := demo._log_normal_interval(-low - 0.02, -low), rtol=1e-12
    )
    assert np.isfinite(found_mirrored).all()
    # Midpoint rule with its second-order term: relative error O(width^4 z^4).
    z = low + 0.01
    second_order = np.log1p(0.02**2 * (z**2 - 1) / 24)
    np.testing.assert_allclose(found, stats.norm.logpdf(z) + np.log(0.02) + second_order, atol=1e-3)


def test_no_evidence_gives_the_prior_and_a_wrong_modality_is_named(sample):
    assert np.allclose(demo.posterior(sample, ()), [kind.prior for kind in demo._KINDS])
    with pytest.raises(ValueError, match="'sound'"):
        demo.log_likelihood(sample, "sound")


def test_frequencies_are_those_of_the_model(sample):
    """Class shares, missing rates, looks and materials within four standard errors of what the
    kinds say.
    """

    def near(hits: np.ndarray, p: float) -> bool:
        return abs(hits.mean() - p) <= 4 * np.sqrt(p * (1 - p) / len(hits))

    assert sum(kind.prior for kind in demo._KINDS) == pytest.approx(1.0)
    for y, kind in enumerate(demo._KINDS):
        own = sample.kind == y
        assert near(own, kind.prior)
        assert near(~sample.written[own, 1], kind.weight_missing)
        assert near(sample.look[own] % 2 == 1, kind.part_shown)
        assert (sample.look[own] // 2 == demo.BODIES.index(kind.body)).all()
        for index, weight in enumerate(kind.decoration):
            assert near(sample.decoration[own] == index, weight / sum(kind.decoration))
        held = own & (sample.material >= 0)
        for index, weight in enumerate(kind.material):
            assert near(sample.material[held] == index, weight / sum(kind.material))
    for hits, p in (
        (~sample.written[:, 0], 0.05),
        (~sample.written[:, 2], 0.03),
        (~sample.written[:, 3], 0.10),
        (sample.material < 0, 0.07),
        (sample.maker < 0, 0.15),
        (~sample.glaze_written, 0.02),
    ):
        assert near(hits, p)


def test_full_set_is_mildly_imbalanced_with_many_rare_makers():
    items = demo.sample_items()
    classes = np.bincount(items.kind, minlength=len(demo.KINDS))
    assert (
        len(items) == demo.DEMO_ROWS
        and classes.min() >= 100
        and 1.5 <= classes.max() / classes.min() <= 3
    )
    makers = np.bincount(items.maker[items.maker >= 0], minlength=len(demo.MAKERS))
    assert (makers < 10).sum() >= 30 and (makers > 0).sum() >= 30


def test_images_know_only_look_decoration_and_glaze(sample):
    """The figure for images rests on this: the same factors give the same pixels whatever the
    kind.
    """
    items = demo.sample_items(30, seed=9)
    none = np.zeros_like(items.maker)
    changed = replace(
        items, kind=(items.kind + 3) % 10, ticks=items.ticks + 5, maker=none, material=none
    )
    for row in range(30):
        pixels = demo.render_image(items, row)
        assert np.array_equal(pixels, demo.render_image(changed, row))
        for factor, count in (("look", 10), ("decoration", 4), ("glaze", 8)):
            other = replace(items, **{factor: (getattr(items, factor) + 1) % count})
            difference = np.abs(demo.render_image(other, row).astype(int) - pixels)
            assert (difference.max(axis=2) > 25).sum() >= 8
