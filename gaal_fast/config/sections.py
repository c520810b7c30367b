"""The typed configuration: one class a section, one field a key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, ValidationInfo, field_validator

from gaal_fast.config.values import (
    DEVICE,
    DEVICE_WORDS,
    DecimalMark,
    Delimiter,
    Encoding,
    Limits,
    Names,
    NamesInText,
    Place,
    Places,
    Seed,
    Texts,
    ThousandsMark,
    each_once,
    kebab,
    names_in,
)
from gaal_fast.errors import UserError, nearest

IMAGE_SIZE = 128  # of training from scratch, in pixels: the paper's


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
        None, description="folder of the images, or a .zip or .tar of them; none: that of the table"
    )
    image_column: NamesInText | None = Field(
        None,
        description=(
            "column with the image's file name, or several, comma-separated, each an input of its"
            " own; none: found by itself"
        ),
    )
    target: str | None = Field(None, description="column with the class label, or with the number")
    task: Literal["auto", "classification", "regression"] = Field(
        "auto",
        description=(
            "auto: regression for a target of many different numbers (more than 20; whole numbers"
            " only with fewer than 20 rows each and gaps between them)"
        ),
    )
    tables: Places = Field(
        [], description="further tables, comma-separated, each an input of its own"
    )
    embeddings: Places = Field(
        [],
        description=(
            "ready features, comma-separated, each an input of its own: .npy, a row for each of the"
            " table's, or tables that the key joins"
        ),
    )
    key: str | None = Field(
        None,
        description=(
            "column that joins the rows of --data.tables and --data.embeddings to those of the"
            " table"
        ),
    )
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
    image_size: int | None = Field(
        None,
        ge=8,
        le=2048,
        description=(
            "images are resized to this many pixels square; none: what pretrained weights were"
            " trained with, else 128"
        ),
    )
    image_resampling: Literal["bilinear", "bicubic"] | None = Field(
        None,
        description=(
            "how images are resized, bilinear or bicubic; none: as pretrained weights were trained"
            " with, else bilinear"
        ),
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

    @property
    def resize(self) -> tuple[int, Literal["bilinear", "bicubic"]]:
        """Pixels a side and resampling, those of training from scratch where they are open."""
        return self.image_size or IMAGE_SIZE, self.image_resampling or "bilinear"

    def image_columns(self, columns: Sequence[str]) -> list[str]:
        """The names in ``image_column`` for a table with these columns, of which one may have a
        comma in its name.
        """
        if self.image_column is None:
            return []
        whole = self.image_column.strip()
        if any(whole == column.strip() for column in columns):
            return [self.image_column]
        return names_in(self.image_column)

    @field_validator("image_column")
    @classmethod
    def _image_columns_each_once(cls, value: str | None) -> str | None:
        if value is not None:
            each_once(names_in(value))
        return value

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
        "resnet18",
        description=(
            "image encoder: small, resnet18, resnet50, efficientnet-lite0 (or 1, 2) or timm:NAME"
        ),
    )
    weights: Place | Literal["imagenet"] | None = Field(
        None,
        description=(
            "pretrained weights of the image encoder: a file, or imagenet for those of its library"
            " or installed package"
        ),
    )
    freeze: bool = Field(False, description="the pretrained image encoder is not trained")
    width: int | None = Field(
        None, ge=1, description="features of both encoders; none: the image encoder's own"
    )
    hidden: int | None = Field(
        None, ge=1, description="hidden width of the table encoder; none: the features' width"
    )
    share_images: bool = Field(
        False, description="one image encoder for all image columns, not one each"
    )

    @field_validator("freeze")
    @classmethod
    def _something_to_freeze(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("weights") is None:
            raise ValueError("needs pretrained weights, --model.weights")
        return value


class TaskConfig(Section):
    loss: Literal["nll", "mse"] = Field(
        "nll",
        description=(
            "regression: Gaussian negative log-likelihood, which predicts a variance too, or half"
            " the squared error"
        ),
    )


class MethodConfig(Section):
    """What every method has; a method's own ``Options`` derive from it.

    Attributes:
        per_modality: stems of options that there is one of for each modality: with ``"lambda"``,
            ``--method.lambda-NAME`` is taken for any NAME. Such a class has ``extra="allow"``.
    """

    per_modality: ClassVar[tuple[str, ...]] = ()

    name: str = Field("gaal", description="how to train")

    def of(self, stem: str, modality: str, default: float) -> float:
        """The option of one modality, such as ``lambda-front``."""
        key = kebab(f"{stem}-{modality}")
        for name in type(self).model_fields:
            if kebab(name) == key:
                return float(getattr(self, name))
        return float((self.model_extra or {}).get(key, default))

    def check_modalities(self, modalities: Sequence[str]) -> None:
        """Refuse an option of a modality that is not there.

        Raises:
            UserError: Naming the flag.
        """
        known = [kebab(name) for name in modalities]
        for key in self.model_extra or {}:
            for stem in self.per_modality:
                name = key.removeprefix(f"{stem}-")
                if name != key and name not in known:
                    message = f": there is no modality {name}{nearest(name, known)}"
                    raise UserError(message, key=f"method.{key}")


def _default_method() -> MethodConfig:
    from gaal_fast.config.methods import DEFAULT, built_in  # it needs the class above

    return built_in()[DEFAULT].options()


class OptimConfig(Section):
    """Optimizer and learning-rate schedule."""

    name: Literal["adam", "adamw", "sgd"] = Field("adam", description="optimizer")
    lr: float = Field(1e-3, gt=0, description="learning rate")
    encoder_lr: float | None = Field(
        None, gt=0, description="learning rate of the pretrained image encoder; none: lr"
    )
    weight_decay: float = Field(1e-4, ge=0, description="weight decay")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of sgd")
    schedule: Literal["step", "cosine", "none"] = Field(
        "step", description="learning-rate schedule, by epoch"
    )
    step_size: int = Field(10, ge=1, description="epochs between two drops of schedule step")
    gamma: float = Field(0.1, gt=0, le=1, description="factor of a drop of schedule step")
    clip_norm: float | None = Field(
        None, gt=0, description="largest norm of the gradient; none: no bound"
    )


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
    select: Literal["auto", "accuracy", "balanced", "r2", "loss"] = Field(
        "auto",
        description=(
            "what chooses the best epoch and stops early: fused validation accuracy, balanced"
            " accuracy or loss, for regression r2 or loss; auto: accuracy or r2"
        ),
    )
    calibrate: bool = Field(
        True,
        description=(
            "fit temperatures on the validation rows, which the probabilities of predict then have"
        ),
    )
    device: str = Field("auto", pattern=f"^({DEVICE})$", description=DEVICE_WORDS)
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="number format of the encoders' forward pass"
    )
    progress: bool = Field(True, description="show progress bars")
    ceilings: bool = Field(
        True, description="fit cheap baselines on the same split too and show their scores"
    )


class RunConfig(Section):
    """What is left on disk."""

    dir: Place | None = Field(
        None, description="new folder for the run; none: runs/NAME-METHOD-TIME"
    )
    examples: int = Field(
        12,
        ge=0,
        le=12,
        description="confident mistakes that the report shows with their cells and images",
    )


class Config(Section):
    """Every key of a training."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    task: TaskConfig = TaskConfig()
    # One of the classes of options that `gaal_fast.config.methods` knows, by its name.
    method: SerializeAsAny[MethodConfig] = Field(default_factory=_default_method)
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    run: RunConfig = RunConfig()
    plugin: Places = Field([], description="Python files with methods of your own, comma-separated")

    @field_validator("optim")
    @classmethod
    def _something_with_a_rate(cls, value: OptimConfig, info: ValidationInfo) -> OptimConfig:
        model = info.data.get("model")
        if value.encoder_lr is not None and model is not None:
            key = "optim.encoder-lr"  # a rule about two sections, so pydantic would name neither
            if model.weights is None:
                raise UserError("needs pretrained weights, --model.weights", key=key)
            if model.freeze:
                raise UserError("has no effect with --model.freeze", key=key)
        return value
