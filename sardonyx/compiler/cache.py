"""The cache of compiled models and objects: one private folder, addressed by content.

    entries/<key>/          manifest.json and the files of one model, never changed once published
    index/<fingerprint>     which key a model file belongs to, known by size, mtime and inode alone
    zig/                    the compiler's own

What lies here is loaded into the process, so the folder must be the user's own: never a link, never writable by others.
A manifest holds the SHA-256 of every file except weights (`.bin`) and listings (`.c`): these are checked by size, since
hashing 400 MB would cost more than the whole warm load, and neither is executed. They are flushed to disk before
the manifest is written, so that a power cut leaves either the entry or nothing.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from sardonyx.compiler.folders import cache_root, check_private, explained, foreign
from sardonyx.errors import CacheError

__all__ = ["Cache", "Entry", "default", "fingerprint"]

MANIFEST = "manifest.json"
# Checked by size only.
UNHASHED = (".bin", ".c")
ATTEMPTS = 8
STALE_SECONDS = 24 * 3600
# Last use is noted at most this often: an entry in use costs one system call less.
TOUCH_SECONDS = 3600
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{7,127}")


class Entry(NamedTuple):
    """One entry of the cache: its key, its bytes on disk and when it was last used (seconds since 1970)."""

    key: str
    size: int
    last_used: float


class Cache:
    """A cache in one folder, which is made when something is first published.

    Args:
        root: The folder.

    Raises:
        CacheError: The folder exists and is a link, somebody else's, or writable by others.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)
        if os.path.lexists(self.root):
            check_private(self.root)

    def __repr__(self) -> str:
        return f"Cache({str(self.root)!r})"

    # ---------------------------------------------------------------- entries

    def entry(self, key: str) -> Path | None:
        """The folder of an entry, or None when there is none that is whole and ours.

        A damaged entry is removed. The files may be opened until the process ends, even if the entry is pruned
        meanwhile (on Windows pruning fails instead).

        Args:
            key: What it was published under.

        Raises:
            CacheError: The folder of the cache is no longer safe.
        """
        path = self._path(key)
        if not os.path.lexists(path):
            return None
        check_private(self.root)
        check_private(path.parent)
        seen = _identity(path)
        try:
            manifest = _verify(path)
        except ValueError:
            self._discard(path, seen)
            return None
        except OSError:  # out of descriptors, a sick disk: no reason to throw the entry away
            return None
        if time.time() - manifest.st_mtime > TOUCH_SECONDS:
            with contextlib.suppress(OSError):
                os.utime(path / MANIFEST)
        return path

    def publish(self, key: str, make: Callable[[Path], None]) -> Path:
        """The entry of that key, made if it is not there yet.

        Any number of processes may publish the same key at once: one wins, and all return its entry.

        Args:
            key: 8 to 128 letters, digits, dots, dashes and underscores; must follow from the contents.
            make: Fills the empty folder that it is given. What it raises is raised here, and nothing is kept.

        Raises:
            CacheError: The disk is full or read-only, or the folder is not safe.
        """
        existing = self.entry(key)
        if existing is not None:
            return existing
        path = self._path(key)
        work = self._workspace()
        try:
            make(work)
            _seal(work, key)
            for _ in range(ATTEMPTS):
                try:
                    os.rename(work, path)
                except OSError as error:
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                        raise
                else:
                    return path
                seen = _identity(path)
                if self.entry(key) is not None:
                    return path  # another publisher was faster
                self._discard(path, seen)  # what is there cannot be used, and entry() could not tell why
            raise CacheError(f"cannot replace the damaged cache entry {path}")
        except OSError as error:
            raise explained(error, self.root) from error
        finally:
            _remove_tree(work)

    def entries(self) -> list[Entry]:
        """All entries, the one used last at the end."""
        found = []
        for path in _children(self.root / "entries"):
            if path.name.startswith("."):
                continue
            try:
                used = os.stat(path / MANIFEST).st_mtime
            except OSError:
                used = 0.0
            found.append(Entry(path.name, _size(path), used))
        return sorted(found, key=lambda entry: entry.last_used)

    def size(self) -> int:
        """Bytes of everything in the cache, the compiler's own part included."""
        return _size(self.root)

    def remove(self, key: str) -> None:
        """Removes one entry, if it is there."""
        path = self._path(key)
        self._discard(path, _identity(path))

    def clear(self) -> None:
        """Removes everything; entries that other processes are just publishing are left to them."""
        with self._pruning() as mine:
            if not mine:
                return
            for entry in self.entries():
                self.remove(entry.key)
            self._sweep()
            _remove_tree(self.root / "index")
            _remove_tree(self.root / "zig")

    def prune(self, max_bytes: int, keep: str = "") -> int:
        """Removes what was used longest ago until the cache is no larger; returns the bytes removed.

        Does nothing when another process is pruning.

        Args:
            max_bytes: Size to keep to.
            keep: Key of an entry that stays.
        """
        removed = 0
        with self._pruning() as mine:
            if not mine:
                return 0
            before = self.size()
            self._sweep()
            excess = self.size() - max_bytes
            if excess > 0:
                _remove_tree(self.root / "zig")
                excess = self.size() - max_bytes
            for entry in self.entries():
                if excess <= 0:
                    break
                if entry.key == keep:
                    continue
                self.remove(entry.key)
                excess -= entry.size
            kept = {entry.key for entry in self.entries()}
            for path in _children(self.root / "index"):
                record = _read_json(path)
                if record is None or record.get("key") not in kept:
                    with contextlib.suppress(OSError):
                        path.unlink()
            removed = before - self.size()
        return removed

    # ---------------------------------------------------------------- index

    def recall(self, mark: str) -> str | None:
        """The key that `remember` stored for this fingerprint; None when unknown, or a further file has changed.

        Args:
            mark: From `fingerprint`.
        """
        try:
            # A record names what will be executed, so it is trusted no more than the entry itself.
            check_private(self.root / "index")
            record = _read_json(self.root / "index" / mark)
            if record is None or not _KEY.fullmatch(record["key"]):
                return None
            for name, facts in record["files"].items():
                if _facts(name) != facts:
                    return None
        except (OSError, CacheError, KeyError, TypeError, AttributeError):
            return None
        return record["key"]

    def remember(self, mark: str, key: str, files: Iterable[str | os.PathLike[str]] = ()) -> None:
        """Notes that a fingerprint leads to a key. A cache that cannot be written is left as it is.

        Args:
            mark: From `fingerprint`, taken *before* the model was read.
            key: Key of the published entry.
            files: Further files that the entry depends on, such as external data.
        """
        self._path(key)
        with contextlib.suppress(OSError, CacheError):
            record = {
                "key": key,
                "files": {os.path.realpath(f): _facts(os.fspath(f)) for f in files},
            }
            folder = self._folder("index")
            work = folder / f".{os.getpid()}-{os.urandom(8).hex()}"
            try:
                with _create(work) as file:
                    json.dump(record, file)
                os.replace(work, folder / mark)
            except BaseException:
                work.unlink(missing_ok=True)
                raise

    # ---------------------------------------------------------------- inside

    def folder(self, name: str) -> Path:
        """A private folder in the cache for a tool's own use, made if needed.

        Raises:
            CacheError: It cannot be made, or is not safe.
        """
        try:
            return self._folder(name)
        except OSError as error:
            raise explained(error, self.root) from error

    def _folder(self, name: str) -> Path:
        if not os.path.lexists(self.root):
            os.makedirs(self.root.parent, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                os.mkdir(self.root, 0o700)
        check_private(self.root)
        path = self.root / name
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
        check_private(path)
        return path

    def _path(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise ValueError(f"not a cache key: {key!r}")
        return self.root / "entries" / key

    def _workspace(self) -> Path:
        try:
            folder = self._folder("entries")
            path = folder / f".new-{_origin()}-{os.getpid()}-{os.urandom(8).hex()}"
            os.mkdir(path, 0o700)
        except OSError as error:
            raise explained(error, self.root) from error
        return path

    def _discard(self, path: Path, seen: tuple[int, int]) -> None:
        """Removes an entry, unless somebody has replaced it since `seen` was taken."""
        # Renamed first: nobody sees an entry that is half removed.
        trash = path.with_name(f".old-{_origin()}-{os.getpid()}-{os.urandom(8).hex()}")
        with contextlib.suppress(OSError):
            if _identity(path) != seen:
                return
            os.rename(path, trash)
            if _identity(trash) != seen:
                os.rename(trash, path)
            elif trash.is_symlink() or not trash.is_dir():
                trash.unlink()
            else:
                _remove_tree(trash)

    def _sweep(self) -> None:
        """Removes what killed publishers left behind."""
        for path in _children(self.root / "entries"):
            kind, _, rest = path.name.partition("-")
            origin, _, rest = rest.partition("-")
            pid = rest.partition("-")[0]
            if kind not in (".new", ".old") or not pid.isdigit():
                continue
            try:
                old = time.time() - os.lstat(path).st_mtime > STALE_SECONDS
            except OSError:
                continue
            # A process id says something only where it was given: another container may share this folder.
            if old or (origin == _origin() and not _alive(int(pid))):
                _remove_tree(path)

    @contextlib.contextmanager
    def _pruning(self) -> Iterator[bool]:
        """Holds the lock of those who remove things; False when there is nothing here or another holds it."""
        if not self.root.is_dir():
            yield False
            return
        check_private(self.root)
        if sys.platform == "win32":
            yield True
            return
        import fcntl

        try:
            handle = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise explained(error, self.root) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
        finally:
            os.close(handle)


def fingerprint(path: str | os.PathLike[str], options: str = "") -> str:
    """What tells one state of a file from another without reading it, together with `options`.

    Args:
        path: The model file.
        options: Everything else that the key depends on, as text.

    Raises:
        OSError: There is no such file.
    """
    real = os.path.realpath(path)
    text = json.dumps([real, _facts(real), options])
    return hashlib.sha256(text.encode()).hexdigest()


def default() -> Cache:
    """The user's cache (see `folders.cache_root`).

    Raises:
        CacheError: Its folder is a link, somebody else's, or writable by others.
    """
    return Cache(cache_root())


def _verify(path: Path) -> os.stat_result:
    """Checks an entry against its manifest; the facts of the manifest.

    Raises:
        ValueError: It is damaged, incomplete or not ours.
        OSError: It cannot be read.
    """
    try:
        check_private(path)
        manifest_facts = os.lstat(path / MANIFEST)
        _require(stat.S_ISREG(manifest_facts.st_mode) and not foreign(manifest_facts))
        manifest = _read_json(path / MANIFEST)
        if manifest is None:
            raise ValueError(f"damaged manifest in {path}")
        for name, expected in manifest["files"].items():
            _verify_file(path, name, expected)
    except (CacheError, KeyError, TypeError, AttributeError, FileNotFoundError) as error:
        raise ValueError(f"damaged cache entry {path}: {error}") from error
    return manifest_facts


def _verify_file(folder: Path, name: str, expected: dict[str, Any]) -> None:
    path = folder / name
    facts = os.lstat(path)
    _require(not name.startswith(("/", "\\")) and ".." not in Path(name).parts)
    _require(stat.S_ISREG(facts.st_mode) and not foreign(facts) and facts.st_size == expected["size"])
    if not name.endswith(UNHASHED):
        _require(_sha256(path) == expected["sha256"])


def _require(condition: bool) -> None:
    if not condition:
        raise ValueError("a file is missing, changed or not ours")


def _seal(work: Path, key: str) -> None:
    """Makes the files private and writes the manifest."""
    files: dict[str, dict[str, Any]] = {}
    for folder, folders, names in os.walk(work):
        for name in folders:
            os.chmod(os.path.join(folder, name), 0o700)
        for name in names:
            path = Path(folder, name)
            relative = path.relative_to(work).as_posix()
            if path.is_symlink() or not path.is_file():
                raise ValueError(f"only plain files can be published, not {relative}")
            os.chmod(path, 0o600)
            files[relative] = {"size": path.stat().st_size}
            if relative.endswith(UNHASHED):
                _flush(path)
            else:
                files[relative]["sha256"] = _sha256(path)
    with _create(work / MANIFEST) as file:
        json.dump({"key": key, "files": files}, file, indent=1, sort_keys=True)


def _create(path: Path) -> TextIO:
    """A new file of our own, open for writing."""
    return open(path, "x", opener=lambda name, flags: os.open(name, flags, 0o600))


def _identity(path: Path) -> tuple[int, int]:
    """Tells what lies at a path from what may be put there later; a rename does not change it."""
    try:
        facts = os.lstat(path)
    except OSError:
        return (0, 0)
    return (facts.st_ino, facts.st_mtime_ns)


def _remove_tree(path: Path) -> None:
    import shutil  # not above: a warm load removes nothing, and this costs 4 ms

    shutil.rmtree(path, ignore_errors=True)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def _facts(path: str) -> list[int]:
    """Size, mtime, ctime and inode of a file.

    Two changes within one tick of the file system's clock (10 ms) look alike, so a file that was changed just now is
    waited for: whatever happens to it later gets a later time.
    """
    facts = os.stat(path)
    if 0 <= time.time_ns() - facts.st_mtime_ns < 20_000_000:
        time.sleep(0.02)
        facts = os.stat(path)
    return [facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino]


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _children(folder: Path) -> list[Path]:
    try:
        return [folder / name for name in os.listdir(folder)]
    except OSError:
        return []


def _size(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(parent, name)).st_size
    return total


def _origin() -> str:
    """Eight letters for this machine and its name space of process ids."""
    node = os.uname().nodename if hasattr(os, "uname") else os.environ.get("COMPUTERNAME", "")
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = ""
    return hashlib.sha256(f"{node} {space}".encode()).hexdigest()[:8]


def _alive(pid: int) -> bool:
    if sys.platform == "win32":
        return True  # os.kill would end it; age decides
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
