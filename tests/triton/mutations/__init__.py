"""Remove each mask, guard, cast, order and fence of the kernels in turn, and see a test fail.

``python -m tests.triton.mutations`` applies every change of this folder to a copy of the kernels,
one at a time, runs the tests named beside it against the copy, and prints which change was caught
by which test. It takes some minutes and exits with 1 if a change survives. ``test_mutations.py``
keeps the lists in step with the sources.

The interpreter runs the programs one after another: a missing fence cannot fail there, so those
changes are read in the PTX instead. Seven removals are not listed because nothing changes: the
barrier before the ticket (Triton 3.6 to 3.9 puts one before every releasing atomic), the one before
the residuals of the selected rows are read (the sort has had its own), the two casts of loaded
logits to float32 (Triton promotes a float16 operand beside a float32 one), the -1 that an empty
part begins with, and the zeros for absent rows in the two peaks (a maximum may drop their NaN, and
does). They say what is meant.
"""

from __future__ import annotations

from tests.triton.mutations import (
    device,
    entropy_topk,
    guided_direct,
    guided_forward,
    guided_gram,
    guided_shared,
    linear_ce_grad,
    project,
    rule,
    softmax_stats,
)

MUTATIONS = [
    *device.MUTATIONS,
    *softmax_stats.MUTATIONS,
    *entropy_topk.MUTATIONS,
    *linear_ce_grad.MUTATIONS,
    *rule.MUTATIONS,
    *project.MUTATIONS,
    *guided_forward.MUTATIONS,
    *guided_shared.MUTATIONS,
    *guided_direct.MUTATIONS,
    *guided_gram.MUTATIONS,
]
