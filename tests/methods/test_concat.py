"""Joint learning is one step on the concatenation."""

from __future__ import annotations

import torch
from torch import nn

from gaal_fast.tasks import FUSED
from tests.methods.helpers import Steps, build, make_batch, with_rows


def test_joint_learning_is_one_step_on_the_concatenation() -> None:
    batch, ours, plain = make_batch(5), build("concat", seed=2), build("concat", seed=2)
    update = Steps(torch.optim.SGD(ours.parameters(), lr=0.5))
    ours.step(batch, update)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.5)
    features = [plain.encoders.of(n)(batch.views[n].values) for n in ("image", "table")]
    loss = nn.functional.cross_entropy(plain.head(torch.cat(features, dim=1)), batch.target)
    loss.backward()
    optimizer.step()
    assert update.parts == [FUSED]
    torch.testing.assert_close(update.found[0]["loss"], loss.detach())
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_unimodal_outputs_add_up_to_the_fused_one() -> None:
    method = build("concat").eval()
    outputs = method(make_batch(5))
    torch.testing.assert_close(outputs["image"] + outputs["table"], outputs[FUSED])


def test_only_rows_that_have_something_count() -> None:
    batch, method = make_batch(6), build("concat")
    some = with_rows(with_rows(batch, "image", torch.tensor([1, 3])), "table", torch.tensor([3, 4]))
    update = Steps(torch.optim.SGD(method.parameters(), lr=0.1))
    same = build("concat")
    method.step(some, update)
    seen = torch.tensor([1, 3, 4])
    expected = nn.functional.cross_entropy(same(some)[FUSED][seen], some.target[seen])
    torch.testing.assert_close(update.found[0]["loss"], expected.detach())
    one = torch.tensor([2])
    method.step(with_rows(with_rows(batch, "image", one), "table", one), update)
    assert len(update.found) == 1, "a batch in which no modality has two rows is passed over"
