"""Where the inner products of two head gradients are cheaper between samples than between elements.

With G = Aᵀ U and G_p = A_pᵀ U_p, <G, G_p> = Σ_ij (A A_pᵀ)_ij (U U_pᵀ)_ij, and G + v G_p =
Aᵀ U + (v A_p)ᵀ U_p: then G_p is never formed.
"""

from __future__ import annotations


def is_cheaper(pairs: int, classes: int, width: int, break_even: float) -> bool:
    """Whether to work in sample space. Decided from shapes alone, on the host.

    Args:
        pairs: Of samples that are multiplied with each other. Each costs Y + d multiply-adds that
            the direct way does not do.
        classes: Y.
        width: d.
        break_even: What the direct way costs more, in multiply-adds per element of the head.
    """
    return pairs * (classes + width) < break_even * classes * width
