"""`read_data`: whatever the user has becomes `Data`, checked against the inputs of the model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from dataclasses import fields as fields_of
from pathlib import Path
from typing import Any

import numpy as np

from sardonyx.converters.source import Input
from sardonyx.errors import InputError
from sardonyx.optimizer.data import Data, Feeds
from sardonyx.optimizer.metrics.metric import import_function
from sardonyx.optimizer.reading import images, table
from sardonyx.verifier.samples import make_samples

__all__ = ["DataOptions", "digest", "hold_out", "read_data", "split"]

GENERATED = 32
LABELS = ("labels", "label", "y")  # names of arrays that are no inputs
MOST_CALIBRATION = 256
CALIBRATION_SHARE = 0.25
PROOF_SHARE = 1 / 3  # of what calibration leaves
LEAST_PROOF = 16  # samples: fewer say nothing that those which chose do not say


@dataclass(frozen=True)
class DataOptions:
    """How data is read; what recipes keep of it.

    Attributes:
        labels: a file of labels (.npy, .txt or .csv, a row for each sample), or the column of a table.
        batch: rows in each run, where the model leaves its first dimension open.
        limit: take so many samples at most, the first ones.
        resize: shorter side of a picture before the middle is cut out; 0: it takes the model's size as a whole.
        mean, std: for each channel, of pixels between 0 and 1: ``(pixel - mean) / std``.
        scale: what a pixel of 255 becomes before `mean` and `std`.
        bgr: blue first.
    """

    labels: str | None = None
    batch: int = 1
    limit: int = 0
    resize: int = 0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    scale: float = 1.0
    bgr: bool = False

    def to_json(self) -> dict[str, Any]:
        """What differs from the defaults."""
        given = asdict(self)
        plain = {f.name: given[f.name] for f in fields_of(self) if given[f.name] != f.default}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> DataOptions:
        """What `to_json` gave.

        Raises:
            InputError: a name is unknown.
        """
        names = [each.name for each in fields_of(cls)]
        unknown = sorted(set(values) - set(names))
        if unknown:
            raise InputError(f"there is no option of data called {unknown[0]!r}", hint=f"known are {', '.join(names)}")
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**plain)


def read_data(source: Any, inputs: Sequence[Input], options: DataOptions | None = None, seed: int = 0) -> Data:
    """The data at `source`, for a model with `inputs`.

    Args:
        source: a path (.npz, .npy, .csv, a folder of pictures), ``module:function``, a function or an iterable that
            gives feeds, pairs of feeds and label, or arrays; a dictionary of arrays; `Data`; None: samples are made up.
        inputs: what the model takes.
        options: see `DataOptions`.
        seed: of samples that are made up.

    Raises:
        InputError: there is nothing, it does not fit the model, or holds NaN; says what, where, and what to do.
    """
    options = options or DataOptions()
    if source is None:
        return generated(inputs, seed, options.batch)
    if isinstance(source, Data):
        return checked(source, inputs)
    if isinstance(source, str) and ":" in source and not Path(source).exists():
        found, origin = import_function(source, "--data"), source
        return checked(_iterated(found(), inputs, origin), inputs)
    if isinstance(source, (str, Path)):
        return checked(_limited(_from_path(Path(source), inputs, options), options.limit), inputs)
    if isinstance(source, Mapping):
        return checked(_from_arrays(dict(source), inputs, options, "arrays"), inputs)
    if isinstance(source, np.ndarray):
        return checked(_from_arrays({_only(inputs, "an array"): source}, inputs, options, "an array"), inputs)
    if callable(source):
        return checked(_limited(_iterated(source(), inputs, "a function"), options.limit), inputs)
    if isinstance(source, Iterable):
        return checked(_limited(_iterated(source, inputs, "an iterable"), options.limit), inputs)
    raise InputError(f"data cannot be a {type(source).__name__}", hint="give a path, arrays by name, or an iterable")


def generated(inputs: Sequence[Input], seed: int, batch: int = 1, count: int = GENERATED) -> Data:
    """Made up: normal numbers, small integers. Open first dimensions are `batch`, others as the verifier chooses."""
    named: dict[Any, int] = {each.shape[0]: batch for each in inputs if each.shape and isinstance(each.shape[0], str)}
    fixed = [Input(i.name, i.dtype, tuple(named.get(d, d) for d in i.shape), i.low, i.high, i.choices) for i in inputs]
    feeds = [make_samples(fixed, seed=seed * 10_007 + number, corners=False)[0].feeds for number in range(count)]
    return Data(feeds, None, f"{count} samples that were made up", generated=True)


def split(data: Data, seed: int, share: float = CALIBRATION_SHARE) -> tuple[Data, Data]:
    """Calibration and evaluation, without a sample in common, drawn by `seed`.

    Raises:
        InputError: there are fewer than two samples, or no share of either kind.
    """
    count = len(data)
    if count < 2:
        raise InputError(
            f"{count} sample is given: one part calibrates, another judges",
            hint="give at least 2 samples; some dozens calibrate well, some hundreds judge well",
        )
    if not 0 < share < 1:
        raise InputError(f"a calibration share of {share}", hint="it lies between 0 and 1; the rest judges")
    first = max(1, min(MOST_CALIBRATION, round(count * share), count - 1))
    order = np.random.default_rng(seed).permutation(count)
    return _chosen(data, sorted(order[:first])), _chosen(data, sorted(order[first:]))


def hold_out(data: Data, seed: int) -> tuple[Data, Data | None]:
    """What judges candidates, and what is held out for the last proof: None where that would be too little."""
    count = len(data)
    held = round(count * PROOF_SHARE)
    if held < LEAST_PROOF:
        return data, None
    order = np.random.default_rng((seed, count)).permutation(count)
    return _chosen(data, sorted(order[held:])), _chosen(data, sorted(order[:held]))


def _chosen(data: Data, numbers: Sequence[int]) -> Data:
    labels = None if data.labels is None else [data.labels[number] for number in numbers]
    return Data([data.feeds[number] for number in numbers], labels, data.origin, data.generated)


def digest(*parts: Data) -> str:
    """Of all samples and labels: the same data has the same."""
    found = hashlib.blake2b(digest_size=16)
    for part in parts:
        for feeds in part:
            for name in sorted(feeds):
                array = np.asarray(feeds[name])
                found.update(f"{name} {array.dtype} {array.shape}".encode())
                raw = (
                    repr(array.tolist()).encode()
                    if array.dtype.kind in "OSU"
                    else np.ascontiguousarray(array).tobytes()
                )
                found.update(raw)
        found.update(repr([np.asarray(label).tolist() for label in part.labels or ()]).encode())
    return found.hexdigest()


def _limited(data: Data, limit: int) -> Data:
    return _chosen(data, range(min(limit, len(data)))) if limit else data


def _from_path(path: Path, inputs: Sequence[Input], options: DataOptions) -> Data:
    if not path.exists():
        raise InputError(f"there is no file or folder {str(path)!r}")
    if path.is_dir():
        return images.read_folder(path, inputs, options)
    kind = path.suffix.lower()
    if kind == ".csv":
        return table.read_table(path, inputs, options)
    if kind in (".npz", ".npy"):
        arrays = _arrays(path, inputs)
        if options.labels:
            arrays["labels"] = table.read_labels(Path(options.labels))
        return _from_arrays(arrays, inputs, options, path.name)
    raise InputError(
        f"{str(path)!r} is no kind of data that is known", hint="known are .npz, .npy, .csv, and folders of pictures"
    )


def _arrays(path: Path, inputs: Sequence[Input]) -> dict[str, np.ndarray]:
    try:
        with open(path, "rb") as file:
            content: Any = np.load(file, allow_pickle=False)
            if isinstance(content, np.ndarray):
                return {_only(inputs, path.name): content}
            return {name: content[name] for name in content.files}
    except InputError:
        raise
    except Exception as error:  # numpy raises much: ValueError, EOFError, BadZipFile, ...
        raise InputError(f"{str(path)!r} cannot be read as numpy arrays: {error}") from error


def _only(inputs: Sequence[Input], what: str) -> str:
    if len(inputs) != 1:
        names = ", ".join(each.name for each in inputs)
        raise InputError(f"{what} is one array, the model takes {len(inputs)}", hint=f"give an .npz with {names}")
    return inputs[0].name


def _from_arrays(arrays: dict[str, Any], inputs: Sequence[Input], options: DataOptions, origin: str) -> Data:
    """Arrays that hold all samples, cut into runs."""
    names = {each.name for each in inputs}
    labels = next((np.asarray(arrays.pop(name)) for name in LABELS if name in arrays and name not in names), None)
    if len(arrays) == len(names) == 1:  # one array, one input: no name is needed
        arrays = {inputs[0].name: next(iter(arrays.values()))}
    unknown, missing = sorted(set(arrays) - names), [each.name for each in inputs if each.name not in arrays]
    if unknown or missing:
        what = (
            f"an array for the input {missing[0]!r} is missing" if missing else f"the model has no input {unknown[0]!r}"
        )
        raise InputError(
            f"{origin}: {what}", hint=f"inputs are {', '.join(names)}; labels are called {', '.join(LABELS)}"
        )
    cuts = {each.name: _cut(np.asarray(arrays[each.name]), each, options.batch) for each in inputs}
    counts = {name: len(cut) for name, cut in cuts.items() if len(cut) > 1}
    if len(set(counts.values())) > 1:
        raise InputError(f"{origin}: the inputs have different numbers of samples: {counts}")
    count = next(iter(counts.values()), 1)
    feeds = [{name: cut[number if len(cut) > 1 else 0] for name, cut in cuts.items()} for number in range(count)]
    return Data(feeds, None if labels is None else _cut_labels(labels, count, origin), origin)


def _cut(array: np.ndarray, each: Input, batch: int) -> list[np.ndarray]:
    """The pieces of an array for single runs; one piece where every run gets the same."""
    rank = len(each.shape)
    if array.ndim == rank + 1:
        return list(array)
    if array.ndim != rank:
        raise InputError(
            f"the array for input {each.name!r} has shape {list(array.shape)}, the input {list(each.shape)}",
            hint="samples lie along the first axis, or along a further one in front",
        )
    if rank == 0 or (isinstance(each.shape[0], int) and array.shape[0] == each.shape[0]):
        return [array]
    rows = each.shape[0] if isinstance(each.shape[0], int) else batch
    count = len(array) // rows if rows else 0
    if not count:
        raise InputError(f"the array for input {each.name!r} has {len(array)} rows, a run takes {rows}")
    return [array[number * rows : (number + 1) * rows] for number in range(count)]


def _cut_labels(labels: np.ndarray, count: int, origin: str) -> list[Any]:
    if labels.ndim == 0 or len(labels) < count:
        raise InputError(f"{origin}: {labels.size} labels for {count} samples")
    rows = len(labels) // count
    return [labels[number * rows : (number + 1) * rows] for number in range(count)]


def _iterated(items: Any, inputs: Sequence[Input], origin: str) -> Data:
    feeds: list[Feeds] = []
    labels: list[Any] = []
    if isinstance(items, Data):
        return items
    if not isinstance(items, Iterable):
        raise InputError(f"{origin} gives a {type(items).__name__}, not samples one after the other")
    for item in items:
        if isinstance(item, tuple) and len(item) == 2:
            labels.append(item[1])
            item = item[0]
        if not isinstance(item, Mapping):
            item = {_only(inputs, "a sample"): item}
        feeds.append({name: np.asarray(array) for name, array in item.items()})
    if labels and len(labels) != len(feeds):
        raise InputError(f"{origin}: {len(labels)} of {len(feeds)} samples have labels", hint="label all, or none")
    return Data(feeds, labels or None, origin)


def checked(data: Data, inputs: Sequence[Input]) -> Data:
    """`data` with the element types of `inputs`.

    Raises:
        InputError: no samples; a name, a shape or a type that does not fit; NaN.
    """
    if not len(data):
        raise InputError(f"there are no samples in {data.origin or 'the data'}")
    if data.labels is not None and len(data.labels) != len(data):
        raise InputError(f"{len(data.labels)} labels for {len(data)} samples")
    feeds = [_fitting(each, inputs, number) for number, each in enumerate(data.feeds)]
    return Data(feeds, data.labels, data.origin, data.generated)


def _fitting(feeds: Feeds, inputs: Sequence[Input], number: int) -> dict[str, np.ndarray]:
    names = [each.name for each in inputs]
    wrong = sorted(set(feeds) ^ set(names))
    if wrong:
        what = "is missing" if wrong[0] in names else "is no input of the model"
        raise InputError(f"sample {number}: {wrong[0]!r} {what}", hint=f"inputs are {', '.join(names)}")
    return {each.name: _array(np.asarray(feeds[each.name]), each, number) for each in inputs}


def _array(array: np.ndarray, each: Input, number: int) -> np.ndarray:
    where = f"sample {number}, input {each.name!r}"
    fits = len(array.shape) == len(each.shape) and all(
        given == wanted for given, wanted in zip(array.shape, each.shape) if isinstance(wanted, int)
    )
    if not fits:
        raise InputError(f"{where}: shape {list(array.shape)}, the model takes {list(each.shape)}")
    if each.dtype == "string":
        if array.dtype.kind not in "OSU":
            raise InputError(f"{where}: {array.dtype}, the model takes text")
        return array.astype(object)
    wanted = np.dtype(each.dtype)
    if array.dtype != wanted and not np.can_cast(array.dtype, wanted, "same_kind"):
        raise InputError(f"{where}: {array.dtype}, the model takes {wanted}", hint="convert it with .astype()")
    if array.dtype.kind == "f" and np.isnan(array).any():
        raise InputError(
            f"{where}: {int(np.isnan(array).sum())} of {array.size} numbers are NaN", hint="leave such samples out"
        )
    return np.asarray(array, wanted, order="C")  # not ascontiguousarray, which gives a scalar an axis
