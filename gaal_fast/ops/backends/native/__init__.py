"""Backend ``native``: the compiled kernels of ``csrc/``, one module per device type.

:mod:`cpu` runs on ``gaal_fast._native_cpu``, :mod:`cuda` on ``gaal_fast._native_cuda``. The plan
of a call picks one of them by the device, once.
"""

from __future__ import annotations
