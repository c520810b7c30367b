"""Tensors that are not plain memory, in any argument: the registered op, a resolved copy, or an
error that names the argument.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from gaal_fast import ops
from tests.ops import helpers

LABELS = torch.tensor([0, 1, 2, 3, 4, 0])
X, GUIDE, HEAD, BIAS, OTHER = (
    helpers.random_logits(rows, columns, torch.float32, seed)
    for seed, (rows, columns) in enumerate([(6, 4), (6, 4), (5, 4), (1, 5), (5, 4)])
)
LOGITS = helpers.random_logits(6, 5, torch.float32, 9)
SHARES = torch.linspace(0.5, 1.5, 5)
EPSILON, MARGIN = torch.tensor(0.1), torch.tensor(0.7)


def project(
    g: Tensor, c: Tensor, p: Tensor, q: Tensor, epsilon: Any, margin: Any
) -> tuple[Any, ...]:
    """The changed gradients among the results."""
    return ops.project_([g, c], [p, q], epsilon=epsilon, margin=margin), g, c


def guided(*args: Any) -> ops.GuidedStep:
    *tensors, c, epsilon, margin = args
    return ops.guided_linear_ce(*tensors, top_k=2, class_weights=c, epsilon=epsilon, margin=margin)


def head_gradient(x: Any, z: Any, y: Any, index: Any, c: Any) -> tuple[Tensor, Tensor]:
    return ops.linear_ce_grad(x, z, y, index, class_weights=c)


# Every op with all its tensor arguments, and their names in messages.
CALLS: dict[str, tuple[Callable[..., Any], dict[str, Tensor]]] = {
    "softmax_stats": (ops.softmax_stats, {"logits": LOGITS, "target": LABELS}),
    "entropy_topk": (lambda z: ops.entropy_topk(z, 3), {"logits": LOGITS}),
    "linear_ce_grad": (
        head_gradient,
        {
            "features": X,
            "logits": LOGITS,
            "target": LABELS,
            "index": torch.tensor([0, 2]),
            "class_weights": SHARES,
        },
    ),
    "project_": (
        project,
        {
            "grads[0]": HEAD,
            "grads[1]": BIAS[0],
            "guides[0]": OTHER,
            "guides[1]": -BIAS[0],
            "epsilon": EPSILON,
            "margin": MARGIN,
        },
    ),
    "guided_linear_ce": (
        guided,
        {
            "features": X,
            "target": LABELS,
            "guide_features": GUIDE,
            "guide_target": LABELS,
            "weight": HEAD,
            "bias": BIAS[0],
        }
        | {"class_weights": SHARES, "epsilon": EPSILON, "margin": MARGIN},
    ),
}
EVERY_ARGUMENT = [(op, name) for op, (_, arguments) in CALLS.items() for name in arguments]


def call(
    op: str, name: str | None = None, make: Callable[[Tensor], Any] = Tensor.clone
) -> list[Tensor]:
    """The results of ``op``, with what ``make`` makes of one argument."""
    function, arguments = CALLS[op]
    return helpers.flatten(
        function(*(make(t.clone()) if key == name else t.clone() for key, t in arguments.items()))
    )


class Plain(Tensor):
    """A subclass that changes nothing."""


class Wrapper(Tensor):
    """A subclass without memory of its own."""

    @staticmethod
    def __new__(cls, inner: Tensor) -> Wrapper:
        return Tensor._make_wrapper_subclass(
            cls, inner.shape, dtype=inner.dtype, strides=inner.stride()
        )

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = tree_map(
            lambda t: t.inner if isinstance(t, Wrapper) else t, (args, kwargs or {})
        )
        return tree_map(lambda t: Wrapper(t) if isinstance(t, Tensor) else t, op(*args, **kwargs))


def lazily_negated(tensor: Tensor) -> Tensor:
    return torch._neg_view(-tensor) if tensor.is_floating_point() else tensor


def imaginary_part(tensor: Tensor) -> Tensor:
    """Of a lazily conjugated tensor: strided and lazily negated."""
    return torch.complex(tensor, -tensor).conj().imag if tensor.is_floating_point() else tensor


def from_inference_mode(tensor: Tensor) -> Tensor:
    with torch.inference_mode():
        return tensor.clone()


@pytest.mark.parametrize(
    "make",
    [
        lazily_negated,
        imaginary_part,
        from_inference_mode,
        Wrapper,
        lambda t: t.as_subclass(Plain),
        lambda t: torch.nn.Parameter(t, requires_grad=t.is_floating_point()),
        torch.nn.Buffer,
    ],
    ids=["negated", "imaginary", "inference", "wrapper", "subclass", "parameter", "buffer"],
)
@pytest.mark.parametrize(("op", "name"), EVERY_ARGUMENT)
def test_a_tensor_of_the_same_values_gives_the_same_bits(
    op: str, name: str, make: Callable[[Tensor], Tensor]
) -> None:
    got = [t.inner if isinstance(t, Wrapper) else t for t in call(op, name, make)]
    assert helpers.bits([t.resolve_neg() for t in got]) == helpers.bits(call(op))


@pytest.mark.parametrize(("op", "name"), EVERY_ARGUMENT)
def test_a_zero_tensor_counts_as_zeros(op: str, name: str) -> None:
    def zero(tensor: Tensor) -> Tensor:
        return torch._efficientzerotensor(tensor.shape, dtype=tensor.dtype)

    if name.startswith("grads"):
        with pytest.raises(
            TypeError, match=rf"^{name[:5]}\[{name[6]}\] is a zero tensor without memory"
        ):
            call(op, name, zero)
    else:
        assert helpers.bits(call(op, name, zero)) == helpers.bits(call(op, name, torch.zeros_like))


def freed(tensor: Tensor) -> Tensor:
    tensor.untyped_storage().resize_(0)
    return tensor


def shortened(tensor: Tensor) -> Tensor:
    tensor.untyped_storage().resize_(tensor.nbytes - tensor.element_size())
    return tensor


def freed_behind_a_view(tensor: Tensor) -> Tensor:
    view = torch.cat([tensor.reshape(-1), tensor.reshape(-1)])[tensor.numel() :].view(tensor.shape)
    view.untyped_storage().resize_(tensor.nbytes)
    return view


def fake(tensor: Tensor) -> Tensor:
    return FakeTensorMode().from_tensor(tensor)


def nested(tensor: Tensor) -> Tensor:
    return torch.nested.nested_tensor([tensor])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (freed, "has no memory for its elements"),
        (shortened, "has no memory for its elements"),
        (freed_behind_a_view, "has no memory for its elements"),
        (fake, "is a fake tensor"),
        (Tensor.to_sparse, "must be a dense tensor, got layout torch.sparse_coo"),
        (nested, "must be a dense tensor, got a nested one"),
        (
            lambda t: torch.nn.UninitializedParameter(requires_grad=False),
            "is an uninitialized parameter",
        ),
        (lambda t: t.to(torch.complex64), "must "),
    ],
    ids=[
        "freed",
        "shortened",
        "freed behind a view",
        "fake",
        "sparse",
        "nested",
        "uninitialized",
        "complex",
    ],
)
@pytest.mark.parametrize(("op", "name"), EVERY_ARGUMENT)
def test_what_has_no_values_is_refused_by_name(
    op: str, name: str, make: Callable[[Tensor], Any], message: str
) -> None:
    if make is fake and op == "entropy_topk":
        assert call(op, name, make)[0].shape == (3,)  # all arguments are fake
        return
    with pytest.raises(TypeError) as caught:
        call(op, name, make)
    assert str(caught.value).startswith(f"{name} {message}")


@pytest.mark.parametrize("layout", [Tensor.to_sparse_csr, Tensor.to_mkldnn])
def test_other_layouts_are_refused_by_name(layout: Callable[[Tensor], Tensor]) -> None:
    for op, name in (
        ("softmax_stats", "logits"),
        ("project_", "grads[0]"),
        ("project_", "guides[0]"),
        ("guided_linear_ce", "weight"),
    ):
        with pytest.raises(TypeError) as caught:
            call(op, name, layout)
        assert str(caught.value).startswith(f"{name} must be a dense tensor, got layout torch.")


@pytest.mark.parametrize(("op", "name"), EVERY_ARGUMENT)
def test_a_meta_tensor_among_real_ones_is_refused(op: str, name: str) -> None:
    if op == "entropy_topk":
        assert call(op, name, lambda t: t.to("meta"))[0].is_meta
        return
    with pytest.raises(ValueError, match="meta"):
        call(op, name, lambda t: t.to("meta"))


def test_the_registered_ops_look_before_they_take_a_pointer() -> None:
    with pytest.raises(TypeError, match=r"^target has no memory"):
        torch.ops.gaal_fast.softmax_stats(LOGITS, freed(LABELS.clone()))
    with pytest.raises(TypeError, match=r"^guides\[0\] has no memory"):
        torch.ops.gaal_fast.project_([HEAD.clone()], [freed(HEAD.clone())])


def test_fake_mode_takes_real_tensors_where_it_says_so() -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):
        for op in CALLS:
            assert all(type(t).__name__ == "FakeTensor" for t in call(op))
    with FakeTensorMode(), pytest.raises(TypeError, match=r"^logits is a real tensor"):
        ops.softmax_stats(LOGITS)


@contextlib.contextmanager
def recording() -> Iterator[list[str]]:
    seen: list[str] = []

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(
            self, op: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            seen.append(str(op))
            return op(*args, **(kwargs or {}))

    with Mode():
        yield seen


@pytest.mark.parametrize("op", CALLS)
def test_a_dispatch_mode_sees_the_op(op: str) -> None:
    expected = call(op)
    with recording() as seen:
        got = call(op)
    assert any(name.startswith(f"gaal_fast.{op}.") for name in seen)
    assert helpers.bits(got) == helpers.bits(expected)


@pytest.mark.parametrize("op", CALLS)
def test_make_fx_records_the_op(op: str) -> None:
    function, arguments = CALLS[op]
    tensors = [t.clone() for t in arguments.values()]
    for mode in ("real", "fake", "symbolic"):
        module = make_fx(
            lambda *args: helpers.flatten(function(*(t.clone() for t in args))), tracing_mode=mode
        )(*tensors)
        assert f"gaal_fast.{op}." in module.code
        other = [t.flip(0) if t.dim() else t * 2 for t in tensors]
        assert helpers.bits(module(*other)) == helpers.bits(function(*(t.clone() for t in other)))


@pytest.mark.parametrize("op", CALLS)
def test_jit_trace_records_the_op(op: str) -> None:
    """Also through a file, and with the value of an epsilon that is an input."""
    function, arguments = CALLS[op]
    tensors = [t.clone() for t in arguments.values()]
    traced = torch.jit.trace(
        lambda *args: tuple(helpers.flatten(function(*(t.clone() for t in args)))),
        tensors,
        check_trace=False,
    )
    file = io.BytesIO()
    torch.jit.save(traced, file)
    file.seek(0)
    other = [t.flip(0) if t.dim() else t * 2 for t in tensors]
    assert helpers.bits(torch.jit.load(file)(*other)) == helpers.bits(
        function(*(t.clone() for t in other))
    )


def test_jit_trace_records_a_change_in_place() -> None:
    traced = torch.jit.trace(
        lambda g, p: ops.project_([g], [p]).v, (torch.ones(2), torch.ones(2)), check_trace=False
    )
    g = torch.tensor([1.0, -1.0])
    assert traced(g, torch.tensor([0.0, 2.0])).item() == 0.5 and g.tolist() == [1.0, 0.0]


def test_functionalize() -> None:
    for op in ("softmax_stats", "entropy_topk", "linear_ce_grad", "guided_linear_ce"):
        function, arguments = CALLS[op]
        got = torch.func.functionalize(lambda *args, f=function: helpers.flatten(f(*args)))(
            *arguments.values()
        )
        assert helpers.bits(got) == helpers.bits(call(op))
    with pytest.raises(RuntimeError, match=r"gaal_fast::project_"):
        torch.func.functionalize(project)(*CALLS["project_"][1].values())


def test_vmap_goes_slice_by_slice_or_names_the_op() -> None:
    logits = helpers.random_logits(12, 5, torch.float32).view(3, 4, 5)
    labels = torch.arange(12).view(3, 4) % 5
    got = torch.vmap(lambda z, y: ops.softmax_stats(z, y))(logits, labels)
    one_by_one = [ops.softmax_stats(z, y) for z, y in zip(logits, labels, strict=True)]
    assert helpers.bits(got) == helpers.bits(
        [torch.stack(parts) for parts in zip(*one_by_one, strict=True)]
    )
    epsilons = torch.tensor([0.0, 0.5, 9.0])

    def step(epsilon: Any) -> Tensor:
        return ops.guided_linear_ce(
            X, LABELS, GUIDE, LABELS, HEAD, None, top_k=2, epsilon=epsilon
        ).grad_weight

    assert helpers.bits(torch.vmap(step)(epsilons)) == helpers.bits(
        torch.stack([step(e.item()) for e in epsilons])
    )
    with pytest.raises(RuntimeError, match=r"gaal_fast::project_"):
        torch.vmap(lambda g: ops.project_([g], [HEAD]).v)(torch.ones(3, 5, 4))


def test_a_derivative_is_refused_instead_of_zero() -> None:
    def entropy(z: Tensor) -> Tensor:
        return ops.softmax_stats(z)[0].sum()

    refused = pytest.raises(
        RuntimeError,
        match=r"^gaal_fast::softmax_stats is not differentiable: detach\(\) logits first$",
    )
    for transform in (torch.func.grad, torch.func.jacrev, torch.func.jacfwd, torch.func.hessian):
        with refused:
            transform(entropy)(LOGITS)
    with refused:
        torch.func.jvp(entropy, (LOGITS,), (LOGITS,))
    with refused, forward_ad.dual_level():
        entropy(forward_ad.make_dual(LOGITS, LOGITS))
    with forward_ad.dual_level():
        assert entropy(LOGITS) == entropy(LOGITS.clone())
    gradient = torch.func.grad(lambda z: entropy(z.detach()) * z.sum())(LOGITS)
    assert torch.equal(gradient, entropy(LOGITS).expand_as(LOGITS))


def test_gradients_that_share_memory_are_refused() -> None:
    memory = torch.arange(10.0)
    ones = torch.ones(6)
    with pytest.raises(ValueError, match=r"^grads\[1\] shares memory with grads\[0\]"):
        ops.project_([memory[:6], memory[4:]], [ones, ones])
    with pytest.raises(ValueError, match=r"^grads\[1\] shares memory with grads\[0\]"):
        ops.project_([memory, memory], [torch.ones(10)] * 2)
    with pytest.raises(ValueError, match=r"^grads\[0\] has elements that share memory"):
        ops.project_([memory.as_strided((3, 3), (2, 1))], [torch.ones(3, 3)])
    assert memory.tolist() == list(range(10))
    # Places that interleave are apart all the same.
    assert ops.project_([memory.as_strided((2, 2), (2, 3))], [-torch.ones(2, 2)]).v.item() == 2.5
    assert memory.tolist() == [-2.5, 1.0, -0.5, 0.5, 4.0, 2.5, 6.0, 7.0, 8.0, 9.0]


def test_a_guide_that_shares_memory_counts_as_it_was() -> None:
    memory = torch.arange(1.0, 7.0)
    apart = [memory[:4].clone()]
    want = ops.project_(apart, [memory[2:].clone()], epsilon=100.0)
    got = ops.project_([memory[:4]], [memory[2:]], epsilon=100.0)
    assert helpers.bits([got, memory[:4]]) == helpers.bits([want, apart]) and memory[
        4:
    ].tolist() == [5.0, 6.0]
    g, h = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0])
    assert ops.project_([g, h], [h, g], epsilon=10.0).v.item() == 2.0
    assert g.tolist() == [1.0, 4.0] and h.tolist() == [2.0, 2.0]
    g = torch.ones(4)  # the very same tensor
    assert ops.project_([g], [g], epsilon=8.0).v.item() == 1.0 and g.tolist() == [2.0] * 4
    matrix = torch.arange(16.0).view(4, 4)
    halves = [matrix[:, ::2], matrix[:, 1::2]]
    expected = [half + 100.0 for half in halves]
    ops.project_(halves, [torch.ones(4, 2)] * 2, epsilon=16.0 * 100.0 + 120.0)
    assert all(torch.equal(half, want) for half, want in zip(halves, expected, strict=True))


def test_inference_mode() -> None:
    with torch.inference_mode():
        results = {op: call(op) for op in CALLS}
    assert all(helpers.bits(results[op]) == helpers.bits(call(op)) for op in CALLS)


def test_a_default_device_changes_nothing() -> None:
    expected = {op: call(op) for op in CALLS}
    with torch.device("meta"):
        results = {op: call(op) for op in CALLS}
    assert all(helpers.bits(results[op]) == helpers.bits(expected[op]) for op in CALLS)
