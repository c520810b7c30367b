"""What every command shares: one line and exit code 2 for bad input, new files, and a device.

Nothing here imports torch before a device is asked for, so that a wrong flag is answered at once.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING

from gaal_fast.config import DEVICE, DEVICE_WORDS, Parser
from gaal_fast.errors import UserError
from gaal_fast.files import WriteError

if TYPE_CHECKING:
    import torch

BAD_INPUT = 2
INTERRUPTED = 130
_NO_ROOM = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS}

Main = Callable[[Sequence[str]], int]
Entry = Callable[..., int]


class _Printed(logging.Handler):
    """Prints what a library module says while it works."""

    def emit(self, record: logging.LogRecord) -> None:
        warn(record.getMessage())


_PRINTED = _Printed(logging.WARNING)
# What a former run folder holds that its method does not take.
logging.getLogger("gaal_fast.config").addHandler(_PRINTED)


def command(*, flags: Mapping[str, str] | None = None) -> Callable[[Main], Entry]:
    """Turn ``main(argv) -> exit code`` into an entry point that answers bad input with one line.

    A ``UserError``, and an ``OSError`` such as a full disk, is one line on standard error and exit
    code 2, after the warnings that were found before it.

    Args:
        flags: How this command spells a dotted key where that is not ``--KEY``.
    """

    def decorate(main: Main) -> Entry:
        @wraps(main)
        def entry(argv: Sequence[str] | None = None) -> int:
            # One handler, however often.
            for library in (
                "gaal_fast.data.loader",
                "gaal_fast.engine",
                "gaal_fast.models.pretrained",
            ):
                logging.getLogger(library).addHandler(_PRINTED)
            try:
                code = main(sys.argv[1:] if argv is None else argv)
                sys.stdout.flush()
                return code
            except UserError as error:
                warn_all(error.warnings)
                return _refuse(error.line(flags or {}))
            except KeyboardInterrupt:
                print("interrupted", file=sys.stderr)
                return INTERRUPTED
            except BrokenPipeError:  # the reader of our output went away, as `head` does
                _give_up_stdout()
                return 0
            except OSError as error:
                return _refuse(os_error_words(error))

        return entry

    return decorate


def _refuse(line: str) -> int:
    print(f"error: {' '.join(line.split())}", file=sys.stderr)
    try:
        sys.stdout.flush()
    except OSError:  # it is the output that cannot be written: Python would say so again at exit
        _give_up_stdout()
    return BAD_INPUT


def _give_up_stdout() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def os_error_words(error: OSError) -> str:
    """What the operating system refused, and for which file."""
    reason = error.strerror or str(error) or type(error).__name__
    what = "cannot write" if isinstance(error, WriteError) or error.errno in _NO_ROOM else ""
    return " ".join(str(part) for part in (what, error.filename) if part) + f": {reason}"


def warn(message: str) -> None:
    """Print one warning, as one line."""
    print(f"warning: {' '.join(message.split())}", file=sys.stderr)


def warn_all(messages: Iterable[str]) -> None:
    """Print several warnings, one line each."""
    for message in messages:
        warn(message)


def check_new_file(key: str, path: Path | None) -> None:
    """Refuse an output file that is there already or that cannot be written, before any work is
    done.

    Args:
        key: The flag that named it, without its dashes.
        path: The file; None where there is none to be written.

    Raises:
        UserError: With the key.
    """
    if path is None:
        return
    if os.path.lexists(path):
        raise UserError(f": {path} exists and is not overwritten", key=key)
    folder = path.absolute().parent
    if not folder.is_dir():
        raise UserError(f": no such folder: {folder}", key=key)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f": cannot write into {folder}", key=key)


def add_inference_flags(parser: Parser) -> None:
    """Add ``--device`` and ``--workers``, for every command that reads with a trained run."""
    parser.add_argument(
        "--device", default="auto", metavar="NAME", help=f"{DEVICE_WORDS} (default auto)"
    )
    parser.add_argument(
        "--plugin", metavar="FILES", help="files of your own methods that the run was trained with"
    )
    parser.add_argument("--workers", metavar="N", help="loader processes (default: as in training)")


def worker_count(text: str | None) -> int | None:
    """The value of ``--workers``; raises ``UserError`` for what is no number of processes."""
    if text is None:
        return None
    if not text.isdecimal() or not text.isascii():
        raise UserError(f"must be a whole number, 0 or more, got {text}", key="data.workers")
    return int(text)


def pick_device(name: str) -> torch.device:
    """The device to compute on; ``auto`` is the GPU where torch sees one.

    Raises:
        UserError: With the key ``train.device``, for a name that is none or a GPU that is not
            there.
    """
    if not re.fullmatch(DEVICE, name):
        raise UserError(f"must be {DEVICE_WORDS}, got {name}", key="train.device")
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda"):
        count = torch.cuda.device_count()
        if not count:
            raise UserError(f"{name}: torch sees no GPU here", key="train.device")
        # Compared before torch reads it: a large number would overflow there.
        if int(name.partition(":")[2] or 0) >= count:
            there = "is only 1 GPU" if count == 1 else f"are only {count} GPUs"
            raise UserError(f"{name}: there {there}", key="train.device")
    return torch.device(name)
