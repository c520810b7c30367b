"""Where a head step is taken, and what is said where it cannot be."""

from __future__ import annotations

import pytest
import torch

from gaal_fast.ops.backends.native import cuda as glue
from gaal_fast.ops.backends.native import cuda_host as host
from tests.native_cuda.build import Emulated


def test_where_a_step_is_taken() -> None:
    """The sizes of the paper in one launch, large ones around the library's products; the sample
    space for few rows of large heads.
    """
    of_the_paper = [
        (256, 256, 128, 286, 2048),
        (256, 256, 205, 717, 2048),
        (64, 64, 32, 286, 512),
        (256, 256, 128, 2, 2048),
    ]
    for size in [*of_the_paper, (0, 64, 0, 5, 7)]:
        assert glue.guided_path(*size) == "cooperative"
    for size in [
        (1024, 1024, 512, 10_000, 2048),
        (64, 64, 32, 100_000, 512),
        (5000, 5, 5, 2, 4),
        (5, 5000, 5, 2, 4),
    ]:
        assert glue.guided_path(*size) == "composed"
    assert glue.sample_space_is_cheaper(64, 32, 286, 512, torch.float32)
    assert glue.sample_space_is_cheaper(64, 32, 10_000, 2048, torch.float32)
    assert not glue.sample_space_is_cheaper(256, 128, 286, 2048, torch.float32)
    assert glue.sample_space_is_cheaper(256, 128, 717, 2048, torch.bfloat16)
    assert not glue.sample_space_is_cheaper(64, 32, 2, 2048, torch.float32)
    assert not glue.sample_space_is_cheaper(0, 0, 286, 512, torch.float32)


def test_availability_names_the_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    glue.availability.cache_clear()
    assert "CUDA devices only" in glue.availability(torch.device("cpu"))
    with monkeypatch.context() as patch:
        patch.setattr(host, "load", lambda: "No module named 'gaal_fast._native_cuda'")
        glue.availability.cache_clear()
        assert "were not built" in glue.availability(torch.device("cuda", 0))
        with pytest.raises(RuntimeError, match="cannot be used"):
            host.module()
    glue.availability.cache_clear()


def test_a_failed_launch_is_an_exception(device: Emulated) -> None:
    """More blocks than can be resident at once: the runtime refuses, and the message says so."""
    with pytest.raises(RuntimeError, match="too many rows"):
        device.module.entropy_topk(0, 0, 0, (0, 8193, 1, 1), 1, 0, 0, 0)
    with pytest.raises(RuntimeError, match="invalid value"):
        device.module.softmax_stats(7, 0, 0, (0, 1, 1, 1), 0, 0, 0, 0, 0)
