"""From the configuration to a method with its model."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from gaal_fast.config import Config, ModelConfig
from gaal_fast.config.methods import MethodEntry, digest, known_methods
from gaal_fast.data.batch import InputSpec
from gaal_fast.errors import UserError
from gaal_fast.methods.base import Method, registered
from gaal_fast.tasks import Task


def build_method(
    config: Config, task: Task, inputs: Mapping[str, InputSpec], model: ModelConfig | None = None
) -> Method:
    """The method ``config.method.name`` with freshly initialized weights (from torch's global
    random state).

    Args:
        config: the resolved configuration, whose plug-in files can be found.
        task: what is predicted.
        inputs: kind and shape of every modality of the data, in order.
        model: in place of ``config.model``.

    Raises:
        UserError: The data lacks a modality that the method is to use, or an option does not fit.
    """
    kind = find_method(config.method.name, config.plugin)
    options = kind.Options.model_validate(config.method.model_dump())
    taken = {name: inputs[name] for name in kind.takes(options, list(inputs))}
    return kind(options, task, taken, model or config.model)


def modalities_of(config: Config, available: Sequence[str]) -> list[str]:
    """Those of the data's modalities that the configured method takes."""
    kind = find_method(config.method.name, config.plugin)
    return kind.takes(kind.Options.model_validate(config.method.model_dump()), available)


def find_method(name: str, plugins: Sequence[Path] = ()) -> type[Method]:
    """The class of a method, from its file.

    Args:
        name: of a built-in method, or of one in ``plugins``.
        plugins: files of the user's own methods.

    Raises:
        UserError: A plug-in that cannot be run.
    """
    entry = known_methods(plugins)[name]
    if entry.built_in:
        return registered(import_module(f"{__package__}.{entry.file.stem}").__name__, name)
    return registered(_run(entry), name)


def _run(entry: MethodEntry) -> str:
    """Run a plug-in file, once for its contents, as a module; returns the module's name."""
    file = entry.file.expanduser().absolute()
    module_name = f"gaal_fast_plugin_{file.stem}_{digest(file)[:12]}"
    if module_name in sys.modules:
        return module_name
    spec = spec_from_file_location(module_name, file)
    assert spec is not None and spec.loader is not None
    module = sys.modules[module_name] = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[module_name]
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(file)]
        place = f", line {lines[-1]}" if lines else ""
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f": {entry.file}{place}: {reason}", key="plugin") from error
    return module_name
