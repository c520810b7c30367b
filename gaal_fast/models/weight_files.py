"""Files of weights, of which tensors are read and nothing is run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from gaal_fast.errors import UserError

KEY = "model.weights"
# Where in a checkpoint a state dict lies: Lightning's, and those of common training scripts.
_NESTED = ("state_dict", "model_state_dict", "model")


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` file or of a checkpoint of torch.

    Raises:
        UserError: With the key ``model.weights``, where it cannot be read or holds none.
    """
    if not path.is_file():
        raise UserError(f": no such file: {path}", KEY)
    try:
        content: Any = load_file(path) if path.suffix == ".safetensors" else _load(path)
    except (SafetensorError, OSError, EOFError) as error:
        raise UserError(f": cannot read {path}: {first_line(error)}", KEY) from None
    except Exception as error:  # what is no archive fails in zip, in pickle or in torch
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise UserError(f": {path} holds no plain tensors ({reason})", KEY) from None
    for nested in _NESTED:
        if isinstance(content, Mapping) and isinstance(content.get(nested), Mapping):
            content = content[nested]
    tensors = content.items() if isinstance(content, Mapping) else ()
    state = {str(name): value for name, value in tensors if isinstance(value, Tensor)}
    if not state:
        raise UserError(f": {path} holds no state dict", KEY)
    return state


class _Inert:
    """Stands for an object of a class that is not looked for, such as a run's options."""

    def __new__(cls, *_: object, **__: object) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def _load(path: Path) -> object:
    """A checkpoint with ``weights_only``, which imports and calls nothing that the file names.

    Checkpoints of a trainer hold its options beside the tensors. They are left out.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception:
        try:
            names = get_unsafe_globals_in_checkpoint(str(path))
        except Exception:
            names = []
        if not names:
            raise
    with safe_globals([(_Inert, name) for name in names]):
        return torch.load(path, map_location="cpu", weights_only=True)


def first_line(error: Exception) -> str:
    """The first line of an error's message."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")
