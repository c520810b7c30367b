"""The images of the demo set show what they are to show, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gaal_fast.demo import catalogue, drawing


def test_images_know_only_look_decoration_and_glaze():
    """The figure for images rests on this: the same factors give the same pixels whatever the
    kind.
    """
    items = catalogue.sample_items(30, seed=9)
    none = np.zeros_like(items.maker)
    changed = replace(
        items, kind=(items.kind + 3) % 10, ticks=items.ticks + 5, maker=none, material=none
    )
    for row in range(30):
        pixels = drawing.render_image(items, row)
        assert np.array_equal(pixels, drawing.render_image(changed, row))
        for factor, count in (("look", 10), ("decoration", 4), ("glaze", 8)):
            other = replace(items, **{factor: (getattr(items, factor) + 1) % count})
            difference = np.abs(drawing.render_image(other, row).astype(int) - pixels)
            assert (difference.max(axis=2) > 25).sum() >= 8
