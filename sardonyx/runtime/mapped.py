"""Weights that are views of a mapped file."""

from __future__ import annotations

import mmap

import numpy as np


def forget(array: np.ndarray) -> None:
    """Let go of the memory behind a weight that is mapped from a file; it is read again when it is next used.

    Without this, walking through a model once makes all of its weights resident.
    """
    base: object = array
    while isinstance(base, (np.ndarray, memoryview)):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    if not isinstance(base, mmap.mmap) or not hasattr(base, "madvise"):
        return
    start = array.__array_interface__["data"][0] - np.frombuffer(base, np.uint8).__array_interface__["data"][0]
    first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE  # whole pages that hold nothing else
    length = (start + array.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE - first
    if length > 0:
        base.madvise(mmap.MADV_DONTNEED, first, length)
