"""Where the cache lies, and whether a folder is safe to run code from."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from pathlib import Path

from sardonyx.errors import CacheError

__all__ = ["cache_root", "check_private", "explained", "foreign"]

# Failures of the disk, of permissions and of paths, as opposed to mistakes of the program.
_DISK_ERRNOS = {
    errno.ENOSPC,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EDQUOT,
    errno.EIO,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EEXIST,  # a file where a folder should be
    errno.ELOOP,
    errno.ENAMETOOLONG,
}


def cache_root() -> Path:
    """The user's cache folder: SARDONYX_CACHE_DIR, else `sardonyx` in the system's folder for caches.

    Where that cannot be written and was not asked for by name, a private folder among the temporary files, which is
    made at once: in a folder for everyone others may put something in our place.

    Raises:
        CacheError: Not even a temporary folder can be made.
    """
    named = os.environ.get("SARDONYX_CACHE_DIR")
    if named:
        return Path(os.path.abspath(named))
    root = _user_root()
    if root is not None and _usable(root):
        return root
    import tempfile

    root = Path(tempfile.gettempdir()) / f"sardonyx-{os.getuid() if hasattr(os, 'getuid') else 'user'}"
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(root, 0o700)
    except OSError as error:
        raise explained(error, root) from error
    return root


def _user_root() -> Path | None:
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA")
        return Path(base) / "sardonyx" / "cache" if base else None
    base = os.environ.get("XDG_CACHE_HOME")
    if base and os.path.isabs(base):
        return Path(base) / "sardonyx"
    home = os.path.expanduser("~")
    return Path(home) / ".cache" / "sardonyx" if os.path.isabs(home) else None


def _usable(root: Path) -> bool:
    """Whether the folder is there or could be made, and could be written."""
    if root.is_symlink():
        return True  # refused with a clear message, not passed over
    path = root
    while not path.exists():
        if path == path.parent:
            return False
        path = path.parent
    return path.is_dir() and os.access(path, os.W_OK | os.X_OK)


def check_private(path: Path) -> os.stat_result:
    """Raises CacheError unless `path` is a folder of our own that nobody else can write; its facts."""
    try:
        facts = os.lstat(path)
    except OSError as error:
        raise explained(error, path) from error
    problem = None
    if stat.S_ISLNK(facts.st_mode):
        problem = "is a symbolic link"
    elif not stat.S_ISDIR(facts.st_mode):
        problem = "is not a folder"
    else:
        problem = foreign(facts)
    if problem:
        raise CacheError(
            f"cache folder {path} {problem}",
            hint="its contents are executed: it must be a folder of your own with mode 0700. "
            "Remove it, or set SARDONYX_CACHE_DIR to another.",
        )
    return facts


def foreign(facts: os.stat_result) -> str | None:
    """Why a file is not ours alone, or None. Windows keeps profiles apart by other means, so there it always is."""
    if not hasattr(os, "getuid"):
        return None
    if facts.st_uid != os.getuid():
        return f"belongs to user {facts.st_uid}"
    if facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "can be written by others"
    return None


def explained(error: OSError, root: Path) -> OSError | CacheError:
    """The error that the user sees instead of one of the disk; others stay what they are."""
    if error.errno not in _DISK_ERRNOS:
        return error
    reason = error.strerror or str(error)
    return CacheError(
        f"cannot use the cache in {root}: {reason}",
        hint="free some space, or set SARDONYX_CACHE_DIR to a folder that can be written",
    )
