"""How the gradients of the modalities met, epoch by epoch, from ``steps.csv``."""

from __future__ import annotations

from typing import Any

import numpy as np

from gaal_fast.runs.folder import STEPS, RunFolder

Rows = list[dict[str, Any]]


def by_epoch(folder: RunFolder) -> Rows:
    """Of each epoch and active modality, over its updates with surgery: the mean of cos(g, g_p)
    before it, the share in conflict (below 0), the share that was repaired, and the means of v and
    of the correction's norm as a multiple of the gradient's, v ‖g_p‖ / ‖g‖.
    """
    if not folder.file(STEPS).exists():
        return []
    steps = folder.read_rows(STEPS)
    steps = steps[steps["v"].notna()]
    found: Rows = []
    for (epoch, modality), mine in steps.groupby(["epoch", "modality"], sort=False):
        correction = None
        if {"guide_norm2", "grad_norm2"} <= set(mine):
            sizes = mine[mine["grad_norm2"] > 0]
            ratios = sizes["v"].abs() * np.sqrt(sizes["guide_norm2"] / sizes["grad_norm2"])
            correction = None if ratios.empty else float(ratios.mean())
        cosine = mine["cosine"].dropna()
        found.append(
            {
                "epoch": int(epoch),
                "modality": modality,
                "steps": len(mine),
                "cosine": None if cosine.empty else float(cosine.mean()),
                "conflicting": None if cosine.empty else float((cosine < 0).mean()),
                "projected": float((mine["v"] != 0).mean()),
                "v": float(mine["v"].mean()),
                "correction": correction,
            }
        )
    return found
