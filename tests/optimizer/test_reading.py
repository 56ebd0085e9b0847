"""Data from files, folders, tables, iterables and nothing; and what is said of data that does not fit."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from sardonyx.converters.source import Input
from sardonyx.errors import InputError
from sardonyx.optimizer.data import Data
from sardonyx.optimizer.reading.read import DataOptions, digest, read_data, split

ROWS = [Input("x", "float32", ("batch", 3))]
PICTURE = [Input("image", "float32", (1, 3, 8, 6))]


def table(tmp_path, text):
    path = tmp_path / "data.csv"
    path.write_text(text)
    return path


def test_arrays_are_cut_into_runs_of_the_batch_that_is_asked_for():
    x = np.arange(33, dtype=np.float32).reshape(11, 3)
    data = read_data({"x": x, "y": np.arange(11)}, ROWS)
    assert len(data) == 11
    assert data.feeds[4]["x"].tolist() == [x[4].tolist()]
    assert [label.tolist() for label in data.labels] == [[n] for n in range(11)]
    data = read_data({"x": x, "y": np.arange(11)}, ROWS, DataOptions(batch=4))
    assert [feeds["x"].shape for feeds in data] == [(4, 3), (4, 3)]
    assert len(data.labels) == 2


def test_one_array_for_one_input_needs_no_name():
    data = read_data({"pixels": np.ones((5, 3), np.float32), "labels": np.arange(5)}, ROWS)
    assert data.feeds[0].keys() == {"x"}


def test_a_further_axis_in_front_counts_samples():
    data = read_data({"x": np.zeros((5, 2, 3), np.float32)}, ROWS)
    assert [feeds["x"].shape for feeds in data] == [(2, 3)] * 5


def test_an_array_of_the_inputs_own_shape_goes_to_every_run():
    inputs = [Input("x", "float32", (1, 3)), Input("state", "float32", (2, 1, 4)), Input("rate", "int64", ())]
    arrays = {"x": np.ones((7, 3), np.float32), "state": np.zeros((2, 1, 4), np.float32), "rate": np.array(16000)}
    data = read_data(arrays, inputs)
    assert len(data) == 7
    assert all(feeds["state"].shape == (2, 1, 4) and feeds["rate"].shape == () for feeds in data)


def test_npz_and_npy_files_are_read(tmp_path):
    x = np.ones((5, 3), np.float64)
    np.savez(tmp_path / "a.npz", x=x, labels=np.arange(5))
    np.save(tmp_path / "b.npy", x)
    (tmp_path / "labels.txt").write_text("3\n1\n4\n1\n5\n")
    assert read_data(tmp_path / "a.npz", ROWS).feeds[0]["x"].dtype == np.float32
    data = read_data(tmp_path / "b.npy", ROWS, DataOptions(labels=str(tmp_path / "labels.txt")))
    assert np.concatenate(data.labels).tolist() == [3, 1, 4, 1, 5]


def test_a_table_gives_rows_and_labels(tmp_path):
    data = read_data(table(tmp_path, "a,b,label,c\n1,2,cat,3\n4,5,dog,6\n"), ROWS)
    assert [feeds["x"].tolist() for feeds in data] == [[[1, 2, 3]], [[4, 5, 6]]]
    assert [label.tolist() for label in data.labels] == [["cat"], ["dog"]]


def test_a_table_has_a_column_for_each_of_several_inputs(tmp_path):
    inputs = [Input("age", "float32", ("n", 1)), Input("town", "string", ("n", 1))]
    data = read_data(table(tmp_path, "town,age,y\nUlm,3,0\nBonn,4,1\n"), inputs)
    assert data.feeds[1]["town"].tolist() == [["Bonn"]]
    assert data.feeds[1]["age"].tolist() == [[4.0]]


@pytest.mark.parametrize(
    ("text", "words"),
    [("a,b,c\n", "no rows"), ("a,b,c\n1,2,x\n", "'x' is no number"), ("a,b,c\n1,2\n", "2 cells"), ("", "no rows")],
)
def test_a_table_that_is_none_is_an_error(tmp_path, text, words):
    with pytest.raises(InputError, match=words):
        read_data(table(tmp_path, text), ROWS)


def picture(path, colour, size=(12, 10)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def test_folders_of_pictures_are_classes(tmp_path):
    picture(tmp_path / "cat" / "1.png", (255, 0, 51))
    picture(tmp_path / "dog" / "2.png", (0, 0, 0))
    data = read_data(tmp_path, PICTURE, DataOptions(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.25)))
    assert data.feeds[0]["image"].shape == (1, 3, 8, 6)
    np.testing.assert_allclose(data.feeds[0]["image"][0, :, 3, 3], [1, -1, (0.2 - 0.5) / 0.25], rtol=1e-6)
    assert [label.tolist() for label in data.labels] == [[0], [1]]


def test_pictures_are_cropped_in_the_middle_and_laid_out_as_the_model_wants(tmp_path):
    image = Image.new("RGB", (40, 20), (0, 0, 0))
    image.paste((255, 0, 0), (14, 0, 26, 20))
    image.save(tmp_path / "stripe.png")
    inputs = [Input("image", "uint8", ("n", 10, 10, 3))]
    [feeds] = read_data(tmp_path, inputs, DataOptions(resize=10, scale=255, bgr=True))
    assert feeds["image"].shape == (1, 10, 10, 3)
    assert feeds["image"][0, 5, 5].tolist() == [0, 0, 255]  # blue first: the red of the stripe comes last
    assert feeds["image"][0, 5, 0].tolist() == [0, 0, 0]


def test_labels_of_pictures_come_from_a_file_by_name(tmp_path):
    picture(tmp_path / "b.png", (0, 0, 0))
    picture(tmp_path / "a.png", (0, 0, 0))
    labels = tmp_path / "labels.csv"
    labels.write_text("file,label\nb.png,7\na.png,3\n")
    data = read_data(tmp_path, PICTURE, DataOptions(labels=str(labels)))
    assert [label.tolist() for label in data.labels] == [[3], [7]]
    labels.write_text("file,label\nb.png,7\n")
    with pytest.raises(InputError, match=r"no label for a\.png"):
        read_data(tmp_path, PICTURE, DataOptions(labels=str(labels)))


def test_a_folder_without_pictures_or_with_a_broken_one_is_an_error(tmp_path):
    with pytest.raises(InputError, match="no pictures"):
        read_data(tmp_path, PICTURE)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG nothing")
    with pytest.raises(InputError, match="cannot be read as a picture"):
        read_data(tmp_path, PICTURE)
    with pytest.raises(InputError, match="needs a model that takes one picture"):
        read_data(tmp_path, ROWS)


def test_iterables_and_functions_give_samples_with_labels_or_without():
    one = np.ones((1, 3), np.float32)
    assert len(read_data([one, one], ROWS)) == 2
    assert read_data(lambda: ((one, n) for n in range(3)), ROWS).labels == [0, 1, 2]
    assert read_data([{"x": one}], ROWS).labels is None
    with pytest.raises(InputError, match="1 of 2 samples have labels"):
        read_data([(one, 1), one], ROWS)


def test_nothing_means_samples_that_are_made_up_and_says_so():
    data = read_data(None, ROWS, seed=3)
    assert data.generated
    assert "made up" in data.origin
    assert data.feeds[0]["x"].shape == (1, 3)
    assert digest(data) == digest(read_data(None, ROWS, seed=3)) != digest(read_data(None, ROWS, seed=4))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ([], "no samples"),
        ({"z": np.ones((2, 3), np.float32), "w": np.ones(2)}, "'x' is missing"),
        ({"x": np.ones((2, 3), np.float32), "z": np.ones(2)}, "no input 'z'"),
        ({"x": np.ones((2, 4), np.float32)}, r"shape \[1, 4\]"),
        ({"x": np.ones(2, np.float32)}, r"shape \[2\]"),
        ({"x": np.array([["a", "b", "c"]] * 2)}, "the model takes float32"),
        ({"x": np.array([[1, 2, 3], [1, np.nan, 3]], np.float32)}, "sample 1, input 'x': 1 of 3 numbers are NaN"),
        ({"x": np.ones((3, 3), np.float32), "y": np.ones(2)}, "2 labels for 3 samples"),
        ("no_such_file.npz", "no file or folder"),
        ("no_such_module:f", "cannot be imported"),
        (42, "data cannot be a int"),
    ],
)
def test_data_that_does_not_fit_is_an_error_that_says_where(source, words):
    with pytest.raises(InputError, match=words):
        read_data(source, ROWS)


def test_a_file_that_is_no_array_is_an_error(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(InputError, match="cannot be read as numpy arrays"):
        read_data(tmp_path / "a.npz", ROWS)
    np.save(tmp_path / "b.npy", np.array([object()]), allow_pickle=True)
    with pytest.raises(InputError, match="cannot be read as numpy arrays"):
        read_data(tmp_path / "b.npy", ROWS)


def test_parts_have_no_sample_in_common_and_follow_the_seed():
    data = Data([{"x": np.full((1, 3), n, np.float32)} for n in range(17)], list(range(17)))
    first, second = split(data, 5)
    assert len(first) == 4
    assert sorted([*first.labels, *second.labels]) == list(range(17))
    assert split(data, 5)[0].labels == first.labels != split(data, 6)[0].labels


def test_one_sample_is_too_few():
    with pytest.raises(InputError, match="1 sample is given"):
        split(Data([{"x": np.ones((1, 3))}]), 0)
    with pytest.raises(InputError, match="share of 1"):
        split(Data([{"x": np.ones((1, 3))}] * 3), 0, 1.0)
