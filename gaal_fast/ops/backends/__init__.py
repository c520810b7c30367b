"""Implementations of the public ops, one module per backend, all behind :class:`protocol.Backend`.

``torch`` is the readable reference, ``native`` holds the compiled kernels with one module per
device type, ``triton`` the kernels of ``gaal_fast.kernels``.
"""

from __future__ import annotations
