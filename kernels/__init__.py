"""Triton kernels, one file per operation; installed as ``gaal_fast.kernels``.

Importing this package imports nothing else: Triton loads with the first kernel file. Each file holds the kernels, the fixed
heuristics that choose their tile sizes, and one host function that allocates the outputs and launches. Kernels are functions of
2-D tensors whose last dimension is contiguous; rows may have any stride. ``gaal_fast.ops`` is the public interface.
"""
