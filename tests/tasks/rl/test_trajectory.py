"""The stored form of a trajectory."""

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.rl.trajectory import Trajectory, TrajectoryError, from_bytes, to_bytes

token = st.tuples(st.integers(0, 2**31 - 1), st.integers(0, 1), st.floats(-50, 0, width=32), st.integers(-1, 10_000))


@given(st.lists(token), st.dictionaries(st.text(max_size=8), st.binary(max_size=20)))
def test_every_token_comes_back_bit_for_bit(tokens, artifacts):
    columns = [list(column) for column in zip(*tokens, strict=True)] or [[], [], [], []]
    written = Trajectory("id", "shell", 2**40, "train", 3, 4, *columns, artifacts, 2, 1, "stop")
    read = from_bytes(to_bytes(written))
    assert read == written
    assert np.array_equal(np.float32(read.log_probs), np.float32(written.log_probs))


def test_lists_of_different_length_are_refused():
    with pytest.raises(TrajectoryError, match="differ in length"):
        Trajectory("t", "shell", 1, "train", 0, 0, [1, 2], [1], [0.0, 0.0], [0, 0])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_log_probs_that_are_no_numbers_are_refused(value):
    with pytest.raises(TrajectoryError, match="not finite"):
        Trajectory("t", "shell", 1, "train", 0, 0, [1, 2], [1, 1], [0.0, value], [0, 0])


@pytest.mark.parametrize("change", [{"token_ids": b"abc"}, {"versions": 7}, {"log_probs": "text"}])
def test_a_stored_list_that_is_none_is_refused(make_trajectory, change):
    record = msgpack.unpackb(to_bytes(make_trajectory())) | change
    with pytest.raises(TrajectoryError):
        from_bytes(msgpack.packb(record))


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x80"])
def test_foreign_bytes_are_refused(data):
    with pytest.raises(TrajectoryError):
        from_bytes(data)


def test_a_truncated_trajectory_is_refused(make_trajectory):
    with pytest.raises(TrajectoryError, match="bytes is not"):
        from_bytes(to_bytes(make_trajectory())[:-4])


def test_the_oldest_version_counts():
    trajectory = Trajectory("t", "shell", 1, "train", 0, 0, [1, 2, 3], [0, 1, 1], [0.0, -1.0, -1.0], [-1, 4, 6])
    assert trajectory.first_version == 4
    assert trajectory.sampled_versions == (4, 6)
    assert trajectory.sampled_tokens == 2
