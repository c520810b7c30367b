"""The ops by themselves: which rows is a classifier least sure of, and what do they ask for?

``python examples/uncertain_rows.py``. The same calls run on a GPU if the tensors lie there.
"""

from __future__ import annotations

import torch

from gaal_fast import ops

ROWS, FEATURES, CLASSES, CHOSEN = 4096, 64, 100, 16


def main() -> None:
    """Choose rows by entropy, and move a gradient until it no longer opposes theirs."""
    torch.manual_seed(0)
    features, label = torch.randn(ROWS, FEATURES), torch.randint(CLASSES, (ROWS,))
    logits = features @ torch.randn(FEATURES, CLASSES)

    # One read of the logits gives entropy (in nats), log-sum-exp and cross-entropy of every row.
    entropy, _, loss = ops.softmax_stats(logits, label)
    assert loss is not None  # only without labels
    print(f"mean entropy {entropy.mean():.3f}, mean loss {loss.mean():.3f}")

    # The most uncertain rows, for instance to have them labeled next. Ties go to the smaller index.
    highest, index = ops.entropy_topk(logits, CHOSEN)
    print(f"highest entropies from {highest[0]:.3f} to {highest[-1]:.3f}, rows {index.tolist()}")

    # What a linear head would learn from these rows alone, and from all of them.
    guide = ops.linear_ce_grad(features, logits, label, index)
    gradient = ops.linear_ce_grad(features, logits, label)

    # Equation (5), in place: the nearest gradient g with <g, guide> at least half of what it would
    # be if both pointed the same way.
    projection = ops.project_(gradient, guide, epsilon=0.5, relative=True)
    after = sum((g * p).sum() for g, p in zip(gradient, guide, strict=True))
    norms = (projection.grad_norm2 * projection.guide_norm2).sqrt()
    before, after = projection.dot / norms, after / norms
    print(f"agreement before {before:.3f}, v {projection.v:.4f}, agreement after {after:.3f}")


if __name__ == "__main__":
    main()
