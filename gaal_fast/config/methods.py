"""The methods that there are and their options, read from the text of the methods' files.

A method's file imports torch, for which neither ``--help`` nor a wrong flag waits. So the file is
parsed and not run: what ``@method(name)`` stands over is a method, and its class ``Options`` is
built alone, with the names that the file imports from where options are made of.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from gaal_fast.config.sections import Config, MethodConfig, Section
from gaal_fast.config.values import kebab
from gaal_fast.errors import UserError

DEFAULT = "gaal"
_FOLDER = Path(__file__).parents[1] / "methods"
_PACKAGE = "gaal_fast.methods"
# What the options of a method may be made of: these modules import neither torch nor pandas.
_MODULES = ("typing", "collections", "math", "pathlib", "pydantic", "annotated_types")
_CONFIG = "gaal_fast.config"
_BUILT_IN_TYPES = {"bool", "dict", "float", "frozenset", "int", "list", "str", "tuple"}
# Defaults in the files of runs from before each method had options of its own.
_FORMER_DEFAULTS = {"order": ["image", "table"]}
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


@dataclass(frozen=True)
class MethodEntry:
    """A method as its file describes it.

    Attributes:
        name: what ``--method.name`` says.
        file: the file that registers it.
        paper: where the method comes from.
        summary: the first line of its docstring.
        options: its section of the configuration.
    """

    name: str
    file: Path
    paper: str
    summary: str
    options: type[MethodConfig]

    @property
    def built_in(self) -> bool:
        """Whether it is one of the package's own."""
        return self.file.parent == _FOLDER

    @property
    def needs_nothing(self) -> bool:
        """Whether all of its options have defaults."""
        return not any(field.is_required() for field in self.options.model_fields.values())

    @property
    def fields(self) -> dict[str, FieldInfo]:
        """Its options by dotted key, ``method.name`` among them."""
        return {f"method.{kebab(n)}": field for n, field in self.options.model_fields.items()}

    def field(self, key: str) -> FieldInfo | None:
        """The option under a dotted key, also where it is one of a further modality."""
        for stem in self.options.per_modality:
            if key not in self.fields and key.startswith(f"method.{stem}-"):
                return next(f for k, f in self.fields.items() if k.startswith(f"method.{stem}-"))
        return self.fields.get(key)

    def is_default(self, key: str, value: object) -> bool:
        """Whether ``value`` is what the option is without being given."""
        field, name = self.field(key), key.removeprefix("method.")
        if field is None or value == _FORMER_DEFAULTS.get(name):
            return field is not None
        try:
            options = self.options.model_validate({name: value})
        except ValidationError:
            return False
        return bool(options.model_dump(by_alias=True)[name] == field.default)


@lru_cache
def built_in() -> Mapping[str, MethodEntry]:
    """The package's own methods by name, the default one first."""
    found: dict[str, MethodEntry] = {}
    for file in sorted(_FOLDER.glob("*.py")):
        found |= _File.read(file).methods
    return {DEFAULT: found[DEFAULT], **found}


def known_methods(plugins: Sequence[Path] = ()) -> Mapping[str, MethodEntry]:
    """The package's own methods and those of plug-in files.

    Raises:
        UserError: A file that cannot be read, that registers no method, or one that is there
            already.
    """
    found = dict(built_in())
    for file in plugins:
        own = _File.read(file).methods
        if not own:
            raise UserError(f": {file} registers no method with @method(NAME)", key="plugin")
        for name, entry in own.items():
            if name in found:
                other = "the package" if found[name].built_in else found[name].file
                raise UserError(f": {file} registers {name}, as {other} does", key="plugin")
            found[name] = entry
    return found


def owners(key: str, methods: Mapping[str, MethodEntry]) -> list[str]:
    """The methods that take an option."""
    return [name for name, entry in methods.items() if entry.field(key) is not None]


def keys(methods: Mapping[str, MethodEntry] | None = None) -> Iterator[tuple[str, FieldInfo]]:
    """Every dotted key with its field, in the order of the help page, the options of all methods
    among them.
    """
    for section, outer in Config.model_fields.items():
        if section == "method":
            found: dict[str, FieldInfo] = {}
            for entry in (built_in() if methods is None else methods).values():
                found = {**entry.fields, **found}
            yield from found.items()
        elif isinstance(outer.annotation, type) and issubclass(outer.annotation, Section):
            for name, field in outer.annotation.model_fields.items():
                yield f"{section}.{kebab(name)}", field
        else:
            yield section, outer


def digest(file: Path) -> str:
    """The sha256 of a plug-in file, in hex."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


class _File:
    """The classes of one file that have options, and the methods among them."""

    def __init__(self, file: Path, text: str) -> None:
        self.file = file
        self.methods: dict[str, MethodEntry] = {}
        self.classes: dict[str, type[MethodConfig]] = {}
        self._names: dict[str, Any] = {"__name__": f"options of {file.name}"}
        for node in ast.parse(text, str(file)).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                self._import(node)
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                self._assign(node)
            elif isinstance(node, ast.ClassDef):
                self._class(node)

    @staticmethod
    def read(file: Path) -> _File:
        """Raises ``UserError`` where the file is not there or is no Python."""
        try:
            return _parsed(file, file.expanduser().read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f": cannot read {file}: {error.strerror}", key="plugin") from None
        except (SyntaxError, UnicodeDecodeError, ValueError) as error:
            line = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
            reason = error.msg if isinstance(error, SyntaxError) else str(error)
            raise UserError(f": {file} is no Python{line}: {reason}", key="plugin") from None

    def _import(self, node: ast.Import | ast.ImportFrom) -> None:
        if isinstance(node, ast.Import):
            if all(alias.name.split(".")[0] in _MODULES for alias in node.names):
                self._run(node)
            return
        module = node.module or ""
        if module.split(".")[0] in _MODULES or f"{module}.".startswith(f"{_CONFIG}."):
            self._run(node)
        elif f"{module}.".startswith(f"{_PACKAGE}."):
            stem = module.removeprefix(_PACKAGE).lstrip(".") or "*"
            for file in sorted(_FOLDER.glob(f"{stem}.py")):
                if file != self.file:
                    self._classes_of(file, node.names)

    def _classes_of(self, file: Path, wanted: Sequence[ast.alias]) -> None:
        classes = _File.read(file).classes
        for alias in wanted:
            if alias.name in classes:
                stand_in = SimpleNamespace(Options=classes[alias.name])
                self._names[alias.asname or alias.name] = stand_in

    def _assign(self, node: ast.Assign | ast.AnnAssign) -> None:
        if node.value is None:
            return
        names = {part.id for part in ast.walk(node.value) if isinstance(part, ast.Name)}
        if names <= self._names.keys() | _BUILT_IN_TYPES:
            if isinstance(node, ast.AnnAssign):
                node = ast.copy_location(ast.Assign([node.target], node.value), node)
            self._run(node)

    def _class(self, node: ast.ClassDef) -> None:
        options = self._options(node)
        if options is None:
            return
        self.classes[node.name] = options
        self._names[node.name] = SimpleNamespace(Options=options)
        for decorator in node.decorator_list:
            if (named := _registration(decorator)) is not None:
                name, paper = named
                if not _NAME.fullmatch(name):
                    raise UserError(
                        f": {self.file}: a method's name has small letters, digits and hyphens,"
                        f" got {name}",
                        key="plugin",
                    )
                summary = (ast.get_docstring(node) or name).splitlines()[0].rstrip(".")
                self.methods[name] = MethodEntry(name, self.file, paper, summary, options)

    def _options(self, node: ast.ClassDef) -> type[MethodConfig] | None:
        """The class's own ``Options``, or those of the class that it derives from."""
        own = [c for c in node.body if isinstance(c, ast.ClassDef) and c.name == "Options"]
        if own:
            self._run(own[-1], node.name)
            options = self._names.pop("Options")
            if not (isinstance(options, type) and issubclass(options, MethodConfig)):
                raise self._error(node.name, "they are no MethodConfig")
            return options
        for base in node.bases:
            inherited = self._names.get(base.id) if isinstance(base, ast.Name) else None
            if isinstance(inherited, SimpleNamespace):
                found: type[MethodConfig] = inherited.Options
                return found
        return MethodConfig

    def _run(self, node: ast.stmt, what: str = "methods") -> None:
        """Execute one statement, with annotations as they would be without ``__future__``."""
        program = compile(ast.Module([node], []), str(self.file), "exec", dont_inherit=True)
        try:
            exec(program, self._names)
        except Exception as error:
            raise self._error(what, str(error)) from None

    def _error(self, what: str, reason: str) -> UserError:
        message = f"the options of {what} cannot be read without running the file: {reason}"
        return UserError(f": {self.file}: {message}", key="plugin")


@lru_cache(maxsize=256)
def _parsed(file: Path, text: str) -> _File:
    return _File(file, text)


def _registration(decorator: ast.expr) -> tuple[str, str] | None:
    """Name and paper of ``@method("name", paper="...")``; None for another decorator."""
    if not isinstance(decorator, ast.Call):
        return None
    called = decorator.func
    if getattr(called, "attr", getattr(called, "id", None)) != "method":
        return None
    values = {keyword.arg: keyword.value for keyword in decorator.keywords}
    if decorator.args:
        values["name"] = decorator.args[0]
    texts = {
        key: value.value
        for key, value in values.items()
        if isinstance(value, ast.Constant) and isinstance(value.value, str)
    }
    return (texts["name"], texts.get("paper", "")) if "name" in texts else None
