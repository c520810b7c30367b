"""Triton kernels, one file per operation; installed as ``gaal_fast.kernels``.

Importing this package imports nothing else: Triton loads with the first kernel file. Each file
holds kernels, the fixed heuristics that choose their tile sizes, and one host function that
allocates the outputs and launches. ``_device`` is the arithmetic that kernels share, ``_launch``
what host functions share. Matrices are 2-D tensors whose last dimension is contiguous; rows may
have any stride. ``gaal_fast.ops`` is the public interface.

Names, as in ``gaal_fast.ops``: B rows, Y classes, d features, P guide rows, k selected rows.
"""

from __future__ import annotations
