"""A pretrained image encoder stays as it is, or learns more slowly than the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gaal_fast.config import build
from gaal_fast.engine.features import features
from gaal_fast.engine.optim import build_optimizer, build_scheduler
from gaal_fast.models import ImageEncoder, ImagePreprocessing, SmallImageEncoder
from tests.engine.drawn import drawn_classes
from tests.engine.test_trainer import CPU, trainer


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Weights of the small encoder, with statistics that are not those it begins with."""
    torch.manual_seed(7)
    network = SmallImageEncoder(16)
    network(torch.randn(64, 3, 8, 8))
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


def images_of(method: nn.Module) -> list[ImageEncoder]:
    return [module for module in method.modules() if isinstance(module, ImageEncoder)]


@pytest.mark.parametrize(
    "method",
    [
        {"name": "gaal"},
        {"name": "gaal", "guide": "cached"},
        {"name": "alternating"},
        {"name": "concat"},
        {"name": "unimodal", "modality": "front"},
    ],
    ids=lambda value: "-".join(value.values()),
)
def test_a_frozen_encoder_keeps_every_bit(
    tmp_path: Path, weights: Path, method: dict[str, str]
) -> None:
    model = {"weights": str(weights), "freeze": True}
    one = trainer(drawn_classes(), tmp_path / "run", model=model, method=method)
    held = {id(p) for group in one.optimizer.param_groups for p in group["params"]}
    head = one.method.head.weight.detach().clone()
    one.fit()
    given = torch.load(weights, weights_only=True)
    encoders = images_of(one.method)
    assert len(encoders) == (1 if method["name"] == "unimodal" else 2)
    for encoder in encoders:
        for name, value in encoder.network.state_dict().items():
            assert torch.equal(value, given[name]), name
        assert not held & {id(p) for p in encoder.network.parameters()}
    assert not torch.equal(head, one.method.head.weight), "the rest is trained"


def test_a_frozen_encoder_has_no_graph_and_its_projection_is_trained() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 5), nn.BatchNorm1d(5), nn.Dropout())
    projection = nn.Linear(5, 2)
    encoder = ImageEncoder(network, projection=projection, pretrained=True, frozen=True).train()
    assert not any(module.training for module in network.modules())
    assert projection.training
    pixels = torch.randint(0, 256, (6, 3, 4, 4), dtype=torch.uint8)
    encoder(pixels).sum().backward()
    assert projection.weight.grad is not None
    assert all(p.grad is None for p in network.parameters())
    bare = ImageEncoder(network, pretrained=True, frozen=True)
    assert bare(pixels).grad_fn is None
    assert torch.equal(bare(pixels), bare(pixels)), "no dropout"


@pytest.mark.parametrize("schedule", ["step", "cosine", "none"])
def test_the_encoders_rate_reaches_its_parameters_and_no_others(
    tmp_path: Path, weights: Path, schedule: str
) -> None:
    optim = {"encoder-lr": 1e-4, "lr": 1e-2, "schedule": schedule, "step-size": 1}
    model = {"weights": str(weights), "width": 16}
    # Four steps are two of three epochs: at its end a cosine is zero for both.
    train = {"max-steps": 4}
    one = trainer(drawn_classes(60), tmp_path / "run", model=model, optim=optim, train=train)
    rest, slow = one.optimizer.param_groups
    networks = {id(p) for e in images_of(one.method) for p in e.network.parameters()}
    assert {id(p) for p in slow["params"]} == networks
    assert {id(p) for p in rest["params"]} == {
        id(p) for p in one.method.parameters() if id(p) not in networks
    }
    assert (rest["lr"], slow["lr"]) == (1e-2, 1e-4)
    one.fit()
    assert rest["lr"] / slow["lr"] == pytest.approx(100), "a schedule is for both"
    assert (rest["lr"] < 1e-2) == (schedule != "none")


def test_the_encoders_rate_is_what_it_moves_by(weights: Path) -> None:
    torch.manual_seed(0)
    encoder = ImageEncoder(SmallImageEncoder(16), projection=nn.Linear(16, 3), pretrained=True)
    given = {"optim.encoder-lr": 1e-5, "optim.lr": 1e-2, "optim.weight-decay": 0}
    config = build([("test", {**given, "model.weights": str(weights)})]).optim
    optimizer = build_optimizer([encoder], config)
    build_scheduler(optimizer, config, 3)
    before = {name: value.clone() for name, value in encoder.named_parameters()}
    encoder(torch.randint(0, 256, (8, 3, 8, 8), dtype=torch.uint8)).square().sum().backward()
    optimizer.step()

    def moved(name: str, value: Tensor) -> float:
        return (value.detach() - before[name]).abs().max().item()

    # The first step of Adam is as long as its rate.
    for name, value in encoder.named_parameters():
        rate = 1e-5 if name.startswith("network.") else 1e-2
        assert moved(name, value) == pytest.approx(rate, rel=0.05), name


def test_without_a_rate_of_its_own_there_is_one_group(tmp_path: Path, weights: Path) -> None:
    one = trainer(drawn_classes(60), tmp_path / "run", model={"weights": str(weights)})
    [group] = one.optimizer.param_groups
    assert len(group["params"]) == len(list(one.method.parameters()))


def test_a_run_from_pretrained_weights_goes_on_bit_for_bit(tmp_path: Path, weights: Path) -> None:
    options: dict[str, Any] = {
        "model": {"weights": str(weights), "width": 16}, "optim": {"encoder-lr": 1e-4}
    }  # fmt: skip
    data = drawn_classes(160)
    whole = trainer(data, tmp_path / "whole", **options)
    whole.fit()
    trainer(data, tmp_path / "parts", train={"max-steps": 5}, **options).fit()
    parts = trainer(data, tmp_path / "parts", **options)
    parts.resume()
    parts.fit()
    for name, value in whole.method.state_dict().items():
        assert torch.equal(value, parts.method.state_dict()[name]), name


def test_features_are_the_encoders_of_the_rows_that_have_an_image() -> None:
    data = drawn_classes(50)
    dataset = data.dataset(data.split.val)
    encoder = ImageEncoder(SmallImageEncoder(16), ImagePreprocessing()).train()
    found = features(encoder, dataset, "front", device=CPU, batch_size=4, progress=False)
    assert encoder.training, "the mode is put back"
    present = dataset.present()["front"]
    assert found.rows.tolist() == present.nonzero()[0].tolist()
    assert 0 < len(found.rows) < len(dataset) or present.all()
    view = dataset.__getitems__(list(range(len(dataset)))).views["front"]
    with torch.no_grad():
        expected = encoder.eval()(view.values).numpy()
    assert found.values.dtype == expected.dtype
    torch.testing.assert_close(found.values, expected, rtol=1e-5, atol=1e-5)
