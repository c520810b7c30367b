"""The kinds of value that a key of the configuration can hold, and how a text becomes one."""

from __future__ import annotations

import codecs
import math
import re
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field

_Item = TypeVar("_Item", str, Path)


def kebab(name: str) -> str:
    """A field's name as a key and a flag spell it."""
    return name.replace("_", "-")


# One name of a list and the comma or the end after it. A name in double quotes may hold commas, and
# a quote twice is one.
_NAME = re.compile(r'\s*(?:"((?:[^"]|"")*)"|([^",][^,]*)|)\s*(?:,|\Z)', re.DOTALL)


def split_commas(value: object) -> object:
    """``names_in`` a text. A list, as YAML may hold, is taken as it is."""
    return names_in(value) if isinstance(value, str) else value


def names_in(text: str) -> list[str]:
    """The names in a text, by the rules of a line of CSV."""
    names: list[str] = []
    place = 0
    while place < len(text):
        found = _NAME.match(text, place)
        if found is None:
            raise ValueError(
                "must be names with commas between them; a name that holds a comma is written as"
                ' "a,b"'
            )
        place = found.end()
        quoted, plain = found.groups()
        if quoted is not None:
            names.append(quoted.replace('""', '"'))
        elif plain and plain.strip():
            names.append(plain.strip())
    return names


def _joined_names(value: object) -> object:
    """A list of names, as YAML may hold, as the text that ``split_commas`` takes apart."""
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        return value
    quoted = (
        '"' + name.replace('"', '""') + '"' if set(name) & set(',"') else name for name in value
    )
    return ",".join(quoted)


def _not_empty(value: object) -> object:
    # An empty path would be the working directory, and comes of a shell variable that is not set.
    if value == "":
        raise ValueError("must not be empty")
    return value


# Of two letters and more: one letter is a drive. A path object has lost the second slash.
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/{1,3}(?=[^/])")
AN_ADDRESS = "is a web address, not a path: download it and name the file"


def address_in(path: object) -> str | None:
    """The web address that a text, or the path made of one, is; None for a path."""
    found = _ADDRESS.match(str(path)) if isinstance(path, str | Path) else None
    if found is None or Path(found[1] + ":").exists():
        return None
    return f"{found[1]}://{str(path)[found.end() :]}"


def _no_address(value: object) -> object:
    if address_in(value) is not None:
        raise ValueError(AN_ADDRESS)
    return value


def each_once(value: list[_Item]) -> list[_Item]:
    if len(set(value)) != len(value):
        raise ValueError("names one thing twice")
    return value


def _mark(value: object) -> object:
    """A mark by its name ("tab", "comma") or as it is."""
    if not isinstance(value, str):
        return value
    return _MARKS.get(value.strip().lower(), value)


def _thousands(value: object) -> object:
    return "" if value is False or value in ("no", "off", "false") else _mark(value)


def _one_character(value: str) -> str:
    if len(value) != 1 or value in '"\r\n':
        raise ValueError("must be one character or one of comma, semicolon, tab, pipe, space")
    return value


def _known_encoding(value: str) -> str:
    try:
        name = codecs.lookup(value).name
        b"a".decode(name)
    except (LookupError, UnicodeError):
        raise ValueError(
            "is no encoding that Python knows, such as utf-8, cp1252 or gb18030"
        ) from None
    return name


def _texts(value: object) -> object:
    """The items of a list as texts: YAML reads -999 as a number."""
    return (
        [str(item) if isinstance(item, int | float) else item for item in value]
        if isinstance(value, list)
        else value
    )


_MARKS = {
    **{
        "comma": ",",
        "semicolon": ";",
        "tab": "\t",
        "\\t": "\t",
        "pipe": "|",
        "space": " ",
        "spaces": " ",
        "blank": " ",
    },
    **{"point": ".", "dot": ".", "period": ".", "apostrophe": "'", "colon": ":"},
}


def _two_numbers(value: object) -> object:
    """``"LOW,HIGH"`` or a pair of numbers as a pair of floats, the lower one first."""
    parts = value.split(",") if isinstance(value, str) else value
    try:
        if not isinstance(parts, list | tuple):
            raise TypeError
        low, high = (float(part) for part in parts)
    except (TypeError, ValueError):
        raise ValueError("must be two numbers, LOW,HIGH") from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError("must be two finite numbers, LOW,HIGH, the lower one first")
    return low, high


Names = Annotated[list[str], BeforeValidator(split_commas), AfterValidator(each_once)]
Texts = Annotated[
    list[str], BeforeValidator(_texts), BeforeValidator(split_commas), AfterValidator(each_once)
]
Place = Annotated[Path, BeforeValidator(_not_empty), BeforeValidator(_no_address)]
Places = Annotated[list[Place], BeforeValidator(split_commas), AfterValidator(each_once)]
NamesInText = Annotated[str, BeforeValidator(_joined_names)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Limits = Annotated[tuple[float, float], BeforeValidator(_two_numbers)]
# The largest seed that torch, NumPy and scikit-learn all take.
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
DEVICE = r"auto|cpu|cuda|cuda:(0|[1-9]\d*)"
DEVICE_WORDS = "auto, cpu, cuda or cuda:N"
Encoding = Annotated[str, AfterValidator(_known_encoding)]
Delimiter = Annotated[str, BeforeValidator(_mark), AfterValidator(_one_character)]
DecimalMark = Annotated[Literal[".", ","], BeforeValidator(_mark)]
ThousandsMark = Annotated[Literal["", ".", ",", " ", "'"], BeforeValidator(_thousands)]
