"""The registered ops: schemas, fake kernels, autograd, torch.compile."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch._dynamo
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.library import opcheck

from gaal_fast import ops
from tests.ops import helpers
from tests.ops.helpers import Backend

OPTIONS = ("paper", 0.1, True, 0.75, 1e-3, 2.0)

needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++"))), reason="needs a C++ compiler"
)
COMPILERS = ["aot_eager", pytest.param("inductor", marks=needs_compiler)]


def arguments(
    dtype: torch.dtype, device: str, strided: bool, requires_grad: bool
) -> dict[str, list[tuple[Any, ...]]]:
    """Calls of every registered op: with and without each optional tensor."""
    rows, classes, width = 6, 5, 4

    def matrix(n: int, m: int, seed: int) -> Tensor:
        plain = helpers.random_logits(n, m, dtype, seed, device=device)
        return (helpers.LAYOUTS["sliced columns"](plain) if strided else plain).requires_grad_(
            requires_grad
        )

    def vector(n: int, seed: int) -> Tensor:
        plain = helpers.random_logits(1, 2 * n, dtype, seed, device=device)[0]
        return (plain[::2] if strided else plain[:n].clone()).requires_grad_(requires_grad)

    def labels(bound: int, n: int = rows) -> Tensor:
        wide = helpers.random_labels(2 * n, bound, device=device)
        return wide[::2] if strided else wide[:n].clone()

    z, x, guide, w, b = (
        matrix(rows, classes, 0),
        matrix(rows, width, 1),
        matrix(8, width, 2),
        matrix(classes, width, 3),
        vector(classes, 4),
    )
    c = torch.rand(classes, device=device)
    y, guide_y, index = labels(classes), labels(classes, 8), labels(rows, 3)

    def gradients(
        seed: int,
    ) -> list[Tensor]:  # leaves that require a gradient may not be changed in place outside no_grad
        return [matrix(classes, width, seed).detach(), vector(classes, seed).detach()]

    return {
        "softmax_stats": [(z,), (z, y), (z[:0], y[:0])],
        "entropy_topk": [(z, 3), (z, 0), (z, rows)],
        "linear_ce_grad": [(x, z, y), (x, z, y, index), (x, z, y, index, c), (x, z, y, None, c)],
        "project_": [(gradients(5), gradients(6)), (gradients(5), gradients(6), *OPTIONS)],
        "guided_linear_ce": [
            (x, y, guide, guide_y, w, b, None, 3, *OPTIONS),
            (x, y, guide, guide_y, w, None, c, 8, "official", 0.0, False, 0.75, 1e-3, None),
            (x, y, guide, guide_y, w, b, c, 0, *OPTIONS),
        ],
    }


@pytest.mark.parametrize("requires_grad", [False, True], ids=["constant", "requires_grad"])
@pytest.mark.parametrize("strided", [False, True], ids=["contiguous", "strided"])
@pytest.mark.parametrize(
    "op", ["softmax_stats", "entropy_topk", "linear_ce_grad", "project_", "guided_linear_ce"]
)
def test_opcheck(backend: Backend, op: str, strided: bool, requires_grad: bool) -> None:
    for dtype in (torch.float32, torch.float16):
        for args in arguments(dtype, backend.device, strided, requires_grad)[op]:
            opcheck(getattr(torch.ops.gaal_fast, op).default, args)


def scheduled(*options: Any) -> tuple[Any, ...]:
    """The arguments of a projection as the overload for schedules takes them."""
    return tuple(
        torch.tensor(value, dtype=torch.float64) if type(value) is float else value
        for value in options
    )


@pytest.mark.parametrize("op", ["project_", "guided_linear_ce"])
def test_opcheck_of_the_overload_for_schedules(backend: Backend, op: str) -> None:
    plain, overload = (
        getattr(getattr(torch.ops.gaal_fast, op), name) for name in ("default", "scheduled")
    )
    for args in arguments(
        torch.float32, backend.device, strided=True, requires_grad=op != "project_"
    )[op]:
        if len(args) < 6:
            args = (*args, *OPTIONS)
        with_tensors = (*args[:-6], *scheduled(*args[-6:]))
        opcheck(overload, with_tensors)

        def copied(values: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple(
                [t.clone() for t in value] if isinstance(value, list) else value for value in values
            )

        assert helpers.bits(overload(*copied(with_tensors))) == helpers.bits(plain(*copied(args)))


def schedule_project(g: Tensor, p: Tensor, **options: Any) -> tuple[Tensor, ...]:
    g = g.clone()
    return g, *ops.project_([g], [p], **options)


def schedule_guided(g: Tensor, p: Tensor, **options: Any) -> tuple[Tensor, ...]:
    target = torch.arange(5)
    step = ops.guided_linear_ce(g, target, p, target, torch.eye(5, 4), None, top_k=3, **options)
    return step.grad_weight, *step.projection


@pytest.mark.parametrize("compiler", ["eager", *COMPILERS])
@pytest.mark.parametrize("dynamic", [None, True])
@pytest.mark.parametrize("step", [schedule_project, schedule_guided])
@pytest.mark.parametrize(
    ("option", "others"),
    [
        ("epsilon", {"relative": True}),
        ("margin", {"rule": "official"}),
        ("ridge", {"rule": "official", "margin": 0.0}),
        ("max_correction", {"epsilon": 50.0}),
    ],
)
def test_a_schedule_is_compiled_once_and_never_stale(
    option: str,
    others: dict[str, Any],
    step: Callable[..., Any],
    dynamic: bool | None,
    compiler: str,
) -> None:
    """A float that changes, also one computed in the program, and a tensor."""
    if compiler == "inductor" and (option, dynamic) not in {("epsilon", None), ("margin", None)}:
        pytest.skip("the same graph as with aot_eager, which takes seconds to compile")
    g, p = helpers.random_logits(5, 4, torch.float32), -helpers.random_logits(5, 4, torch.float32)
    for convert, most in ((float, 2), (torch.tensor, 1)):
        torch._dynamo.reset()
        count = CompileCounterWithBackend(compiler)
        program = torch.compile(
            lambda g, p, value: step(g, p, **{option: value * 2 + 0.125}, **others),
            fullgraph=True,
            dynamic=dynamic,
            backend=count,
        )
        for i in range(12):
            value = 0.5 + i / 16
            want = step(g, p, **{option: value * 2 + 0.125}, **others)
            torch.testing.assert_close(program(g, p, convert(value)), want, rtol=1e-5, atol=1e-6)
        assert count.frame_count <= most


def test_a_schedule_is_an_input_of_an_exported_program() -> None:
    class Step(torch.nn.Module):
        def forward(self, g: Tensor, p: Tensor, epsilon: Tensor) -> tuple[Tensor, ...]:
            return schedule_project(g, p, epsilon=epsilon)

    g, p = torch.ones(2), torch.tensor([0.0, 2.0])
    exported = torch.export.export(Step(), (g, p, torch.tensor(1.0)))
    assert [exported.module()(g, p, torch.tensor(e))[1].item() for e in (3.0, 4.0, 6.0)] == [
        0.25,
        0.5,
        1.0,
    ]


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8]
)
def test_options_in_tensors_of_every_real_dtype(dtype: torch.dtype) -> None:
    g, p = torch.ones(2), torch.tensor([0.0, 2.0])
    epsilon = torch.tensor(6, dtype=dtype)
    if dtype.is_floating_point:
        epsilon.requires_grad_()
    v = ops.project_([g], [p], epsilon=epsilon).v
    assert v.item() == 1.0 and not v.requires_grad and g.tolist() == [1.0, 3.0]
    assert ops.project_([-g], [p], rule="official", margin=epsilon).v.item() == 6.0


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"epsilon": torch.tensor(math.nan)}, ValueError, "epsilon must be finite, got nan"),
        (
            {"margin": torch.tensor(-1.0)},
            ValueError,
            r"margin must be finite and not negative, got -1\.0",
        ),
        (
            {"epsilon": torch.ones(1)},
            ValueError,
            r"epsilon must be a number or a 0-d tensor, got shape \(1,\)",
        ),
        (
            {"margin": torch.tensor(True)},
            TypeError,
            r"margin must be a number or a 0-d tensor of real numbers, got torch\.bool",
        ),
        ({"epsilon": "0.3"}, TypeError, "epsilon must be a number or a 0-d tensor, got str"),
        ({"margin": None}, TypeError, "margin must be a number or a 0-d tensor, got NoneType"),
        ({"ridge": 1j}, TypeError, "ridge must be a number or a 0-d tensor, got complex"),
        (
            {"epsilon": torch.tensor(0.1, device="meta")},
            ValueError,
            "epsilon must be on the CPU, got meta",
        ),
        (
            {"max_correction": torch.tensor(0.1, device="meta")},
            TypeError,
            "max_correction must be a number, got a tensor on meta",
        ),
    ],
    ids=str,
)
def test_bad_options_in_tensors(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    g = torch.ones(3)
    with pytest.raises(error, match=f"^{message}"):
        ops.project_([g], [-g], **options)
    with pytest.raises(error, match=f"^{message}"):
        ops.guided_linear_ce(
            g[:, None], g.long(), g[:, None], g.long(), torch.ones(2, 1), None, top_k=1, **options
        )
    assert g.tolist() == [1.0] * 3


def test_a_bad_option_is_refused_for_tensors_without_data() -> None:
    g = torch.ones(3, device="meta")
    for options in (
        {"rule": "gem"},
        {"epsilon": math.inf},
        {"margin": -1.0},
        {"ridge": -1.0},
        {"max_correction": math.nan},
    ):
        with pytest.raises(ValueError, match=f"^{next(iter(options))} must be"):
            ops.project_([g], [g], **options)


def test_a_compiled_schedule_still_looks_at_its_values() -> None:
    torch._dynamo.reset()
    program = torch.compile(
        lambda g, p, e: ops.project_([g], [p], epsilon=e).v,
        fullgraph=True,
        dynamic=True,
        backend="aot_eager",
    )
    assert program(torch.ones(2), torch.ones(2), 4.0).item() == 1.0
    with pytest.raises(ValueError, match=r"^epsilon must be finite, got nan"):
        program(torch.ones(2), torch.ones(2), math.nan)


@pytest.mark.parametrize(
    "op", ["softmax_stats", "entropy_topk", "linear_ce_grad", "guided_linear_ce"]
)
def test_registered_ops_give_what_the_functions_give(backend: Backend, op: str) -> None:
    """Also for inputs that require a gradient, which leave no graph behind."""
    for args in arguments(torch.float32, backend.device, strided=True, requires_grad=True)[op]:
        registered = getattr(torch.ops.gaal_fast, op)(*args)
        assert not any(tensor.requires_grad for tensor in helpers.flatten(registered))
        if op == "linear_ce_grad":
            public = ops.linear_ce_grad(*args[:4], class_weights=args[4] if len(args) > 4 else None)
        elif op == "guided_linear_ce":
            names = (
                "class_weights",
                "top_k",
                "rule",
                "epsilon",
                "relative",
                "margin",
                "ridge",
                "max_correction",
            )
            public = ops.guided_linear_ce(*args[:6], **dict(zip(names, args[6:], strict=True)))
        else:
            public = getattr(ops, op)(*args)
        filled, expected = helpers.flatten(registered), helpers.flatten(public)
        if len(filled) > len(expected):  # an absent result is an empty tensor in the schema
            filled = [tensor for tensor in filled if tensor.shape != (0,)]
            expected = [tensor for tensor in expected if tensor.shape != (0,)]
        assert helpers.bits(filled) == helpers.bits(expected)


def test_the_registered_projection_changes_leaves_and_graphs_alike(backend: Backend) -> None:
    leaf = torch.ones(3, device=backend.device, requires_grad=True)
    attached = leaf * 2.0
    guide = torch.tensor([-1.0, 0.0, 0.0], device=backend.device)
    v = torch.ops.gaal_fast.project_([leaf, attached], [guide, guide])[0]
    assert v.item() == 1.5 and not v.requires_grad
    assert leaf.tolist() == [-0.5, 1.0, 1.0] and attached.tolist() == [0.5, 2.0, 2.0]
    assert leaf.is_leaf and attached.grad_fn is not None


@pytest.mark.parametrize("mode", ["meta", "fake"])
def test_shapes_without_data(mode: str) -> None:
    """Meta and fake tensors take the fake kernels; the results have the shapes, dtypes and strides
    of real ones.
    """
    real = arguments(torch.float16, "cpu", strided=False, requires_grad=False)

    def shapes(tensors: list[Tensor]) -> list[tuple[Any, ...]]:
        return [(t.shape, t.dtype, t.stride()) for t in tensors]

    def call(op: str, args: tuple[Any, ...]) -> list[Tensor]:
        return helpers.flatten(getattr(torch.ops.gaal_fast, op)(*args))

    for op in ("softmax_stats", "entropy_topk", "linear_ce_grad", "project_", "guided_linear_ce"):
        for args in real[op]:
            expected = shapes(call(op, args))

            def convert(value: Any, to: Callable[[Tensor], Tensor]) -> Any:
                if isinstance(value, list):
                    return [to(tensor) for tensor in value]
                return to(value) if isinstance(value, Tensor) else value

            if mode == "meta":
                got = call(op, tuple(convert(value, lambda t: t.to("meta")) for value in args))
            else:
                with FakeTensorMode() as fake:
                    got = call(op, tuple(convert(value, fake.from_tensor) for value in args))
            assert shapes(got) == expected
    z = torch.zeros(4, 3, device="meta")
    assert ops.softmax_stats(z)[0].shape == (4,) and ops.entropy_topk(z, 2)[1].dtype is torch.int64


def whole_step(
    x: Tensor, y: Tensor, guide: Tensor, guide_y: Tensor, w: Tensor, b: Tensor, c: Tensor
) -> tuple[Any, ...]:
    """Every public op in one function, k depending on the batch size."""
    logits = torch.nn.functional.linear(x, w, b)
    k = x.shape[0] // 2
    stats = ops.softmax_stats(logits, y)
    top = ops.entropy_topk(logits, k)
    grads = list(ops.linear_ce_grad(x, logits, y, top[1], class_weights=c))
    plain = ops.softmax_stats(logits)[:2]
    guides = [gradient.sin() for gradient in grads]
    projection = ops.project_(grads, guides, epsilon=0.2, relative=True)
    step = ops.guided_linear_ce(
        x, y, guide, guide_y, w, b, top_k=k, rule="official", class_weights=c
    )
    headless = ops.guided_linear_ce(x, y, guide, guide_y, w, None, top_k=1)
    assert headless.grad_bias is None
    return stats, top, plain, grads, projection, projection.cosine, step, headless.grad_weight


def inputs(rows: int, device: str, *, requires_grad: bool = False) -> tuple[Tensor, ...]:
    classes, width = 7, 5
    x, guide = (
        helpers.random_logits(rows, width, torch.float32, seed, device=device)
        for seed in (rows, rows + 1)
    )
    w = torch.nn.Parameter(
        helpers.random_logits(classes, width, torch.float32, 2, device=device), requires_grad
    )
    b = torch.nn.Parameter(
        helpers.random_logits(1, classes, torch.float32, 3, device=device)[0], requires_grad
    )
    y, guide_y = (helpers.random_labels(rows, classes, seed, device) for seed in (0, 1))
    return x, y, guide, guide_y, w, b, torch.linspace(0.5, 2.0, classes, device=device)


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("requires_grad", [False, True], ids=["constant", "requires_grad"])
def test_compiles_whole_and_once(backend: Backend, compiler: str, requires_grad: bool) -> None:
    """fullgraph, no recompilation for other batch sizes, and the results of eager mode."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(whole_step, fullgraph=True, backend=compiler)
    for rows in (8, 12, 5):
        args = inputs(rows, backend.device, requires_grad=requires_grad)
        for tensor in args[:4]:
            torch._dynamo.mark_dynamic(tensor, 0)
        with torch._dynamo.config.patch(error_on_recompile=True):
            got = compiled(*args)
        expected = whole_step(*args)
        assert type(got[4]) is ops.Projection and type(got[6]) is ops.GuidedStep
        for a, b in zip(helpers.flatten(got), helpers.flatten(expected), strict=True):
            assert not a.requires_grad
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_a_compiled_call_still_looks_at_the_labels() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda z, y: ops.softmax_stats(z, y)[2], fullgraph=True, backend="aot_eager"
    )
    z = torch.zeros(4, 3)
    assert compiled(z, torch.tensor([0, 1, 2, 0])).shape == (4,)
    with pytest.raises(ValueError, match=r"^target must lie in 0"):
        compiled(z, torch.tensor([0, 1, 3, 0]))


def test_a_compiled_call_refuses_wrong_shapes_while_compiling() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda z, y: ops.softmax_stats(z, y)[2], fullgraph=True, backend="aot_eager"
    )
    with pytest.raises(Exception, match="target must have shape"):
        compiled(torch.zeros(4, 3), torch.zeros(5, dtype=torch.int64))


def test_a_compiled_call_obeys_the_choice_of_backend_at_run_time() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(lambda z: ops.softmax_stats(z)[0], fullgraph=True, backend="aot_eager")
    z = torch.zeros(4, 3, dtype=torch.float64)
    compiled(z)
    with ops.backend("triton"), pytest.raises(RuntimeError, match=r"^backend 'triton'"):
        compiled(z)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", helpers.DTYPES)
def test_no_op_waits_for_the_gpu(dtype: torch.dtype) -> None:
    for name, by_device in ops.availability().items():
        if by_device["cuda:0"] is not None:
            continue
        for op, calls in arguments(dtype, "cuda", strided=False, requires_grad=False).items():
            for args in calls:
                with ops.backend("auto" if dtype is torch.float64 else name):
                    getattr(torch.ops.gaal_fast, op)(*args)  # compiles and allocates what it needs
                    torch.cuda.set_sync_debug_mode("error")
                    try:
                        getattr(torch.ops.gaal_fast, op)(*args)
                    finally:
                        torch.cuda.set_sync_debug_mode("default")
