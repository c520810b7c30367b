"""Batches, their order, and that processes change nothing."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from gaal_fast.data.batch import Batch, InputSpec
from gaal_fast.data.dataset import FusionDataset, ImageModality, TableModality
from gaal_fast.data.images.augment import augment, sample_rng
from gaal_fast.data.images.store import ImageStore
from gaal_fast.data.loader import EpochSampler, auto_workers, make_loader
from tests.data.conftest import write_images

N = 11
ROWS = np.array([9, 4, 0, 2, 7, 5, 10])  # 2 has no image, 5 a broken one, 7 no table, 10 neither


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    names = [f"{i}.png" for i in range(N)]
    write_images(tmp_path, names)
    (tmp_path / "5.png").write_bytes(b"broken")
    return ImageStore(
        [None if i in (2, 10) else str(tmp_path / name) for i, name in enumerate(names)],
        8,
        "photo",
        "none",
    )


@pytest.fixture
def features() -> np.ndarray:
    return np.arange(3 * N, dtype=np.float32).reshape(N, 3)


def build(
    store: ImageStore,
    features: np.ndarray,
    preset: str = "none",
    seed: int = 0,
    rows: np.ndarray = ROWS,
) -> FusionDataset:
    present = ~np.isin(np.arange(N), [7, 10])
    return FusionDataset(
        rows,
        np.arange(N) % 3,
        [ImageModality(store, preset, seed), TableModality(features, present)],
    )


def equal(one: Batch, two: Batch) -> bool:
    tensors = [(one.target, two.target), (one.index, two.index)]
    tensors += [
        pair for m in ("image", "table") for pair in zip(one.views[m], two.views[m], strict=True)
    ]
    return one.views.keys() == two.views.keys() and all(torch.equal(a, b) for a, b in tensors)


def test_a_batch_has_each_modality_of_the_rows_that_possess_it(
    store: ImageStore, features: np.ndarray
) -> None:
    batch = build(store, features).__getitems__(range(7))
    assert len(batch) == 7
    assert batch.index.tolist() == ROWS.tolist()
    assert batch.target.tolist() == (ROWS % 3).tolist()
    assert batch.views["image"].rows.tolist() == [0, 1, 2, 4]
    assert batch.views["table"].rows.tolist() == [0, 1, 2, 3, 5]
    assert torch.equal(batch.views["table"].values, torch.from_numpy(features[[9, 4, 0, 2, 5]]))
    assert batch.views["image"].values.dtype == torch.uint8, "normalized by the encoder"
    assert torch.equal(
        batch.views["image"].values, torch.stack([store.get(row)[0] for row in (9, 4, 0, 7)])
    )
    assert [(issue.row, issue.column) for issue in batch.issues] == [(5, "photo")]
    assert {
        t.dtype for t in (batch.target, batch.index, *(view.rows for view in batch.views.values()))
    } == {torch.int64}


def test_a_modality_that_no_row_has_is_empty(store: ImageStore, features: np.ndarray) -> None:
    dataset = build(store, features)
    batch = dataset.__getitems__([3, 6])
    assert batch.views["image"].values.shape == (0, 3, 8, 8)
    assert batch.views["image"].rows.shape == (0,)
    assert dataset[6].views["table"].values.shape == (0, 3)
    assert len(dataset[6]) == 1
    assert dataset.modality_names == ["image", "table"]
    assert dataset.present()["table"].tolist() == [True, True, True, True, False, True, False]


def test_keys_choose_the_augmentation(store: ImageStore, features: np.ndarray) -> None:
    batch = build(store, features, "light", seed=4).__getitems__([(3, 0), (8, 2)])
    expected = [
        augment(store.get(row)[0], "light", sample_rng(4, epoch, row))
        for epoch, row in ((3, 9), (8, 0))
    ]
    assert torch.equal(batch.views["image"].values, torch.stack(expected))
    assert batch.index.tolist() == [9, 0]


def test_other_modalities_can_be_left_out(store: ImageStore, features: np.ndarray) -> None:
    whole = build(store, features)
    narrow = whole.only(["table"])
    assert (whole.modality_names, narrow.modality_names) == (["image", "table"], ["table"])
    batch = narrow.__getitems__(range(7))
    assert batch.index.tolist() == ROWS.tolist()
    assert list(batch.views) == ["table"]
    expected = whole.__getitems__(range(7))
    assert torch.equal(batch.views["table"].values, expected.views["table"].values)
    assert list(expected.only(["table"]).views) == ["table"]


def test_modalities_say_what_an_encoder_has_to_take(
    store: ImageStore, features: np.ndarray
) -> None:
    specs = build(store, features).specs
    assert specs == {"image": InputSpec("image", (3, 8, 8)), "table": InputSpec("table", (3,))}
    assert (specs["image"].features, specs["table"].features) == (192, 3)


def test_several_views_of_a_row_are_augmented_on_their_own(
    store: ImageStore, features: np.ndarray
) -> None:
    names = ["image", "table"]
    one = build(store, features, "paper").__getitems__([(3, 0), (3, 1)])
    two = build(store, features, "paper").only(names, views=3).__getitems__([(3, 0), (3, 1)])
    assert two.views["image"].values.shape == (2, 3, 3, 8, 8)
    assert two.views["table"].values.shape == (2, 3, 3)
    assert torch.equal(two.views["image"].values[:, 0], one.views["image"].values)
    assert not torch.equal(two.views["image"].values[:, 0], two.views["image"].values[:, 1])
    assert torch.equal(two.views["image"].rows, one.views["image"].rows)
    empty = build(store, features, "light").only(names, views=2).__getitems__([3, 6])
    assert empty.views["image"].values.shape == (0, 2, 3, 8, 8)


def test_values_are_a_column_of_floats_and_an_unknown_one_is_no_number(
    features: np.ndarray,
) -> None:
    target = np.where(np.arange(N) == 4, np.nan, np.arange(N) / 2)
    dataset = FusionDataset(ROWS, target, [TableModality(features, np.ones(N, bool))])
    found = dataset.__getitems__([0, 1]).target
    assert found.dtype == torch.float64
    assert found.shape == (2, 1)
    assert found[0, 0] == 4.5 and found[1, 0].isnan()


def test_batches_move_between_devices(store: ImageStore, features: np.ndarray) -> None:
    batch = build(store, features).__getitems__(range(7))
    moved = batch.to("meta", non_blocking=True)
    assert {
        t.device.type
        for t in (
            moved.target,
            moved.index,
            *(part for view in moved.views.values() for part in view),
        )
    } == {"meta"}
    assert moved.issues == batch.issues
    assert equal(batch, batch.to("cpu"))


@pytest.mark.parametrize("size", [0, 1, 2, 8, 9, 10, 16, 17])
def test_every_row_is_drawn_once_but_for_a_single_one_left(size: int) -> None:
    sampler = EpochSampler(size, 8, seed=3)
    batches = list(sampler)
    assert len(batches) == len(sampler) == sampler.batches_per_epoch
    assert min((len(batch) for batch in batches), default=2) > 1
    drawn = Counter(position for batch in batches for _, position in batch)
    assert set(drawn.values()) <= {1}
    assert len(drawn) == size - (size % 8 == 1)
    assert set(drawn) <= set(range(size))


def test_the_order_depends_on_seed_and_epoch_and_resumes_anywhere() -> None:
    def order(seed: int, epoch: int, start: int = 0) -> list[list[tuple[int, int]]]:
        sampler = EpochSampler(50, 8, seed)
        sampler.set_epoch(epoch, start)
        batches = list(sampler)
        assert len(batches) == len(sampler)
        return batches

    assert order(1, 2) == order(1, 2)
    assert {epoch for batch in order(1, 2) for epoch, _ in batch} == {2}
    assert (
        len(
            {
                str(order(seed, epoch)).replace(f"({epoch},", "(")
                for seed in (0, 1)
                for epoch in (0, 1, 2)
            }
        )
        == 6
    )
    for start in range(8):
        assert order(1, 2, start) == order(1, 2)[start:]
    with pytest.raises(ValueError, match="batch_size"):
        EpochSampler(3, 0)


@pytest.mark.parametrize("workers", [0, 2])
def test_loaders_give_the_same_batches_with_and_without_processes(
    store: ImageStore, features: np.ndarray, workers: int
) -> None:
    dataset = build(store, features, "paper", rows=np.arange(N))
    sampler = EpochSampler(N, 4, seed=1)
    loader = make_loader(dataset, sampler=sampler, workers=workers)
    assert loader.num_workers == workers
    for epoch in (0, 1):
        sampler.set_epoch(epoch, start_batch=epoch)
        state = torch.get_rng_state()
        batches = list(loader)
        assert torch.equal(torch.get_rng_state(), state)
        expected = [dataset.__getitems__(keys) for keys in sampler]
        assert len(batches) == len(loader) == 3 - epoch
        assert all(equal(a, b) for a, b in zip(batches, expected, strict=True))
    in_order = list(make_loader(dataset, 4, workers=workers))
    assert torch.cat([batch.index for batch in in_order]).tolist() == list(range(N))
    assert [issue.row for batch in in_order for issue in batch.issues] == [5]
    with pytest.raises(ValueError, match="either"):
        make_loader(dataset, 4, sampler=sampler)
    with pytest.raises(ValueError, match="either"):
        make_loader(dataset)


def test_processes_are_used_only_where_images_cost_something(
    store: ImageStore, features: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = np.arange(300) % N
    for module in ("loader", "dataset"):
        monkeypatch.setattr(f"gaal_fast.data.{module}.available_cpus", lambda: 6)
    table_only = FusionDataset(many, np.arange(N) % 3, [TableModality(features, np.ones(N, bool))])
    assert auto_workers(build(store, features, rows=many)) == 6
    assert auto_workers(build(store, features, rows=many[:255])) == 0
    assert auto_workers(table_only) == 0
    cached = ImageStore([store.files[0]] * N, 8, "photo", "ram")
    cached.fill(progress=False)
    assert auto_workers(build(cached, features, "light", rows=many)) == 0
    assert auto_workers(build(cached, features, "paper", rows=many)) == 6
    monkeypatch.setattr("gaal_fast.data.dataset.available_cpus", lambda: 2)
    assert auto_workers(build(cached, features, "paper", rows=many)) == 0


@pytest.mark.gpu
def test_pinned_batches_reach_the_gpu(store: ImageStore, features: np.ndarray) -> None:
    [batch] = make_loader(build(store, features), 7, pin_memory=True)
    assert batch.views["image"].values.is_pinned()
    assert equal(batch.to("cuda", non_blocking=True).to("cpu"), batch)
