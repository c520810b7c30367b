"""Alternating learning without surgery is ordinary training in turns."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gaal_fast.errors import UserError
from tests.methods.helpers import Steps, build, make_batch


def test_a_turn_is_ordinary_training() -> None:
    """Compare with autograd on a copy."""
    method, plain = build("alternating"), build("alternating")
    batch = make_batch(0)
    method.step(batch, Steps(torch.optim.SGD(method.parameters(), lr=1.0)))
    optimizer = torch.optim.SGD(plain.parameters(), lr=1.0)
    for name in ("image", "table"):
        optimizer.zero_grad(set_to_none=True)
        logits = plain.head(plain.encoders.of(name)(batch.views[name].values))
        nn.functional.cross_entropy(logits, batch.target).backward()
        optimizer.step()
    for a, b in zip(method.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", ["alternating", "gaal"])
def test_order_of_the_turns_is_the_one_asked_for(name: str) -> None:
    method = build(name, order="table,image")
    update = Steps(torch.optim.Adam(method.parameters()))
    method.step(make_batch(0), update)
    assert update.parts == ["table", "image"]


@pytest.mark.parametrize("order", ["image", "image,sound", "image,table,sound"])
def test_the_order_names_every_modality(order: str) -> None:
    with pytest.raises(UserError) as caught:
        build("alternating", order=order)
    message = f"--method.order must name image and table, once each, got {order}"
    assert str(caught.value) == message
