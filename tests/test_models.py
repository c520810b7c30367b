"""Encoders have the widths and the initialisation of the paper, take local weights, and refuse what
does not fit.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from gaal_fast.config import build
from gaal_fast.errors import UserError
from gaal_fast.methods import build_method
from gaal_fast.models import SmallImageEncoder, TableEncoder, build_image_encoder


@pytest.mark.parametrize(
    ("name", "width", "features"),
    [("small", None, 128), ("small", 40, 40), ("resnet18", None, 512), ("resnet18", 64, 64)],
)
def test_image_encoder_gives_features_of_the_width_it_says(
    name: str, width: int | None, features: int
) -> None:
    encoder, found = build_image_encoder(name, width=width)
    assert found == features
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
        assert torch.equal(encoder.state_dict()[name], value)


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


def test_timm_encoders_are_taken_when_timm_is_there() -> None:
    pytest.importorskip("timm", reason="timm is an optional dependency")
    encoder, features = build_image_encoder("timm:mobilenetv3_small_050")
    assert encoder(torch.rand(2, 3, 64, 64)).shape == (2, features)
    with pytest.raises(UserError, match="timm has no model mobilnet"):
        build_image_encoder("timm:mobilnet")


def test_both_encoders_end_in_one_width_also_when_a_modality_is_alone() -> None:
    def width(name: str) -> int:
        config = build([("test", {"method": {"name": name}, "model": {"image": "resnet18"}})])
        return build_method(config, classes=3, table_features=5).model.head.in_features

    assert {width("gaal"), width("image"), width("table")} == {512}
    assert width("concat") == 1024
