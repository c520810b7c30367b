"""What each column of a table is for, as far as it is declared or names images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import pandas as pd

from gaal_fast.config import DataConfig
from gaal_fast.data.images.find import find_image_column
from gaal_fast.data.images.folder import ImageFolder
from gaal_fast.data.issues import some
from gaal_fast.data.tables.read import expand_columns, find_column, require_column
from gaal_fast.errors import UserError


@dataclass(frozen=True)
class Roles:
    """The columns that have a part to play, and what is declared of the others.

    Attributes:
        target: The column to predict.
        images: The images' file names.
        split: Says which part a row is in, or None.
        group: Whose equal values stay in one part, or None.
        dropped: Left out on request.
        numeric: Declared to be numbers.
        categorical: Declared to be categories.
        key: Joins further tables, or None.
        more_images: Further columns of image names, which are not used.
    """

    target: str
    images: tuple[str, ...] = ()
    split: str | None = None
    group: str | None = None
    key: str | None = None
    dropped: tuple[str, ...] = ()
    numeric: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    more_images: tuple[str, ...] = ()

    @property
    def taken(self) -> frozenset[str]:
        """The columns that cannot be features."""
        named = (self.target, *self.images, self.split, self.group, self.key)
        return frozenset(name for name in named if name is not None)


def find_roles(
    frame: pd.DataFrame,
    config: DataConfig,
    folder: ImageFolder | None,
    source: object,
    further: Sequence[pd.DataFrame] = (),
) -> Roles:
    """The roles that a configuration declares, and the column of image names found in ``folder``.

    Args:
        frame: The table.
        config: Names the columns; blanks around a name do not matter.
        folder: Where image names would be files. None: no column is looked for.
        source: The table, for messages.
        further: Other tables, to whose columns declared names may belong.

    Raises:
        UserError: An unknown column, a column with two roles, or several that name images.
    """
    columns = list(frame.columns)

    def named(name: str | None) -> str | None:
        return None if name is None else require_column(columns, name, source)

    if config.target is None:
        raise UserError("is needed: the column to predict", key="data.target")
    target = require_column(columns, config.target, source)
    images = tuple(str(named(name)) for name in config.image_columns(columns))
    roles = Roles(
        target, images, named(config.split_column), named(config.group_column), named(config.key)
    )
    if target in (*images, roles.split, roles.group, roles.key):
        raise UserError(
            f'column "{target}" is the target; it cannot be the image, split or group column as'
            " well"
        )
    roles = _with_declared(roles, columns, config, source, further)
    if folder is None:
        return roles
    images, more = _image_columns(frame, roles, folder, source)
    return replace(roles, images=images, more_images=more)


def further_roles(frame: pd.DataFrame, config: DataConfig, key: str, source: object) -> Roles:
    """The roles of the columns of a further table, in which there is only a key.

    Args:
        frame: The table.
        config: Declares columns; names that the table does not have belong to another one.
        key: Its key column.
        source: The table, for messages.

    Raises:
        UserError: A column is declared twice.
    """
    columns = list(frame.columns)
    own = {
        option: [name for name in getattr(config, option) if _answers(name, columns)]
        for option in ("drop", "numeric", "categorical")
    }
    return _with_declared(
        Roles("", key=key), columns, config.model_copy(update=own), source, further=()
    )


def _answers(name: str, columns: Sequence[str]) -> bool:
    """Whether a declared name, or pattern, means a column."""
    if find_column(columns, name) is not None:
        return True
    return any(mark in name for mark in "*?[") and any(fnmatchcase(c, name) for c in columns)


def _with_declared(
    roles: Roles,
    columns: Sequence[str],
    config: DataConfig,
    source: object,
    further: Sequence[pd.DataFrame],
) -> Roles:
    def expand(names: Iterable[str], option: str) -> tuple[str, ...]:
        own = [
            name
            for name in names
            if _answers(name, columns)
            or not any(_answers(name, list(other.columns)) for other in further)
        ]
        return tuple(expand_columns(columns, own, option, source, roles.taken))

    dropped = expand(config.drop, "--data.drop")
    numeric = expand(config.numeric, "--data.numeric")
    categorical = expand(config.categorical, "--data.categorical")
    twice = sorted(set(numeric) & set(categorical))
    if twice:
        raise UserError(f"columns declared both numeric and categorical: {some(twice)}")
    twice = sorted(set(dropped) & set(numeric + categorical))
    if twice:
        raise UserError(f"columns both dropped and declared numeric or categorical: {some(twice)}")
    return replace(roles, dropped=dropped, numeric=numeric, categorical=categorical)


def _image_columns(
    frame: pd.DataFrame, roles: Roles, folder: ImageFolder, source: object
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The columns of image names, declared or the one that is found, and the further ones."""
    # Rows of one image may be the groups.
    taken = (roles.taken - {roles.group}) | {*roles.dropped, *roles.numeric, *roles.categorical}
    free = [name for name in frame.columns if name not in taken]
    chosen = roles.images[0] if roles.images else None
    found, more = find_image_column(frame[free], folder, source, chosen)
    return roles.images or (() if found is None else (found,)), tuple(more)
