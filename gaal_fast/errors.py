"""The one exception a command turns into a single line and exit code 2."""

from __future__ import annotations


class UserError(Exception):
    """Bad input. The message is one line that names the argument, column or file at fault."""
