"""Which runs go on, under which configuration, and what can be refused before any data is read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from gaal_fast.config import COMMAND_LINE, Config, named_plugins
from gaal_fast.errors import UserError
from gaal_fast.runs.folder import COMPARISON, RunFolder, exists_error

# What may differ when a run goes on: how long, where, and where its data lies (which must be the
# same data).
RESUMABLE = frozenset(
    f"train.{name}" for name in ("epochs", "max-steps", "patience", "device", "progress", "seeds")
) | frozenset(f"data.{name}" for name in ("csv", "images", "cache", "cache-dir", "workers"))
_PATHS = ("data.csv", "data.images", "data.cache-dir")


def resumed_config(folder: RunFolder, flags: Mapping[str, str], module: str = "train") -> Config:
    """The configuration of the run to go on with, changed by those flags that leave it the same
    run.

    Args:
        folder: The run.
        flags: The keys given on the command line, dotted.
        module: The command that asks: a comparison goes on with ``compare`` and everything else
            with ``train``.

    Raises:
        UserError: Where another command goes on with this run, or a flag would change it.
    """
    if (owner := "compare" if folder.compared() else "train") != module:
        what = "a comparison" if owner == "compare" else "no comparison"
        raise UserError(f": {folder.path} holds {what}; {folder.how_to_go_on(owner)}", key="resume")
    given = dict(flags)
    for key, value in flags.items():
        if key not in RESUMABLE and key != "plugin":
            raise UserError("cannot change when a run is resumed", key=key)
        if key in _PATHS and value.lower() not in ("none", "null", ""):
            # The paths in the run folder are about the directory that training was started in,
            # these are about this one.
            given[key] = str(Path(value).expanduser().absolute())
    stored = folder.config(named_plugins(given.pop("plugin", None)))
    config = folder.build(
        [(str(folder.path), stored.model_dump(mode="json", by_alias=True)), (COMMAND_LINE, given)]
    )
    if (stored.train.seeds == 1) != (config.train.seeds == 1):
        raise UserError(
            "cannot change between one seed and several when a run is resumed", key="train.seeds"
        )
    return config


def resumed_configs(folder: RunFolder, flags: Mapping[str, str]) -> list[Config]:
    """The configurations of the methods of a comparison that goes on; see ``resumed_config``."""
    values = resumed_config(folder, flags, "compare").model_dump(
        mode="json", by_alias=True, exclude={"method"}
    )
    contents = folder.read_json(COMPARISON)
    options = contents.get("options", {})
    layers = [{"method": options.get(name, {"name": name})} for name in contents["methods"]]
    origin = str(folder.path)
    return [folder.build([(origin, values), (origin, layer)]) for layer in layers]


def check_paths(config: Config, *, resuming: bool = False) -> None:
    """Refuse what needs no data to be seen as wrong, before minutes are spent on reading it.

    Args:
        config: The configuration, with paths that hold from the working directory.
        resuming: Whether its run folder is to be there.

    Raises:
        UserError: Naming the key of a file or folder that is not there, or the run folder that
            cannot be made.
    """
    if config.data.csv is not None and config.data.target is None:
        raise UserError("is needed: the column with the class label", key="data.target")
    for key, kind, path in (
        ("data.csv", "file", config.data.csv),
        ("data.images", "folder", config.data.images),
        *(("data.tables", "file", file) for file in config.data.tables),
        *(("data.embeddings", "file", file) for file in config.data.embeddings),
        ("model.weights", "file", config.model.weights),
        *(("plugin", "file", file) for file in config.plugin),
    ):
        if isinstance(path, Path) and not path.exists():  # weights may be a word
            raise UserError(f": no such {kind}: {path}", key=key)
    if config.run.dir is not None and not resuming:
        _check_new_folder(config.run.dir)


def _check_new_folder(path: Path) -> None:
    if path.exists():
        raise exists_error(path)
    parent = next(p for p in path.absolute().parents if p.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(f": cannot create {path}: cannot write into {parent}", key="run.dir")
