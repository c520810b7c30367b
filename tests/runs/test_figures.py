"""Figures follow the list of modalities."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from gaal_fast.runs.comparison import Row
from gaal_fast.runs.figures import COLORS, colors, comparison


def test_every_modality_has_a_color_of_its_own() -> None:
    found = colors(["fused", "front", "table", "kitchen", "front"])
    assert list(found) == ["fused", "front", "table", "kitchen"]
    assert len(set(found.values())) == 4
    assert (found["fused"], found["table"]) == (COLORS["fused"], COLORS["table"])


def test_a_comparison_draws_any_modalities_and_leaves_out_what_was_not_scored(
    tmp_path: Path,
) -> None:
    def bars(rows: list[Row]) -> int:
        comparison(rows, tmp_path / "c.png")
        pixels = np.asarray(Image.open(tmp_path / "c.png").convert("RGB")).reshape(-1, 3)
        shades = colors(dict.fromkeys(row.modality for row in rows)).values()
        wanted = [tuple(int(shade[i : i + 2], 16) for i in (1, 3, 5)) for shade in shades]
        # A legend's sample is smaller than a bar.
        return sum(int((pixels == shade).all(axis=1).sum()) > 2000 for shade in wanted)

    names = ["fused", "front", "kitchen", "table"]
    assert bars([Row("gaal", name, 0.5, 0.1, 2) for name in names]) == 4
    assert bars([Row("gaal", n, 0.5 if n != "table" else None, None, 1) for n in names]) == 3
