"""EfficientNet-Lite is timm's, tensor by tensor and bit by bit, and pads as TensorFlow does."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gaal_fast.models.efficientnet_lite import VARIANTS, EfficientNetLite, _SameConv2d


def shaken(module: nn.Module) -> nn.Module:
    """The module with statistics of batch normalization that are not those it begins with."""
    torch.manual_seed(0)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.uniform_(-0.2, 0.2)
            layer.running_var.uniform_(0.5, 1.5)
    return module.eval()


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_has_the_tensors_and_the_features_of_timms(variant: str) -> None:
    timm = pytest.importorskip("timm", reason="timm is an optional dependency")
    name = "tf_" + variant.replace("-", "_")
    reference = shaken(timm.create_model(name, pretrained=False, num_classes=0))
    own = EfficientNetLite(variant).eval()
    state = reference.state_dict()
    assert [(n, v.shape) for n, v in own.state_dict().items()] == [
        (n, v.shape) for n, v in state.items()
    ]
    own.load_state_dict(state)
    for side in (64, 65, 71):  # where the odd zero of the padding is and is not needed
        images = torch.randn(2, 3, side, side)
        with torch.no_grad():
            expected = reference(images)
            torch.testing.assert_close(own(images), expected, rtol=1e-5, atol=1e-5)
        assert expected.std() > 0.01, "features that tell images apart"


@pytest.mark.parametrize(
    ("side", "edges"), [(6, (0, 1)), (7, (1, 1))], ids=["odd zero", "even zeros"]
)
def test_same_padding_puts_the_odd_zero_below_and_right(side: int, edges: tuple[int, int]) -> None:
    convolution = _SameConv2d(1, 1, 3, stride=2)
    image = torch.rand(1, 1, side, side)
    before, after = edges
    padded = nn.functional.pad(image, (before, after, before, after))
    expected = nn.functional.conv2d(padded, convolution.weight, stride=2)
    assert torch.equal(convolution(image), expected)
    assert expected.shape[-1] == -(-side // 2)


def test_the_variants_have_the_sizes_that_are_published() -> None:
    with torch.device("meta"):
        sizes = {
            name: sum(p.numel() for p in EfficientNetLite(name).parameters()) for name in VARIANTS
        }
    # With the 1 281 000 of a classifier for 1000 classes: 4.65 M, 5.42 M and 6.09 M.
    assert {n: round((size + 1_281_000) / 1e6, 2) for n, size in sizes.items()} == {
        "efficientnet-lite0": 4.65, "efficientnet-lite1": 5.42, "efficientnet-lite2": 6.09
    }  # fmt: skip
