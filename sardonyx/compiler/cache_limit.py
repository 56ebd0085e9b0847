"""The cache of compiled models keeps to a size by itself: weights lie in it, and a folder of models fills a disk."""

from __future__ import annotations

import os
import time

from sardonyx.compiler.cache import Cache
from sardonyx.errors import CacheError

__all__ = ["VARIABLE", "trim"]

VARIABLE = "SARDONYX_CACHE_LIMIT"  # bytes; 0: no limit
LIMIT = 16 << 30
CHECK_SECONDS = 300  # the size is looked at no more often: that reads the facts of every file


def trim(store: Cache, keep: str) -> None:
    """After a model was compiled: if the cache is too large, what was used longest ago goes, to three quarters.

    Args:
        store: The cache.
        keep: Key of an entry that stays, however large.

    Raises:
        CacheError: SARDONYX_CACHE_LIMIT is no number.
    """
    text = os.environ.get(VARIABLE, "")
    if text and not text.isdigit():
        raise CacheError(f"{VARIABLE} is {text!r}", hint="a number of bytes; 0: no limit")
    limit = int(text or LIMIT)
    if limit == 0 or not _due(store):
        return
    if store.size() > limit:
        store.prune(limit * 3 // 4, keep=keep)


def _due(store: Cache) -> bool:
    """Whether nobody has looked for a while; notes that this process does."""
    mark = store.root / "trimmed"
    try:
        if time.time() - mark.stat().st_mtime < CHECK_SECONDS:
            return False
    except OSError:
        pass
    try:
        mark.touch()
    except OSError:  # a cache that cannot be written does not grow
        return False
    return True
