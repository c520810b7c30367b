"""What ``data.json`` of a run folder holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gaal_fast.data import FusionData


def data_facts(data: FusionData) -> dict[str, object]:
    """What predicting needs to know of the data beside its preprocessor, and what says that it is
    the same data.
    """
    values = data.target.dtype.kind == "f"
    task: dict[str, object] = {"class_counts": [] if values else data.class_counts.tolist()}
    if values:
        task = {"targets": int(data.train.target.shape[1])}
    return {
        "fingerprint": data.fingerprint,
        "split": data.split.hash,
        **task,
        "inputs": {
            name: {"kind": spec.kind, "shape": list(spec.shape)}
            for name, spec in data.train.specs.items()
        },
        "warnings": data.warnings,
    }
