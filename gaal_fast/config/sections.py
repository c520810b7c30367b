"""The typed configuration: one class a section, one field a key."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic.fields import FieldInfo

from gaal_fast.config.values import (
    DEVICE,
    DEVICE_WORDS,
    DecimalMark,
    Delimiter,
    Encoding,
    Fraction,
    Limits,
    Names,
    Place,
    Seed,
    Texts,
    ThousandsMark,
    kebab,
)


class Section(BaseModel):
    """One group of keys. Unknown keys and impossible values are refused."""

    model_config = ConfigDict(
        extra="forbid",
        alias_generator=kebab,
        populate_by_name=True,
        allow_inf_nan=False,
        str_min_length=1,
    )


class DataConfig(Section):
    """What is learned from, and how it is read and divided."""

    csv: Place | None = Field(
        None, description="table with one row per example: CSV, TSV or Parquet; none: the demo set"
    )
    images: Place | None = Field(
        None, description="folder of the images; none: the folder of the table"
    )
    image_column: str | None = Field(
        None, description="column with the image's file name; none: found by itself"
    )
    target: str | None = Field(None, description="column with the class label")
    encoding: Encoding | None = Field(
        None, description="encoding of the table's text, such as cp1252; none: found by itself"
    )
    delimiter: Delimiter | None = Field(
        None,
        description=(
            "mark between the table's fields: comma, semicolon, tab, pipe, space or a"
            " character; none: found by itself"
        ),
    )
    decimal: DecimalMark | None = Field(
        None,
        description="decimal mark of the table's numbers: point or comma; none: found by itself",
    )
    thousands: ThousandsMark | None = Field(
        None,
        description=(
            "mark between thousands: point, comma, space, apostrophe or no; none: found by itself"
        ),
    )
    missing_values: Texts = Field(
        [], description="cells that hold no value, beside empty ones, comma-separated"
    )
    numeric: Names = Field([], description="columns to be read as numbers, comma-separated")
    categorical: Names = Field([], description="columns to be read as categories, comma-separated")
    drop: Names = Field([], description="columns not to be used, comma-separated")
    split_column: str | None = Field(
        None, description="column that says train, val or test; none: a random split"
    )
    group_column: str | None = Field(
        None, description="column whose equal values stay in one part of the split"
    )
    val_fraction: float = Field(0.1, gt=0, lt=1, description="share of the rows for validation")
    test_fraction: float = Field(
        0.2, ge=0, lt=1, description="share of the rows for the test; 0: no test part"
    )
    split_seed: Seed = Field(0, description="seed of the random split")
    image_size: int = Field(
        128, ge=8, le=2048, description="images are resized to this many pixels square"
    )
    image_range: Limits | None = Field(
        None,
        description=(
            "LOW,HIGH: values that become 0 and 255 in images of more than 8 bits; "
            "none: found in the training images"
        ),
    )
    augment: Literal["paper", "light", "none"] = Field(
        "paper", description="augmentation of training images"
    )
    rare_classes: Literal["error", "drop", "train"] = Field(
        "error",
        description=(
            "classes with too few rows to divide: refuse them, leave their rows out, or only train"
            " on them"
        ),
    )
    date_order: Literal["auto", "day-month", "month-day"] = Field(
        "auto",
        description=(
            "order in dates such as 3/4/2024; auto: what the columns tell, else month-day for"
            " slashes"
        ),
    )
    class_weights: Literal["none", "balanced"] = Field(
        "none", description="weigh classes by inverse frequency"
    )
    min_category_count: int = Field(
        1, ge=1, description="rarer levels of a category are folded into one"
    )
    cache: Literal["auto", "none", "ram", "disk"] = Field(
        "auto", description="where decoded images are kept"
    )
    cache_dir: Place | None = Field(None, description="folder of the disk cache")
    workers: int | None = Field(None, ge=0, description="loader processes; none: as many as help")

    @field_validator("thousands")
    @classmethod
    def _unlike_the_decimal_mark(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and value == info.data.get("decimal"):
            raise ValueError("is --data.decimal as well")
        return value

    @field_validator("test_fraction")
    @classmethod
    def _rows_left_to_train_on(cls, value: float, info: ValidationInfo) -> float:
        if value + info.data.get("val_fraction", 0.0) >= 1:
            raise ValueError("leaves no rows to train on beside --data.val-fraction")
        return value


class ModelConfig(Section):
    """The encoders."""

    image: str = Field(
        "resnet18", description="image encoder: small, resnet18, resnet50 or timm:NAME"
    )
    weights: Place | None = Field(
        None, description="file with pretrained weights of the image encoder"
    )
    width: int | None = Field(
        None, ge=1, description="features of both encoders; none: the image encoder's own"
    )
    hidden: int | None = Field(
        None, ge=1, description="hidden width of the table encoder; none: the features' width"
    )


class MethodConfig(Section):
    """How they are trained together."""

    name: Literal["gaal", "alternating", "concat", "image", "table"] = Field(
        "gaal",
        description=(
            "gaal; alternating: no surgery; concat: joint training; image or table: one modality"
            " alone"
        ),
    )
    rule: Literal["paper", "official"] = Field(
        "paper", description="equation (5), or what the authors' code does"
    )
    # Chosen on validation rows (bench/README.md); a cosine means the same at every size of
    # gradient, which a plain epsilon does not.
    epsilon: float = Field(0.3, ge=0, description="alignment margin of equation (3)")
    relative: bool = Field(
        True,
        description=(
            "epsilon is a cosine: multiply it by both norms; false: equation (3) as it stands"
        ),
    )
    margin: float = Field(0.75, ge=0, description="lower bound of v on conflict, rule official")
    ridge: float = Field(1e-3, ge=0, description="added to the guide's squared norm, rule official")
    max_correction: float | None = Field(
        None, gt=0, description="largest correction as a multiple of the gradient"
    )
    lambda_image: Fraction = Field(
        0.5, description="share of image rows, most uncertain first, that guide the table"
    )
    lambda_table: Fraction = Field(
        0.5, description="share of table rows, most uncertain first, that guide the image"
    )
    guide: Literal["fresh", "cached"] = Field(
        "fresh", description="guiding features: newest weights, or last half-step"
    )
    order: Names = Field(
        ["image", "table"], description="order in which the modalities take their turn"
    )
    surgery: bool = Field(True, description="repair the head's gradient (Table II, CGS)")
    selection: bool = Field(
        True, description="guide by the most uncertain rows only (Table II, UGG)"
    )

    @field_validator("order")
    @classmethod
    def _every_modality_has_a_turn(cls, value: list[str]) -> list[str]:
        if sorted(value) != ["image", "table"]:
            raise ValueError("must name image and table, once each")
        return value


class OptimConfig(Section):
    """Optimizer and learning-rate schedule."""

    name: Literal["adam", "adamw", "sgd"] = Field("adam", description="optimiser")
    lr: float = Field(1e-3, gt=0, description="learning rate")
    weight_decay: float = Field(1e-4, ge=0, description="weight decay")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of sgd")
    schedule: Literal["step", "cosine", "none"] = Field(
        "step", description="learning-rate schedule, by epoch"
    )
    step_size: int = Field(10, ge=1, description="epochs between two drops of schedule step")
    gamma: float = Field(0.1, gt=0, le=1, description="factor of a drop of schedule step")


class TrainConfig(Section):
    """How long, how often and where."""

    epochs: int = Field(50, ge=1, description="largest number of passes over the training rows")
    max_steps: int | None = Field(None, ge=1, description="stop after this many batches in all")
    batch_size: int = Field(256, ge=2, description="rows a batch")
    seed: Seed = Field(0, description="seed of weights, order and augmentation")
    seeds: int = Field(
        1, ge=1, description="train this many times, seeds counted up from train.seed"
    )
    patience: int = Field(10, ge=1, description="epochs without improvement before stopping early")
    min_delta: float = Field(
        2e-4, ge=0, description="smallest gain of what select measures that counts"
    )
    select: Literal["accuracy", "balanced", "loss"] = Field(
        "accuracy",
        description=(
            "what chooses the best epoch and stops early: fused validation accuracy, balanced"
            " accuracy or loss"
        ),
    )
    device: str = Field("auto", pattern=f"^({DEVICE})$", description=DEVICE_WORDS)
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="number format of the encoders' forward pass"
    )
    progress: bool = Field(True, description="show progress bars")


class RunConfig(Section):
    """What is left on disk."""

    dir: Place | None = Field(
        None, description="new folder for the run; none: runs/NAME-METHOD-TIME"
    )


class Config(Section):
    """Every key of a training."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    method: MethodConfig = MethodConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    run: RunConfig = RunConfig()


def keys() -> Iterator[tuple[str, FieldInfo]]:
    """Every dotted key with its field, in the order of the help page."""
    for section, outer in Config.model_fields.items():
        for name, field in outer.annotation.model_fields.items():
            yield f"{section}.{kebab(name)}", field
