"""An encoder is found in files of any of the usual layouts, and what does not fit is named."""

from __future__ import annotations

import logging
from argparse import Namespace
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from gaal_fast.errors import UserError
from gaal_fast.models import build_image_encoder
from gaal_fast.models.layouts import best_fit
from gaal_fast.models.networks import plain_network

State = dict[str, Tensor]
HEAD = {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
OTHER = {"head.weight": torch.zeros(3, 4), "encoder_tabular.0.weight": torch.zeros(4, 4)}


@pytest.fixture(scope="module")
def resnet() -> State:
    torch.manual_seed(1)
    return dict(plain_network("resnet18").state_dict())


def under(prefix: str, state: State) -> State:
    return {prefix + name: value for name, value in state.items()}


def numbered(state: State) -> State:
    """As ``nn.Sequential(*resnet.children())`` names them."""
    places = {"conv1": "0", "bn1": "1", **{f"layer{n}": str(n + 3) for n in range(1, 5)}}
    return {
        ".".join((places[first], *rest)): value
        for name, value in state.items()
        for first, *rest in [name.split(".")]
    }


def without_counters(state: State) -> State:
    return {n: value for n, value in state.items() if not n.endswith("num_batches_tracked")}


LAYOUTS: dict[str, Callable[[State], object]] = {
    "torchvision or timm": lambda state: {**state, **HEAD},
    "older torchvision": lambda state: {**without_counters(state), **HEAD},
    "DDP": lambda state: under("module.", {**state, **HEAD}),
    "Lightning": lambda state: {
        "epoch": 3, "state_dict": under("model.", {**state, **HEAD}), "hyper_parameters": {"lr": 1}
    },
    "Lightning of DDP": lambda state: {"state_dict": under("model.module.", state)},
    "released code": lambda state: {"state_dict": {**under("encoder_imaging.", state), **OTHER}},
    "released code, whole model": lambda state: {
        "state_dict": {**under("model.imaging_encoder.encoder.", state), **OTHER}
    },
    "numbered children": lambda state: under("encoder.", numbered(state)),
    "with a momentum teacher": lambda state: {
        **under("net.", state), **under("net_teacher.", {n: v * 0 for n, v in state.items()})
    },
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_resnet_is_found_in(layout: str, resnet: State, tmp_path: Path) -> None:
    file = tmp_path / "weights.ckpt"
    torch.save(LAYOUTS[layout](resnet), file)
    encoder, width = build_image_encoder("resnet18", weights=file)
    assert width == 512
    for name, value in without_counters(resnet).items():
        assert torch.equal(encoder.network.state_dict()[name], value), name


def lite_port(state: State) -> State:
    """The names of the PyTorch port of EfficientNet-Lite, block by block."""
    outside = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1"}
    first = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
    other = {
        "conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1",
        "conv_pwl": "_project_conv", "bn3": "_bn2",
    }  # fmt: skip
    blocks = list(dict.fromkeys(n.split(".")[1:3] and tuple(n.split(".")[1:3]) for n in state
                                if n.startswith("blocks.")))  # fmt: skip
    found = {}
    for name, value in state.items():
        parts = name.split(".")
        if parts[0] != "blocks":
            found[".".join((outside[parts[0]], parts[1]))] = value
            continue
        number = blocks.index((parts[1], parts[2]))
        found[f"_blocks.{number}.{(other if number else first)[parts[3]]}.{parts[4]}"] = value
    return found


@pytest.mark.parametrize("prefix", ["", "module."])
def test_an_efficientnet_lite_is_found_under_the_names_of_its_port(
    prefix: str, tmp_path: Path
) -> None:
    state = dict(plain_network("efficientnet-lite1").state_dict())
    file = tmp_path / "lite.pth"
    torch.save(under(prefix, {**lite_port(state), "_fc.weight": torch.zeros(1000, 1280)}), file)
    encoder, _ = build_image_encoder("efficientnet-lite1", weights=file)
    for name, value in state.items():
        assert torch.equal(encoder.network.state_dict()[name], value), name


def test_what_is_not_used_is_said_once_in_a_line(
    resnet: State, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "weights.safetensors"
    save_file({**under("model.", {**resnet, **HEAD}), **OTHER}, file)
    with caplog.at_level(logging.WARNING, "gaal_fast.models.pretrained"):
        for _ in range(2):
            build_image_encoder("resnet18", weights=file)
    assert [record.getMessage() for record in caplog.records] == [
        f'--model.weights: of {file} the classifier on top ("model.fc.bias", "model.fc.weight") and'
        " 2 other tensors are not used; the encoder is what stands under model."
    ]


def test_a_fit_counts_what_is_missing_and_what_has_another_shape(resnet: State) -> None:
    changed = {**resnet, "conv1.weight": torch.zeros(64, 1, 7, 7)}
    del changed["layer4.1.bn2.bias"], changed["layer4.1.bn2.weight"]
    fit = best_fit(resnet, changed)
    assert not fit.whole
    assert fit.missing == ["layer4.1.bn2.weight", "layer4.1.bn2.bias"]
    assert fit.misshapen == {"conv1.weight": ((64, 1, 7, 7), (64, 3, 7, 7))}
    assert best_fit(resnet, {"a": torch.zeros(1)}).found == {}


def test_the_message_says_how_much_does_not_fit_and_what_would(
    resnet: State, tmp_path: Path
) -> None:
    file = tmp_path / "weights.pth"
    torch.save(under("module.", {**resnet, **HEAD}), file)
    with pytest.raises(UserError) as caught:
        build_image_encoder("resnet50", weights=file)
    line = str(caught.value)
    assert line.startswith(f"--model.weights: {file} does not fit resnet50: ")
    assert " of its 318 tensors are missing or of another shape" in line
    assert "missing is layer1.0.conv3.weight" in line
    assert "layer1.0.conv1.weight is (64, 64, 3, 3) there and (64, 64, 1, 1) here" in line
    assert line.endswith("it fits --model.image resnet18")
    assert "\n" not in line


class Hostile:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return open, (str(self.file), "w")


def test_the_objects_of_a_checkpoint_are_neither_built_nor_run(
    resnet: State, tmp_path: Path
) -> None:
    made, file = tmp_path / "made", tmp_path / "weights.ckpt"
    objects = [Namespace(lr=1.0, path=Path("x")), Hostile(made)]
    torch.save({"hyper_parameters": objects, "state_dict": under("model.", resnet)}, file)
    encoder, _ = build_image_encoder("resnet18", weights=file)
    assert torch.equal(encoder.network.conv1.weight, resnet["conv1.weight"])
    assert not made.exists()
    torch.load(file, weights_only=False)
    assert made.exists(), "the file would do it"


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ({"epoch": 3}, "holds no state dict"),
        ({"weights": [torch.zeros(1)]}, "holds no state dict"),
        (defaultdict(list, a=[Namespace()]), r"holds no plain tensors \(UnpicklingError: "),
    ],
    ids=["numbers", "a list", "a class that is not built"],
)
def test_a_file_without_tensors_is_refused(content: object, line: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "weights.ckpt")
    with pytest.raises(UserError, match=rf"^--model\.weights: .*weights\.ckpt {line}"):
        build_image_encoder("resnet18", weights=tmp_path / "weights.ckpt")
