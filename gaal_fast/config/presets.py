"""Settings of the paper's three data sets, for the tables that ``python -m gaal_fast.data prepare``
writes: section IV-A, and the authors' code where the paper is silent.
"""

from __future__ import annotations

from typing import Any

_Preset = dict[str, dict[str, Any]]


def _published(target: str, size: int, step: int, **data: list[str]) -> _Preset:
    return {
        "data": {
            "image-column": "image_path",
            "target": target,
            "task": "classification",
            "split-column": "split",
            "image-size": size,
            "augment": "paper",
            **data,
        },
        "model": {"image": "resnet50", "width": 2048, "hidden": 2048},
        "method": {"rule": "official"},
        "optim": {
            "name": "adam",
            "lr": 1e-3,
            "weight-decay": 1e-4,
            "schedule": "step",
            "step-size": step,
            "gamma": 0.1,
        },
        "train": {
            "epochs": 500,
            "batch-size": 256,
            "patience": 10,
            "min-delta": 2e-4,
            "select": "accuracy",
            "seed": 2022,
        },
    }


PUBLISHED: dict[str, _Preset] = {
    # The step of 15 epochs stands in a comment of the authors' code.
    "dvm": _published(
        "label",
        128,
        15,
        drop=["Adv_ID"],
        numeric=[
            *("Wheelbase", "Height", "Width", "Length", "Adv_year", "Adv_month", "Reg_year"),
            *("Runned_Miles", "Price", "Seat_num", "Door_num", "Entry_price", "Engine_size"),
        ],
        categorical=["Color", "Bodytype", "Gearbox", "Fuel_type"],
    ),
    "sun": _published("open area", 225, 10, categorical=["*"]),
    "celeba": _published("Attractive", 225, 10, categorical=["*"]),
}
