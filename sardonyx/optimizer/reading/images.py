"""Folders of pictures, decoded and prepared by Pillow.

Labels are the places of sub-folders in alphabetical order, or come from a file: a line for each picture, in the order
of the names, or a .csv with the columns ``file`` and ``label``.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sardonyx.converters.source import Input
from sardonyx.errors import InputError, ProviderError
from sardonyx.optimizer.data import Data
from sardonyx.optimizer.reading.table import read_labels

if TYPE_CHECKING:
    from sardonyx.optimizer.reading.read import DataOptions

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}


def read_folder(folder: Path, inputs: Sequence[Input], options: DataOptions) -> Data:
    """All pictures under `folder`, in the order of their names.

    Raises:
        InputError: there are none, one cannot be decoded, or the model does not take pictures.
        ProviderError: Pillow is missing.
    """
    each, channels_last = _image_input(inputs)
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise InputError(f"there are no pictures in {str(folder)!r}", hint=f"looked for {', '.join(sorted(SUFFIXES))}")
    files = files[: options.limit] if options.limit else files
    size = _size(each, channels_last)
    arrays = [prepare(path, size, _channels(each, channels_last), options) for path in files]
    feeds = [{each.name: _laid_out(array, each, channels_last)} for array in arrays]
    return Data(feeds, _labels(folder, files, options), f"{len(files)} pictures of {folder.name}")


def _image_input(inputs: Sequence[Input]) -> tuple[Input, bool]:
    """The one input that takes a picture, and whether its channels come last."""
    if len(inputs) != 1 or len(inputs[0].shape) not in (3, 4):
        shapes = ", ".join(f"{each.name} {list(each.shape)}" for each in inputs)
        raise InputError(f"a folder of pictures needs a model that takes one picture; this one takes {shapes}")
    shape = inputs[0].shape[-3:]
    last = shape[2] in (1, 3) and shape[0] not in (1, 3)
    if not last and shape[0] not in (1, 3):
        raise InputError(f"input {inputs[0].name!r} {list(inputs[0].shape)}: no axis of 1 or 3 channels")
    return inputs[0], last


def _size(each: Input, channels_last: bool) -> tuple[int, int] | None:
    height, width = each.shape[-3:-1] if channels_last else each.shape[-2:]
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


def _channels(each: Input, channels_last: bool) -> int:
    return int(each.shape[-1] if channels_last else each.shape[-3])


def prepare(path: Path, size: tuple[int, int] | None, channels: int, options: DataOptions) -> np.ndarray:
    """A picture as float32 [H, W, channels]: decoded, resized, cropped in the middle, normalised.

    Raises:
        InputError: it cannot be decoded.
        ProviderError: Pillow is missing.
    """
    try:
        from PIL import Image
    except ImportError:
        raise ProviderError(
            "pictures are read by Pillow, which is missing", hint="pip install 'sardonyx[optimize]'"
        ) from None
    try:
        with Image.open(path) as opened:
            picture: Any = opened.convert("L" if channels == 1 else "RGB")
    except Exception as error:  # Pillow raises much: OSError, SyntaxError, DecompressionBombError, ...
        raise InputError(f"{str(path)!r} cannot be read as a picture: {error}") from error
    if options.resize:
        ratio = options.resize / min(picture.size)
        picture = picture.resize([max(1, round(side * ratio)) for side in picture.size], Image.Resampling.BILINEAR)
        if size is not None:
            left, top = (picture.width - size[1]) // 2, (picture.height - size[0]) // 2
            picture = picture.crop((left, top, left + size[1], top + size[0]))
    elif size is not None and picture.size != (size[1], size[0]):
        picture = picture.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    pixels = np.asarray(picture, np.float32).reshape(picture.height, picture.width, channels)
    pixels = pixels[:, :, ::-1] if options.bgr else pixels
    pixels = pixels * np.float32(options.scale / 255)
    mean, std = (np.asarray(x, np.float32) if x else None for x in (options.mean, options.std))
    for each in (mean, std):
        if each is not None and each.size not in (1, channels):
            raise InputError(f"{each.size} numbers of mean or std for {channels} channels")
    pixels = pixels - mean if mean is not None else pixels
    return pixels / std if std is not None else pixels


def _laid_out(array: np.ndarray, each: Input, channels_last: bool) -> np.ndarray:
    array = array if channels_last else array.transpose(2, 0, 1)
    array = array[None] if len(each.shape) == 4 else array
    dtype = np.dtype(each.dtype)
    return np.ascontiguousarray(np.round(array) if dtype.kind in "iu" else array).astype(dtype)


def _labels(folder: Path, files: Sequence[Path], options: DataOptions) -> list[np.ndarray] | None:
    if options.labels:
        path = Path(options.labels)
        known = _named(path) if path.suffix == ".csv" else None
        if known is not None:
            lost = next((file for file in files if file.name not in known), None)
            if lost is not None:
                raise InputError(f"{path.name} has no label for {lost.name}")
            return [np.array([known[file.name]]) for file in files]
        labels = read_labels(path)
        if len(labels) < len(files):
            raise InputError(f"{path.name} has {len(labels)} labels for {len(files)} pictures")
        return [labels[number : number + 1] for number in range(len(files))]
    places = [file.relative_to(folder).parts for file in files]
    if any(len(parts) < 2 for parts in places):
        return None
    names = sorted({parts[0] for parts in places})
    return [np.array([names.index(parts[0])]) for parts in places]


def _named(path: Path) -> dict[str, Any]:
    """Labels by the name of the picture."""
    if not path.exists():
        raise InputError(f"there is no file of labels {str(path)!r}")
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        if not {"file", "label"} <= set(reader.fieldnames or ()):
            raise InputError(f"{path.name} needs the columns file and label")
        return {
            row["file"]: int(row["label"]) if row["label"].lstrip("-").isdigit() else row["label"] for row in reader
        }
