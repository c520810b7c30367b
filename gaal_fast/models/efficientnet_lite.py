"""EfficientNet-Lite 0, 1 and 2 (TensorFlow's EfficientNet without squeeze-and-excite and with
ReLU6), as feature extractors with the parameter names of timm's ``tf_efficientnet_lite0``.
"""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn.functional import pad

FEATURES = 1280  # of the last convolution, which no variant scales
_STEM = 32
_EPS = 1e-3
# Kernel, stride, expansion, output channels and blocks of each stage of EfficientNet-B0 (Tan and
# Le, arXiv 1905.11946, Table 1), of which the variants are multiples.
_STAGES = (
    (3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3), (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4), (3, 1, 6, 320, 1),
)  # fmt: skip
# Variant: factors of width and of depth, pixels a side that the weights were trained with.
VARIANTS = {
    "efficientnet-lite0": (1.0, 1.0, 224),
    "efficientnet-lite1": (1.0, 1.1, 240),
    "efficientnet-lite2": (1.1, 1.2, 260),
}


class EfficientNetLite(nn.Module):
    """Input ``[B, 3, H, W]`` float, output ``[B, 1280]``, pooled.

    Args:
        variant: one of ``VARIANTS``.
    """

    def __init__(self, variant: str) -> None:
        super().__init__()
        width, depth, _ = VARIANTS[variant]
        self.conv_stem = _SameConv2d(3, _STEM, 3, stride=2)
        self.bn1 = nn.BatchNorm2d(_STEM, _EPS)
        self.act = nn.ReLU6(inplace=True)
        inward, stages = _STEM, []
        for place, (kernel, stride, expansion, channels, repeats) in enumerate(_STAGES):
            # Neither the first nor the last stage is repeated more often in a deeper variant.
            ends = place in (0, len(_STAGES) - 1)
            repeats = repeats if ends else math.ceil(repeats * depth)
            outward, blocks = _rounded(channels * width), list[nn.Module]()
            for number in range(repeats):
                own = stride if number == 0 else 1
                if expansion == 1:
                    blocks.append(_Separable(inward, outward, kernel, own))
                else:
                    blocks.append(_Inverted(inward, outward, kernel, own, expansion))
                inward = outward
            stages.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*stages)
        self.conv_head = nn.Conv2d(inward, FEATURES, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(FEATURES, _EPS)

    def forward(self, images: Tensor) -> Tensor:
        values = self.blocks(self.act(self.bn1(self.conv_stem(images))))
        return self.act(self.bn2(self.conv_head(values))).mean((2, 3))


class _SameConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow's "SAME": an output for every ``stride`` pixels, and the
    odd zero below and right, where torch has it above and left.
    """

    def __init__(
        self, inward: int, outward: int, kernel: int, *, stride: int, groups: int = 1
    ) -> None:
        super().__init__(inward, outward, kernel, stride, groups=groups, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        height, width = (
            max((-(-side // step) - 1) * step + kernel - side, 0)
            for side, step, kernel in zip(
                input.shape[-2:], self.stride, self.kernel_size, strict=True
            )
        )
        edges = (width // 2, width - width // 2, height // 2, height - height // 2)
        return super().forward(pad(input, edges))


class _Separable(nn.Module):
    """Depthwise and pointwise convolution."""

    def __init__(self, inward: int, outward: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.residual = stride == 1 and inward == outward
        self.conv_dw = _SameConv2d(inward, inward, kernel, stride=stride, groups=inward)
        self.bn1 = nn.BatchNorm2d(inward, _EPS)
        self.act = nn.ReLU6(inplace=True)
        self.conv_pw = nn.Conv2d(inward, outward, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outward, _EPS)

    def forward(self, input: Tensor) -> Tensor:
        values = self.bn2(self.conv_pw(self.act(self.bn1(self.conv_dw(input)))))
        return values + input if self.residual else values


class _Inverted(nn.Module):
    """Expansion, depthwise convolution and projection, with the input added where shapes agree."""

    def __init__(self, inward: int, outward: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inward * expansion
        self.residual = stride == 1 and inward == outward
        self.conv_pw = nn.Conv2d(inward, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner, _EPS)
        self.act = nn.ReLU6(inplace=True)
        self.conv_dw = _SameConv2d(inner, inner, kernel, stride=stride, groups=inner)
        self.bn2 = nn.BatchNorm2d(inner, _EPS)
        self.conv_pwl = nn.Conv2d(inner, outward, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outward, _EPS)

    def forward(self, input: Tensor) -> Tensor:
        values = self.act(self.bn1(self.conv_pw(input)))
        values = self.bn3(self.conv_pwl(self.act(self.bn2(self.conv_dw(values)))))
        return values + input if self.residual else values


def _rounded(channels: float) -> int:
    """The nearest multiple of 8 that is not more than a tenth smaller (the reference's rule)."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest
