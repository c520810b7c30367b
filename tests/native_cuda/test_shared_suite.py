"""Every test of the ops that takes a backend, with the CUDA kernels run on the emulated device."""

from __future__ import annotations

import inspect

from tests.ops import (
    test_entropy_topk,
    test_guided_linear_ce,
    test_linear_ce_grad,
    test_project,
    test_softmax_stats,
)

for _module in (
    test_softmax_stats,
    test_entropy_topk,
    test_linear_ce_grad,
    test_project,
    test_guided_linear_ce,
):
    _op = _module.__name__.rpartition(".test_")[2]
    for _name, _function in list(vars(_module).items()):
        if (
            _name.startswith("test_")
            and callable(_function)
            and "backend" in inspect.signature(_function).parameters
        ):
            globals()[f"test_{_op}_{_name.removeprefix('test_')}"] = _function
