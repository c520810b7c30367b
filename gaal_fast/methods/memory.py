"""Tensors that a method keeps from one batch to the next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn


class Memory(nn.Module):
    """Tuples of tensors by name, which belong to the state of the method that holds them.

    Unlike a buffer, an entry may come, go and change its shape: a checkpoint is read with whatever
    entries it has.
    """

    def keep(self, name: str, *tensors: Tensor) -> None:
        """Keep ``tensors`` under ``name``, in place of those before."""
        self.forget(name)
        for place, tensor in enumerate(tensors):
            self._buffers[f"{name}/{place}"] = tensor.detach()

    def forget(self, name: str) -> None:
        """Keep nothing under ``name``."""
        for key in self._of(name):
            del self._buffers[key]

    def __contains__(self, name: str) -> bool:
        return bool(self._of(name))

    def __getitem__(self, name: str) -> tuple[Tensor, ...]:
        """The tensors kept under ``name``; none where there are not any."""
        return tuple(value for key in self._of(name) if (value := self._buffers[key]) is not None)

    def _of(self, name: str) -> list[str]:
        return [key for key in self._buffers if key.rpartition("/")[0] == name]

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *_: Sequence[str] | dict[str, Any] | bool
    ) -> None:
        self._buffers.clear()
        for key, value in state_dict.items():
            if key.startswith(prefix):
                self._buffers[key.removeprefix(prefix)] = value.clone()
