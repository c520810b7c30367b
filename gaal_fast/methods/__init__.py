"""How a batch becomes parameter updates: one file a method.

What is named here is imported at its first use: it needs torch, for which ``--help`` does not wait.
A method of your own is a file that does what these do::

    from gaal_fast.methods import Method, method

    @method("mine")
    class Mine(Method): ...

trained with ``python -m gaal_fast.train --plugin mine.py --method.name mine``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gaal_fast.methods.alternating import Alternating
    from gaal_fast.methods.base import SMALLEST_BATCH, Method, Phase, Update, method
    from gaal_fast.methods.build import build_method, find_method
    from gaal_fast.methods.concat import Concat
    from gaal_fast.methods.gaal import Gaal
    from gaal_fast.methods.memory import Memory
    from gaal_fast.methods.shared_head import SharedHead
    from gaal_fast.methods.unimodal import Unimodal

_PLACES = {
    **dict.fromkeys(("SMALLEST_BATCH", "Method", "Phase", "Update", "method"), "base"),
    **dict.fromkeys(("build_method", "find_method"), "build"),
    "Alternating": "alternating",
    "Concat": "concat",
    "Gaal": "gaal",
    "Memory": "memory",
    "SharedHead": "shared_head",
    "Unimodal": "unimodal",
}

__all__ = [
    "SMALLEST_BATCH",
    "Alternating",
    "Concat",
    "Gaal",
    "Memory",
    "Method",
    "Phase",
    "SharedHead",
    "Unimodal",
    "Update",
    "build_method",
    "find_method",
    "method",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
    globals()[name] = value
    return value
