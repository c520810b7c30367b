"""The help page of a command: what it does, the flags that matter, an example, then every flag."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence


def page(parser: argparse.ArgumentParser, leading: Sequence[str], example: str) -> str:
    """The text of ``--help``.

    Args:
        parser: With all of its flags.
        leading: The flags that are shown first, beside their place in the sections.
        example: A whole command line.
    """
    actions = parser._option_string_actions
    formatter = parser._get_formatter()
    formatter.add_text(textwrap.fill(parser.description or "", formatter._width))
    formatter.start_section(None)
    formatter.add_arguments([actions[flag] for flag in leading])
    formatter.end_section()
    if example:
        formatter.add_text(f"example: {example}")
    for group in parser._action_groups:
        formatter.start_section(group.title)
        formatter.add_text(group.description)
        formatter.add_arguments(group._group_actions)
        formatter.end_section()
    return formatter.format_help()
