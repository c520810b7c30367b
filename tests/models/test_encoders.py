"""Encoders have the widths and the initialisation of the paper, take local weights, and refuse what
does not fit.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from gaal_fast.config import ModelConfig, build
from gaal_fast.data.batch import InputSpec
from gaal_fast.errors import UserError
from gaal_fast.methods import build_method
from gaal_fast.models import (
    ImageEncoder,
    ImagePreprocessing,
    SmallImageEncoder,
    TableEncoder,
    build_encoders,
    build_image_encoder,
    image_width,
)
from gaal_fast.tasks import Classification

IMAGE, TABLE = InputSpec("image", (3, 16, 16)), InputSpec("table", (5,))


@pytest.mark.parametrize(
    ("name", "width", "features"),
    [("small", None, 128), ("small", 40, 40), ("resnet18", None, 512), ("resnet18", 64, 64)],
)
def test_image_encoder_gives_features_of_the_width_it_says(
    name: str, width: int | None, features: int
) -> None:
    encoder, found = build_image_encoder(name, width=width)
    assert found == features
    assert width is not None or image_width(name) == features
    assert encoder(torch.rand(2, 3, 32, 32)).shape == (2, features)


def test_resnet50_is_the_papers_2048_wide_network() -> None:
    with torch.device("meta"):
        encoder, features = build_image_encoder("resnet50")
    assert features == 2048
    assert sum(p.numel() for p in encoder.parameters()) == 23_508_032, (
        "25 557 032 less the classifier's 2 049 000"
    )


def test_table_encoder_is_the_papers_perceptron() -> None:
    torch.manual_seed(0)
    encoder = TableEncoder(300, 2048)
    kinds = [type(layer) for layer in encoder.layers]
    assert kinds == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
    first, last = encoder.layers[0], encoder.layers[3]
    assert (first.in_features, first.out_features, last.in_features, last.out_features) == (
        300,
        2048,
        2048,
        2048,
    )
    assert first.weight.std().item() == pytest.approx((2 / 300) ** 0.5, rel=0.01)
    assert last.weight.std().item() == pytest.approx((2 / 2048) ** 0.5, rel=0.01)
    assert not first.bias.any()
    assert encoder(torch.randn(4, 300)).min() < 0, "no activation at the output"


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_pretrained_weights_come_from_a_local_file(tmp_path: Path, suffix: str) -> None:
    source = SmallImageEncoder()
    state = {
        name: value
        for name, value in source.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    file = tmp_path / f"weights{suffix}"
    save_file(state, file) if suffix == ".safetensors" else torch.save(
        {**state, "fc.weight": torch.zeros(1000, 128)}, file
    )
    encoder, _ = build_image_encoder("small", weights=file)
    for name, value in state.items():
        assert torch.equal(encoder.network.state_dict()[name], value)


def test_weights_that_do_not_fit_are_refused_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    torch.save(SmallImageEncoder(64).state_dict(), file)
    with pytest.raises(UserError, match=r"--model\.weights: .* does not fit"):
        build_image_encoder("small", weights=file)
    file.write_bytes(b"not a zip file")
    with pytest.raises(UserError, match=r"--model\.weights: "):
        build_image_encoder("small", weights=file)
    torch.save({"layer": print}, file)
    with pytest.raises(UserError, match=r"--model\.weights: "):
        build_image_encoder("small", weights=file)


def test_a_state_of_before_encoders_normalized_is_taken_with_imagenets_statistics() -> None:
    network, projection = SmallImageEncoder(16), nn.Linear(16, 4)
    half = ImagePreprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    for former, own in (
        (network, ImageEncoder(SmallImageEncoder(16), half)),
        (
            nn.Sequential(network, projection),
            ImageEncoder(SmallImageEncoder(16), half, nn.Linear(16, 4)),
        ),
    ):
        holder = nn.ModuleDict({"image": own})
        holder.load_state_dict({f"image.{n}": v for n, v in former.state_dict().items()})
        assert own.mean.tolist() == pytest.approx([0.485, 0.456, 0.406])
        assert own.std.tolist() == pytest.approx([0.229, 0.224, 0.225])
        images = torch.randn(2, 3, 16, 16)
        assert torch.equal(own.eval()(images), former.eval()(images))
        again = ImageEncoder(SmallImageEncoder(16), half, own.projection)
        again.load_state_dict(ImageEncoder(network, half, own.projection).state_dict())
        assert again.mean.tolist() == [0.5] * 3, "its own are kept"


def test_timm_encoders_are_taken_when_timm_is_there() -> None:
    pytest.importorskip("timm", reason="timm is an optional dependency")
    encoder, features = build_image_encoder("timm:mobilenetv3_small_050")
    assert image_width("timm:mobilenetv3_small_050") == features
    assert encoder(torch.rand(2, 3, 64, 64)).shape == (2, features)
    with pytest.raises(UserError, match="timm has no model mobilnet"):
        build_image_encoder("timm:mobilnet")


def test_both_encoders_end_in_one_width_also_when_a_modality_is_alone() -> None:
    def width(name: str) -> int:
        config = build([("test", {"method": {"name": name}, "model": {"image": "resnet18"}})])
        inputs = {"image": IMAGE, "table": TABLE}
        method = build_method(config, Classification("abc", np.ones(3)), inputs)
        return int(method.head.in_features)

    assert {width("gaal"), width("image"), width("table")} == {512}
    assert width("concat") == 1024


def test_images_have_encoders_of_their_own_or_share_one() -> None:
    inputs = {"front": IMAGE, "kitchen": IMAGE, "facts": TABLE}
    own = build_encoders(inputs, ModelConfig(image="small", width=8))
    assert own.of("front") is not own.of("kitchen")
    assert sorted({name.split(".")[0] for name in own.state_dict()}) == [
        "facts",
        "front",
        "kitchen",
    ]
    shared = build_encoders(inputs, ModelConfig(image="small", width=8, share_images=True))
    assert shared.of("front") is shared.of("kitchen")
    assert {name.split(".")[0] for name in shared.state_dict()} == {"facts", "images"}
    for encoders in (own, shared):
        assert encoders("kitchen", torch.rand(2, 3, 16, 16)).shape == (2, 8)
        assert encoders("facts", torch.rand(2, 5)).shape == (2, 8)


def test_a_modality_may_have_any_name() -> None:
    names = ["front.jpg", "values", "Grundriß 2", "images", "a/b"]
    encoders = build_encoders(dict.fromkeys(names, TABLE), ModelConfig(image="small", width=8))
    assert len(set(map(id, map(encoders.of, names)))) == len(names)
    for name in names:
        assert encoders(name, torch.rand(2, 5)).shape == (2, 8)


def test_encoders_compute_in_half_precision_and_hand_on_float32() -> None:
    encoders = build_encoders({"table": TABLE}, ModelConfig(image="small", width=8))
    seen: list[torch.dtype] = []
    encoders.of("table").register_forward_hook(lambda _m, _i, out: seen.append(out.dtype))
    exact = encoders("table", torch.ones(2, 5))
    encoders.autocast = torch.bfloat16
    rounded = encoders("table", torch.ones(2, 5))
    assert seen == [torch.float32, torch.bfloat16]
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(exact, rounded, rtol=0.05, atol=0.05)
