"""What `sardonyx tune` has found: macros of kernels for one model on one kind of processor.

Winners lie in the cache beside compiled models, under a key made of the model's contents, the target, the name of the
processor and the sources of all kernels: when one of these changes, nothing is found and kernels are built as they are.
A macro may only move work between chunks, caches and tasks, never change a bit; `kernels/catalog.py` lists what is
legal.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from sardonyx.compiler.build import SOURCES
from sardonyx.compiler.cache import Cache
from sardonyx.deployment.targets import Target
from sardonyx.kernels.catalog import KERNELS

__all__ = ["Choice", "find", "processor", "remember"]

Choice = Mapping[str, Mapping[str, int]]  # kernel -> macro -> value
FILE = "tuned.json"


def find(store: Cache, content: str, target: Target) -> dict[str, dict[str, int]]:
    """The winners for a model, empty when it was not tuned here.

    Args:
        store: The cache.
        content: Digest of the model.
        target: What it is compiled for.
    """
    folder = store.entry(_key(content, target))
    if folder is None:
        return {}
    try:
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {kernel: macros for kernel, macros in found.items() if _listed(kernel, macros)}


def _listed(kernel: str, macros: Mapping[str, int]) -> bool:
    """Whether the catalog has these values: a file in the cache decides nothing that is not tested."""
    legal = KERNELS[kernel].tunables if kernel in KERNELS else {}
    return all(value in legal.get(macro, ()) for macro, value in macros.items())


def remember(store: Cache, content: str, target: Target, winners: Choice) -> None:
    """Keep the winners for a model in place of those before."""
    key = _key(content, target)
    store.remove(key)
    if not winners:
        return

    def make(folder: Path) -> None:
        (folder / FILE).write_text(json.dumps(winners, sort_keys=True), encoding="utf-8")

    store.publish(key, make)


def _key(content: str, target: Target) -> str:
    parts = [content, target.name, processor(), _sources()]
    return f"tuned-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:40]}"


@functools.cache
def _sources() -> str:
    digest = hashlib.sha256()
    for path in sorted(SOURCES.glob("*.[ch]")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


@functools.cache
def processor() -> str:
    """The name of this machine's processor, as the system gives it."""
    import platform

    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = (line.partition(":")[2].strip() for line in file if line.startswith("model name"))
            return next(names, "") or platform.machine()
    except OSError:  # not Linux: the name that Python knows has to do
        return platform.processor() or platform.machine()
