"""What a run folder notes of its data, for predicting and for going on."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gaal_fast.data import FusionData


def data_facts(data: FusionData) -> dict[str, object]:
    """What ``data.json`` holds: what says that it is the same data, the target and the inputs."""
    if data.target.dtype.kind == "f":
        target: dict[str, object] = {"targets": int(data.train.target.shape[1])}
    else:
        target = {"class_counts": data.class_counts.tolist()}
    inputs = {
        name: {"kind": spec.kind, "shape": list(spec.shape)}
        for name, spec in data.train.specs.items()
    }
    return {
        "fingerprint": data.fingerprint,
        "split": data.split.hash,
        **target,
        "inputs": inputs,
        "warnings": data.warnings,
    }
