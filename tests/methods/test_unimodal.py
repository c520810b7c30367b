"""One modality alone, whatever it is called."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gaal_fast.errors import UserError
from gaal_fast.tasks import FUSED
from tests.methods.helpers import Steps, build, make_batch, with_rows


@pytest.mark.parametrize(
    ("name", "options", "modality"),
    [("image", {}, "image"), ("table", {}, "table"), ("unimodal", {"modality": "sound"}, "sound")],
)
def test_a_modality_alone_is_ordinary_training(
    name: str, options: dict[str, str], modality: str
) -> None:
    names = ("image", "table", "sound")
    ours, plain = build(name, names, **options), build(name, names, **options)
    assert ours.modalities == [modality]
    batch = make_batch(0, names)
    update = Steps(torch.optim.SGD(ours.parameters(), lr=0.5))
    ours.step(batch, update)
    logits = plain.head(plain.encoders.of(modality)(batch.views[modality].values))
    loss = nn.functional.cross_entropy(logits, batch.target)
    loss.backward()
    torch.optim.SGD(plain.parameters(), lr=0.5).step()
    assert update.parts == [modality]
    torch.testing.assert_close(update.found[0]["loss"], loss.detach())
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    assert set(ours.eval()(batch)) == {modality, FUSED}
    ours.step(with_rows(batch, modality, torch.tensor([4])), update)
    assert len(update.found) == 1, "a single row is passed over"


def test_a_modality_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError) as caught:
        build("unimodal", modality="sond")
    assert str(caught.value) == "--method.modality must be one of image, table, got sond"
    with pytest.raises(UserError, match=r"^--method\.name must be one of table, got image$"):
        build("image", ("table",))
