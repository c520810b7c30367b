"""What every command shares: one line and exit code 2 for bad input, and the choice of a device."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from functools import wraps

import torch

from gaal_fast.errors import UserError

BAD_INPUT = 2
INTERRUPTED = 130


def command(main: Callable[[Sequence[str]], int]) -> Callable[..., int]:
    """Turn ``main(argv) -> exit code`` into an entry point that answers a ``UserError`` with one line on standard error."""

    @wraps(main)
    def entry(argv: Sequence[str] | None = None) -> int:
        try:
            return main(sys.argv[1:] if argv is None else argv)
        except UserError as error:
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            return BAD_INPUT
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return INTERRUPTED
        except BrokenPipeError:  # the reader of our output went away, as `head` does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0

    return entry


def warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr)


def pick_device(name: str) -> torch.device:
    """``auto`` is the GPU where torch sees one. Raises ``UserError`` for a GPU that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if not count:
            raise UserError(f"--train.device {name}: torch sees no GPU here")
        if (device.index or 0) >= count:
            raise UserError(f"--train.device {name}: there are only {count} GPUs")
    return device
