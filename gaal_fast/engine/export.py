"""A finished run as one graph that needs nothing of ours: raw inputs in, predictions out."""

from __future__ import annotations

import builtins
import io
import keyword
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from gaal_fast.data import TablePreprocessor
from gaal_fast.data.batch import Batch, View
from gaal_fast.data.embeddings import load_embeddings
from gaal_fast.data.reading import Reading
from gaal_fast.data.sides import TABLE, EmbeddingScale
from gaal_fast.data.tables.fitted import LARGEST_FEATURE, MISSING_CODE, FittedTable
from gaal_fast.engine.inference import TrainedRun
from gaal_fast.engine.precision import set_precision
from gaal_fast.errors import UserError
from gaal_fast.methods import Method
from gaal_fast.models.table_inputs import EmbeddingInputs, TableInputs
from gaal_fast.runs.analysis import CALIBRATION
from gaal_fast.runs.export_meaning import meaning_of
from gaal_fast.runs.exported import BATCH, Format, Input, Output
from gaal_fast.tasks import FUSED

PRESENT, OUTPUT = "present", "predictions"
_NEEDS = {"pt2": (), "onnx": ("onnx", "onnxscript")}
_CHECK_NEEDS = {"pt2": (), "onnx": ("onnxruntime",)}
# What an argument of ``forward`` cannot be called, or what tracing would rename.
_RESERVED = frozenset({"self", *keyword.kwlist, *dir(builtins)})
# What every torch has, beside the arithmetic on sizes.
_OWN_OPS = frozenset({"aten", "prim", "prims"})


@dataclass(frozen=True)
class Exportable:
    """A run that is to be exported.

    Attributes:
        run: in float32 on the CPU.
        preprocessors: by modality, of the tables that the model takes.
        fitted: what each has learned.
        scales: by modality, of the embeddings that the model takes.
        inputs: of the graph, in order.
        temperatures: of the predictions, by the modalities they are made from, joined by ``+``;
            none where the run keeps none.
    """

    run: TrainedRun
    preprocessors: Mapping[str, TablePreprocessor]
    fitted: Mapping[str, FittedTable]
    scales: Mapping[str, EmbeddingScale]
    inputs: Sequence[Input]
    temperatures: Mapping[str, float]

    @classmethod
    def of(cls, run: TrainedRun) -> Exportable:
        """From an opened run, whose encoders compute in float32 from then on."""
        set_precision(run.method, "fp32")
        path, specs = run.folder.path, run.method.inputs
        preprocessors = {
            name: TablePreprocessor.load(path, "" if name == TABLE else name)
            for name, spec in specs.items()
            if spec.kind == "table"
        }
        fitted = {name: one.fitted() for name, one in preprocessors.items()}
        kept = run.folder.file(CALIBRATION).is_file()
        temperatures = run.folder.read_json(CALIBRATION)["temperature"] if kept else {}
        kinds = {name: spec.kind for name, spec in specs.items()}
        scales = {n: one for n, one in load_embeddings(path).items() if kinds.get(n) == "embedding"}
        inputs = list(_inputs(run.method, fitted))
        return cls(run, preprocessors, fitted, scales, inputs, temperatures)

    @property
    def method(self) -> Method:
        """The model."""
        return self.run.method

    def temperature_of(self, used: str) -> float:
        """That of a prediction from these modalities, joined by ``+``, or from ``none``; a set that
        was not fitted has that of all.
        """
        everything = self.temperatures.get("+".join(self.method.modalities), 1.0)
        return 1.0 if used == "none" else self.temperatures.get(used, everything)

    def meaning(self, form: Format) -> dict[str, Any]:
        """What the file beside the graph says."""
        folder, task = self.run.folder, self.run.task
        dtype = str(task.readout(torch.zeros(1, task.outputs)).dtype).removeprefix("torch.")
        return meaning_of(
            form,
            self.inputs,
            Output(OUTPUT, dtype, task.readout_columns),
            type(task).__name__.lower(),
            folder.preprocessor().schema,
            Reading.load(folder.path),
            {name: (one.schema, self.fitted[name]) for name, one in self.preprocessors.items()},
            scales=self.scales,
            resampling=self.run.config.data.resize[1],
        )


def _inputs(method: Method, fitted: Mapping[str, FittedTable]) -> Iterable[Input]:
    taken = {PRESENT, OUTPUT}

    def name_of(*words: str) -> str:
        name = re.sub(r"\W", "_", "_".join(words), flags=re.ASCII)
        if not name.isidentifier() or name in _RESERVED:
            name = f"input_{name}"
        free = next(
            one for i in range(len(taken) + 1) if (one := f"{name}_{i}" if i else name) not in taken
        )
        taken.add(free)
        return free

    yield Input(PRESENT, "present", "", "bool", (len(method.inputs),))
    for modality, spec in method.inputs.items():
        if spec.kind == "image":
            yield Input(name_of(modality), "image", modality, "uint8", spec.shape)
            continue
        if spec.kind == "embedding":
            yield Input(name_of(modality), "embedding", modality, "float64", spec.shape)
            continue
        table = fitted[modality]
        if table.quantities:
            shape = (len(table.quantities),)
            yield Input(name_of(modality, "numbers"), "numbers", modality, "float64", shape)
        if table.levels:
            shape = (len(table.levels),)
            yield Input(name_of(modality, "codes"), "codes", modality, "int64", shape)


class Graph(nn.Module):
    """The whole way from raw inputs to the numbers that ``predict`` writes.

    Rows that lack a modality are not taken out, as their number would change with the values. The
    batch has one row more than the input, and what a row lacks is counted there.

    Args:
        exportable: the run.
    """

    prior: Tensor
    sets: Tensor
    temperatures: Tensor

    def __init__(self, exportable: Exportable) -> None:
        super().__init__()
        self.method, self.inputs = exportable.method, exportable.inputs
        self.tables = nn.ModuleDict(
            {f"table_{name}": table_inputs(one) for name, one in exportable.fitted.items()}
        )
        self.embeddings = nn.ModuleDict(
            {f"of_{name}": EmbeddingInputs(o.mean, o.std) for name, o in exportable.scales.items()}
        )
        prior = torch.from_numpy(self.method.task.prior()).float()
        self.register_buffer("prior", prior)
        modalities = self.method.modalities
        sets = [used.split("+") for used in exportable.temperatures]
        self.is_tempered = bool(sets)
        if self.is_tempered:
            members = torch.tensor([[name in one for name in modalities] for one in sets])
            self.register_buffer("sets", members)
            values = torch.tensor([*map(exportable.temperature_of, exportable.temperatures)])
            self.register_buffer("temperatures", values)
            self.everything = exportable.temperature_of("+".join(modalities))

    def forward(self, **inputs: Tensor) -> Tensor:
        """Predictions ``[B, columns]`` from the inputs by name, each ``[B, ...]``."""
        given = inputs[PRESENT]
        rows = given.shape[0]
        here = torch.arange(rows)
        views: dict[str, View] = {}
        used = []
        for place, name in enumerate(self.method.modalities):
            present = given[:, place]
            own: dict[str, Tensor] = {
                one.kind: inputs[one.name] for one in self.inputs if one.modality == name
            }
            if "image" in own:
                values = own["image"]
            elif "embedding" in own:
                values, has_any = self.embeddings[f"of_{name}"](own["embedding"])
                present = present & has_any
            else:
                table = self.tables[f"table_{name}"]
                values, has_any = table(own.get("numbers"), own.get("codes"))
                present = present & has_any
            views[name] = View(values, torch.where(present, here, rows))
            used.append(present)
        # Targets are not looked at, but a method may take those of its rows.
        target = torch.zeros(rows + 1, dtype=torch.int64)
        output = self.method(Batch(target, torch.arange(rows + 1), views))[FUSED][:rows]
        sources = torch.stack(used, dim=1)
        seen = sources.any(dim=1, keepdim=True)
        output = torch.where(seen, output.float(), self.prior)
        if not self.is_tempered:
            return self.method.task.readout(output)
        temperature = torch.where(seen, self._temperature(sources), 1.0)
        return self.method.task.readout(output, temperature)

    def _temperature(self, sources: Tensor) -> Tensor:
        """``[B, 1]`` of rows that are predicted from ``sources``, bool ``[B, modalities]``."""
        same = (sources[:, None] == self.sets).all(dim=2)
        own = torch.where(same, self.temperatures, 0.0).sum(dim=1)
        return torch.where(same.any(dim=1), own, self.everything)[:, None]


def table_inputs(fitted: FittedTable) -> TableInputs:
    """A fitted preprocessing as a module."""
    return TableInputs(
        low=fitted.low,
        high=fitted.high,
        dates=fitted.dates,
        parts=fitted.parts,
        median=fitted.median,
        mean=fitted.mean,
        scale=fitted.scale,
        indicators=fitted.indicators,
        places=fitted.places,
        n_levels=fitted.n_levels,
        largest=LARGEST_FEATURE,
        missing=MISSING_CODE,
    )


def check_packages(form: Format, verify: bool) -> None:
    """Raises ``UserError`` with the key ``format`` where a package is missing."""
    needed = _NEEDS[form] + (_CHECK_NEEDS[form] if verify else ())
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        raise UserError(
            f"{form} needs {' and '.join(missing)}: pip install 'gaal-fast[export]'", key="format"
        )


def export(exportable: Exportable, form: Format) -> bytes:
    """The graph as a file.

    Raises:
        UserError: With the key ``run``, where the forward pass of the method cannot be a graph.
    """
    graph = Graph(exportable).eval().requires_grad_(False)
    # A batch of one would become a constant.
    example = {
        one.name: torch.zeros(2, *one.shape, dtype=getattr(torch, one.dtype))
        for one in exportable.inputs
    }
    batch = torch.export.Dim(BATCH)
    shapes = {"inputs": {name: {0: batch} for name in example}}
    try:
        with torch.no_grad(), _quiet():
            # Strict: a method may ask for the length of its batch, which Python makes an int.
            program = torch.export.export(graph, (), example, dynamic_shapes=shapes, strict=True)
            _check_ops(program)
            for node in program.graph.nodes:  # the folders of this machine are nobody's business
                node.meta.pop("stack_trace", None)
            return _serialized(program, form)
    except UserError:
        raise
    except Exception as error:  # whatever the code of a method makes the tracer trip over
        name, reason = exportable.method.name, _reason(error)
        message = f": the forward pass of the method {name} cannot be exported: {reason}"
        raise UserError(message, key="run") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch prints of its own state: pages of graph where one cannot be traced."""
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def _reason(error: Exception) -> str:
    """The first line of an error, and the line of code that torch names last."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    places = re.findall(r'File "([^"]+)", line (\d+)', str(error))
    where = f" ({places[-1][0]}, line {places[-1][1]})" if places else ""
    return f"{type(error).__name__}: {lines[0] if lines else ''}{where}"


def _serialized(program: torch.export.ExportedProgram, form: Format) -> bytes:
    if form == "pt2":
        stream = io.BytesIO()
        torch.export.save(program, stream)
        return stream.getvalue()
    found = torch.onnx.export(
        program, dynamo=True, verbose=False, external_data=False, output_names=[OUTPUT]
    )
    assert found is not None
    content: bytes = _tidied(found.model_proto).SerializeToString()
    return content


def _tidied(model: Any) -> Any:
    """An ONNX model without the places in our code that its nodes come from, and with a name for
    the size of a batch.
    """
    graph = model.graph
    for node in graph.node:
        del node.metadata_props[:]
    symbol = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*graph.input, *graph.output, *graph.value_info):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param:
                size.dim_param = size.dim_param.replace(symbol, BATCH)
    return model


def _check_ops(program: torch.export.ExportedProgram) -> None:
    """Raises ``UserError`` for an operation that plain torch does not have."""
    for node in program.graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload) and node.target.namespace not in _OWN_OPS:
            raise UserError(
                f": the forward pass uses {node.target}, which a graph cannot hold", key="run"
            )
