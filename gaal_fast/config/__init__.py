"""The one typed configuration: every key is a dotted flag (``--method.lambda-image``) and a YAML
key.

Order of precedence, weakest first: defaults, preset, YAML file, flags. Nothing here imports torch,
so that a mistake is answered at once.
"""

from __future__ import annotations

from gaal_fast.config.flags import (
    INFERENCE_FLAGS,
    TABLE_KEYS,
    Parser,
    TableSettings,
    add_config_flags,
    add_table_flags,
    flag_values,
    flags_alone,
    named_plugins,
    plugins_of,
    resolve,
    table_settings,
)
from gaal_fast.config.layers import COMMAND_LINE, PRESETS, build, load_yaml, to_yaml
from gaal_fast.config.methods import MethodEntry, keys, known_methods
from gaal_fast.config.sections import (
    Config,
    DataConfig,
    MethodConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    Section,
    TaskConfig,
    TrainConfig,
)
from gaal_fast.config.values import DEVICE, DEVICE_WORDS, Fraction, Names

__all__ = [
    "COMMAND_LINE",
    "DEVICE",
    "DEVICE_WORDS",
    "INFERENCE_FLAGS",
    "PRESETS",
    "TABLE_KEYS",
    "Config",
    "DataConfig",
    "Fraction",
    "MethodConfig",
    "MethodEntry",
    "ModelConfig",
    "Names",
    "OptimConfig",
    "Parser",
    "RunConfig",
    "Section",
    "TableSettings",
    "TaskConfig",
    "TrainConfig",
    "add_config_flags",
    "add_table_flags",
    "build",
    "flag_values",
    "flags_alone",
    "keys",
    "known_methods",
    "load_yaml",
    "named_plugins",
    "plugins_of",
    "resolve",
    "table_settings",
    "to_yaml",
]
