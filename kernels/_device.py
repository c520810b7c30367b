"""What kernels share: the last-program ticket, and the arithmetic of online softmax statistics.

Online statistics of a row. With a reference m (the largest logit seen so far) keep

    r = sum over all classes but one of the largest of e^(x_j - m)
    t = sum_j e^(x_j - m) (x_j - m)

Exactly one copy of the largest logit is left out of r; a further class with the same logit counts
in it with e^0 = 1. The whole sum is s = 1 + r, but it is never stored: a float32 1 + r has lost
every r below 2^-24, and a confident row is nothing but its r.

When the reference moves from m to m', write c = m - m' (never positive). Every term e^(x-m)(x-m)
must become e^(x-m')(x-m'), and x - m' = (x - m) + c, so
e^(x-m')(x-m') = e^c [e^(x-m)(x-m) + c e^(x-m)]. Summed:

    s' = e^c (1 + r)          t' = e^c (t + c (1 + r))

Of two parts, the one with the larger m keeps its r and gains all of the other's s'. A part of
nothing but -inf has m = -inf and r = -1, so that its s is 0. At the end, with
p_j = e^(x_j - m) / s, the entropy (equation (6) of the paper) is

    H = -sum_j p_j log p_j = -sum_j p_j ((x_j - m) - log s) = log(1 + r) - t / (1 + r)

two terms that are not negative, so that nothing cancels. It needs one read of the row, no stored
probability and no second pass. A logit of -inf has e = 0 and contributes 0 to t; e > 0 is tested
before the product so that 0 * (-inf) never appears. While every logit so far is -inf the reference
is taken as 0, for (-inf) - (-inf) would be NaN. NaN and +inf reach r through e^(x - m) whether or
not the hardware maximum drops NaN, and r then makes every result NaN.

The residual of the target, p_y - 1, is minus the sum of the others: -r / (1 + r) where the target
is the largest class, and p_y - 1 itself where it is not, for p_y <= 1/2 there
(``target_residual``). Those of confident rows are so small that their products leave float32, and
they themselves float16: matrix products take them times one power of two for all rows (``lift``).
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def arrive_last(ticket_ptr, total):
    """Count this program as done. True for the last of ``total``, which then sees all their stores.

    The barrier puts the stores of all threads of this program before the ticket; release makes them
    visible to the GPU before the count, acquire orders the last program's loads after it.
    """
    tl.debug_barrier()
    return tl.atomic_add(ticket_ptr, 1, sem="acq_rel", scope="gpu") == total - 1


@triton.jit
def log1p(r):
    """log(1 + r) of r >= 0, relatively accurate however small r is.

    Below 1 it is 2 atanh(z) of z = r / (2 + r) <= 1/3, by its series. Eight terms leave
    (1/9)^8 / 17, below half a unit in the last place. Near 1 a GPU's logarithm is only absolutely
    accurate.
    """
    z = r / (2.0 + r)
    q = z * z
    tail = 1.0 / 13.0 + q * (1.0 / 15.0)
    tail = 1.0 / 9.0 + q * (1.0 / 11.0 + q * tail)
    tail = 1.0 / 3.0 + q * (1.0 / 5.0 + q * (1.0 / 7.0 + q * tail))
    return tl.where(r < 1.0, 2.0 * (z + z * q * tail), tl.log(1.0 + r))


@triton.jit
def rescale(m, r, t, reference):
    """(c, s, t) of a row with maximum m: c = m - ``reference`` <= 0, and its sums against that."""
    c = m - reference
    scale = tl.exp(c)
    s = 1.0 + r
    return c, s * scale, tl.where(scale > 0, scale * (t + c * s), 0.0)


@triton.jit
def reference_of(m):
    """The maximum itself, or 0 while nothing but -inf was seen."""
    return tl.where(m == float("-inf"), 0.0, m)


@triton.jit
def merge_stats(m, r, t, m2, r2, t2):
    """Statistics of the union of two disjoint parts of a row."""
    m_new = tl.maximum(m, m2)
    reference = reference_of(m_new)
    c, s, t = rescale(m, r, t, reference)
    _, s2, t2 = rescale(m2, r2, t2, reference)
    return m_new, tl.where(c == 0, r + s2, s + r2), t + t2


@triton.jit
def add_tile(m, r, t, x):
    """Statistics of rows after one more tile ``x`` [rows, columns], -inf outside the row."""
    m_new = tl.maximum(m, tl.max(x, axis=1))
    reference = reference_of(m_new)
    c, s, t = rescale(m, r, t, reference)
    z = x - reference[:, None]
    e = tl.exp(z)
    # By z, not by x: a largest logit of +inf is no maximum but a broken row.
    largest = z == 0
    ties = tl.sum(largest.to(tl.int32), axis=1).to(tl.float32)
    rest = tl.sum(tl.where(largest, 0.0, e), axis=1)
    # The copy that is left out stands in the earlier tiles, or in this one.
    r = tl.where(c == 0, r + ties, s + (ties - 1.0)) + rest
    return m_new, r, t + tl.sum(tl.where(e > 0, e * z, 0.0), axis=1)


@triton.jit
def finish_stats(m, r, t):
    """(entropy, log s, log-sum-exp) of finished rows.

    NaN for a row that is all -inf or holds NaN or +inf.
    """
    log_s = log1p(r)
    entropy = log_s - t / (1.0 + r)
    lse = tl.where(r > -1.0, m + log_s, float("nan"))
    return entropy, log_s, lse


@triton.jit
def target_residual(x, m, r, scale):
    """p_y - 1 of rows whose target has the logit ``x``, with ``scale`` = 1 / (1 + r).

    NaN for broken rows, all -inf included.
    """
    distance = x - m
    return tl.where(distance == 0, -r * scale, tl.exp(distance) * scale - 1.0)


@triton.jit
def lift(peak):
    """The power of two in [1, 2^96] that brings ``peak`` >= 0 up to [1/2, 1), or as near as it can.

    1 for NaN.
    """
    missing = 126 - ((peak.to(tl.int32, bitcast=True) >> 23) & 0xFF)
    return ((127 + tl.minimum(tl.maximum(missing, 0), 96)) << 23).to(tl.float32, bitcast=True)


@triton.jit
def inverse(power):
    """1 / ``power`` of a power of two from ``lift``, exactly: the GPU's reciprocal need not be."""
    return ((254 << 23) - power.to(tl.int32, bitcast=True)).to(tl.float32, bitcast=True)


@triton.jit
def label_weight(target, class_weights_ptr, valid, Y):
    """Weight of each row's label: its class weight, 1 without weights, 0 for no row.

    NaN for a label outside [0, Y) instead of an error: a check would have to wait for the GPU, and
    a NaN loss cannot be overlooked.
    """
    legal = (target >= 0) & (target < Y)
    if class_weights_ptr is not None:
        weight = tl.load(class_weights_ptr + target, mask=valid & legal, other=0.0).to(tl.float32)
    else:
        weight = tl.full(target.shape, 1.0, tl.float32)
    return tl.where(valid, tl.where(legal, weight, float("nan")), 0.0)
