"""Whether an exported graph says what the run itself says."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from gaal_fast.data.batch import Batch, View
from gaal_fast.data.sides import EmbeddingScale
from gaal_fast.data.tables.columns import TypedTable
from gaal_fast.data.tables.fitted import MISSING_CODE, FittedTable
from gaal_fast.engine.evaluation import predict_batches
from gaal_fast.engine.export import OUTPUT, PRESENT, Exportable
from gaal_fast.runs.exported import Format
from gaal_fast.tasks import FUSED

Arrays = Mapping[str, Tensor]
Runner = Callable[[Arrays], Tensor]

# Further than that from the run itself, and the export is wrong: what float32 rounds in the deepest
# encoders stays well below it.
LARGEST_DIFFERENCE = 1e-4
# A single row takes other kernels, two are what is traced, and seven divide nothing.
BATCHES = (1, 2, 7)
_NEVER_SEEN = "\0"  # no cell of a text file


def runner(content: bytes, form: Format) -> Runner:
    """What runs an exported file: ``torch.export.load`` or onnxruntime on the CPU."""
    if form == "pt2":
        module = torch.export.load(io.BytesIO(content)).module()
        return lambda inputs: module(**inputs)
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def run(inputs: Arrays) -> Tensor:
        found = session.run([OUTPUT], {name: value.numpy() for name, value in inputs.items()})
        return torch.from_numpy(found[0])

    return run


@torch.no_grad()
def largest_difference(exportable: Exportable, run: Runner) -> float:
    """The largest difference between an exported graph and the run itself, in probabilities or in
    standard deviations of the target, over random rows in batches of 1, 2 and 7: whole ones, ones
    without each of the modalities, without any, and mixed ones. NaN where either gives NaN.
    """
    generator = torch.Generator().manual_seed(1)
    modalities = len(exportable.method.inputs)
    masks = [torch.ones(modalities), torch.zeros(modalities), *(1 - torch.eye(modalities))]
    unit, largest = exportable.run.task.readout_unit, torch.zeros((), dtype=torch.float64)
    for rows in BATCHES:
        for mask in (None, *masks):
            inputs = random_inputs(exportable, rows, generator)
            if mask is not None:
                inputs[PRESENT] = mask.bool().expand(rows, -1).contiguous()
            difference = (run(inputs).double() - answers(exportable, inputs)).abs() / unit
            largest = torch.maximum(largest, difference.max())  # which hands NaN on
    return float(largest)


def random_inputs(
    exportable: Exportable, rows: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """Inputs as a table might have them: missing cells, levels never seen, and rows that lack a
    modality.
    """
    found = {}
    for one in exportable.inputs:
        shape = (rows, *one.shape)
        if one.kind == "present":
            found[one.name] = torch.rand(shape, generator=generator) < 0.7
        elif one.kind == "image":
            found[one.name] = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
        elif one.kind == "embedding":
            found[one.name] = _random_vectors(exportable.scales[one.modality], rows, generator)
        elif one.kind == "numbers":
            found[one.name] = _random_numbers(exportable.fitted[one.modality], rows, generator)
        else:
            counts = [len(levels) for levels in exportable.fitted[one.modality].levels.values()]
            # From the code of a missing cell to that of a level never seen.
            codes = [
                torch.randint(MISSING_CODE, count + 1, (rows,), generator=generator)
                for count in counts
            ]
            found[one.name] = torch.stack(codes, dim=1)
    return found


def _random_vectors(scale: EmbeddingScale, rows: int, generator: torch.Generator) -> Tensor:
    """About as wide as in training, a fifth of the rows missing."""
    mean, std = torch.from_numpy(scale.mean), torch.from_numpy(scale.std)
    vectors = torch.randn(rows, len(mean), dtype=torch.float64, generator=generator)
    missing = torch.rand(rows, 1, generator=generator) < 0.2
    return (mean + std * vectors).masked_fill(missing, torch.nan)


def _random_numbers(fitted: FittedTable, rows: int, generator: torch.Generator) -> Tensor:
    """About as wide as in training, a fifth of them missing."""
    width = len(fitted.quantities)
    mean, scale, low, high = (
        torch.from_numpy(values[:width].copy())
        for values in (fitted.mean, fitted.scale, fitted.low, fitted.high)
    )
    numbers = torch.randn(rows, width, dtype=torch.float64, generator=generator)
    numbers = (mean + 1.5 * scale * numbers).clamp(low, high)
    missing = torch.rand(rows, width, generator=generator) < 0.2
    return numbers.masked_fill(missing, torch.nan)


@torch.no_grad()
def answers(exportable: Exportable, inputs: Arrays) -> Tensor:
    """Float64 ``[B, columns]``, what ``predict`` gives for the same rows, by the way it goes: the
    fitted preprocessor, and a batch of what there is.
    """
    present = inputs[PRESENT]
    views = {}
    for place, (name, spec) in enumerate(exportable.method.inputs.items()):
        own: dict[str, Tensor] = {
            one.kind: inputs[one.name] for one in exportable.inputs if one.modality == name
        }
        there = present[:, place]
        if spec.kind == "image":
            views[name] = View(own["image"][there], there.nonzero()[:, 0])
            continue
        if spec.kind == "embedding":
            side = exportable.scales[name].side(name, own["embedding"].numpy())
            there = there & torch.from_numpy(side.present)
            views[name] = View(torch.from_numpy(side.features)[there], there.nonzero()[:, 0])
            continue
        arrays = exportable.preprocessors[name].transform(_typed(exportable, name, own))
        there = there & torch.from_numpy(arrays.present)
        views[name] = View(torch.from_numpy(arrays.features)[there], there.nonzero()[:, 0])
    rows = torch.arange(len(present))
    batch = Batch(torch.full_like(rows, -1), rows, views)
    found = predict_batches(exportable.method, [batch], device=torch.device("cpu"))
    found = exportable.run.calibrated(found)
    return exportable.run.task.readout(torch.from_numpy(found.outputs[FUSED]))


def _typed(exportable: Exportable, name: str, own: Arrays) -> TypedTable:
    """The columns of a table from the inputs of a graph."""
    fitted, schema = exportable.fitted[name], exportable.preprocessors[name].schema
    numbers = (
        dict(zip(fitted.quantities, own["numbers"].T.numpy(), strict=True))
        if fitted.quantities
        else {}
    )
    levels: dict[str, np.ndarray] = {}
    for place, (column, known) in enumerate(fitted.levels.items()):
        # Last the code of a missing cell, as a place from the end.
        texts = np.array([*known, _NEVER_SEEN, None], dtype=object)
        levels[column] = texts[own["codes"][:, place].numpy()]
    rows = len(next(iter(own.values())))
    return TypedTable(schema, rows, numbers, levels)
