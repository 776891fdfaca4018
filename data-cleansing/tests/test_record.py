"""The published order of images, and the file of a record."""
import json
from pathlib import Path

import numpy as np
import pytest

from common.machine.errors import UsageError, UserError
from data_cleansing.data.splits import permutation, split
from data_cleansing.training.record import TrainingRecord, new_record, published_record

CASES = json.loads((Path(__file__).parent / "data" / "indices.json").read_text())


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['n']} images")
def test_agrees_with_reference(case):
    train_rows, valid_rows = split(case["n"], case["val_size"], case["split_seed"])
    assert train_rows.tolist() == case["train_rows"]
    assert valid_rows.tolist() == case["val_rows"]
    order = permutation(len(train_rows), case["split_seed"])
    assert order.tolist() == case["order_train"]
    record = published_record(len(train_rows), len(case["epochs"]), case["batch_size"], 0.1, case["split_seed"])
    expected = [order[positions].tolist() for epoch in case["epochs"] for positions in epoch]
    assert [record.batch(step)[0].tolist() for step in range(record.num_steps)] == expected


def test_every_use_of_an_image_has_its_own_seed():
    record = published_record(7, epochs=2, batch_size=3, learning_rate=0.1)
    assert record.num_steps == 6
    assert [record.batch(step)[1].tolist() for step in range(6)] == [
        [0, 1, 2], [3, 4, 5], [6], [7, 8, 9], [10, 11, 12], [13]]
    assert [record.first_step(epoch) for epoch in range(3)] == [0, 3, 6]
    for epoch in (0, 1):
        assert sorted(record.rows[7 * epoch:7 * epoch + 7]) == list(range(7))


def test_without_augmentation_there_are_no_seeds():
    assert published_record(7, 1, 3, 0.1, augment=False).batch(0)[1] is None


def test_the_global_random_state_is_left_alone():
    np.random.seed(5)    # noqa: NPY002
    before = np.random.get_state()[1].copy()    # noqa: NPY002
    published_record(20, 2, 4, 0.1)
    np.testing.assert_array_equal(np.random.get_state()[1], before)    # noqa: NPY002


def test_a_record_survives_its_file(tmp_path):
    record = published_record(7, 2, 3, 0.1, split_seed=1)
    record.save(tmp_path / "record.npz")
    loaded = TrainingRecord.load(tmp_path / "record.npz")
    for name in ("num_images", "rows", "seeds", "bounds", "epochs", "learning_rates"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(record, name))


def test_damaged_records_are_told(tmp_path):
    path = tmp_path / "record.npz"
    with pytest.raises(UsageError, match="no such record"):
        TrainingRecord.load(path)
    published_record(7, 2, 3, 0.1).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:len(whole) // 2])
    with pytest.raises(UserError, match="cannot be read as the record of a training"):
        TrainingRecord.load(path)
    np.savez(path, rows=np.arange(3))
    with pytest.raises(UserError, match="cannot be read as the record"):
        TrainingRecord.load(path)


@pytest.mark.parametrize("valid_size", [0, 5, 6])
def test_a_split_leaves_both_sides_something(valid_size):
    with pytest.raises(UsageError, match="choose 1 to 4"):
        split(5, valid_size, 0)


@pytest.mark.parametrize("plan", [published_record, lambda *sizes: new_record(*sizes, seed=0)],
                         ids=["published", "new"])
@pytest.mark.parametrize("change, message", [
    ((0, 2, 4, 0.1), "num_images 0"), ((9, 0, 4, 0.1), "epochs 0"), ((9, 1.5, 4, 0.1), "epochs 1.5"),
    ((9, 2, 0, 0.1), "batch_size 0"), ((9, 2, 2.5, 0.1), "batch_size 2.5"), ((9, 2, 4, None), "learning_rate None"),
    ((9, 2, 4, float("nan")), "learning_rate nan"), ((9, 2, 4, "0.1"), "learning_rate '0.1'")])
def test_a_plan_names_the_argument_that_is_wrong(plan, change, message):
    with pytest.raises(ValueError, match=message):
        plan(*change)
