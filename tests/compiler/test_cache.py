"""The cache: entries are whole and ours or not there at all, whoever dies or writes at the same time."""

import errno
import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sardonyx.compiler import cache as module
from sardonyx.compiler.cache import Cache, default, fingerprint
from sardonyx.errors import CacheError

KEY = "model-0123456789abcdef"
ROOT = Path(__file__).parents[2]
posix = pytest.mark.skipif(os.name != "posix", reason="owners and modes are of Unix")


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache")


def fill(folder: Path) -> None:
    (folder / "model.so").write_bytes(b"library" * 100)
    (folder / "weights.bin").write_bytes(bytes(1000))
    (folder / "more").mkdir()
    (folder / "more" / "plan.json").write_text("{}")


def leftovers(cache: Cache) -> list[str]:
    return [n for n in os.listdir(cache.root / "entries") if n.startswith(".")]


def test_a_published_entry_is_found_and_not_made_again(cache):
    assert cache.entry(KEY) is None
    path = cache.publish(KEY, fill)
    assert cache.entry(KEY) == path
    assert (path / "more" / "plan.json").read_text() == "{}"
    assert cache.publish(KEY, lambda _: pytest.fail("made twice")) == path
    assert [entry.key for entry in cache.entries()] == [KEY]
    assert cache.size() >= 1700
    assert leftovers(cache) == []


@posix
def test_everything_is_private_whatever_the_umask(cache):
    before = os.umask(0)
    try:
        path = cache.publish(KEY, fill)
    finally:
        os.umask(before)
    for found in [cache.root, *cache.root.rglob("*")]:
        assert stat.S_IMODE(found.stat().st_mode) & 0o077 == 0, found
    assert cache.entry(KEY) == path


@pytest.mark.parametrize("key", ["", "short", "../../etc/passwd", "a/b" * 5, ".hidden-key", "x" * 200])
def test_keys_are_names_and_not_paths(cache, key):
    with pytest.raises(ValueError, match="not a cache key"):
        cache.entry(key)
    with pytest.raises(ValueError, match="not a cache key"):
        cache.publish(key, fill)


def flip(path):
    data = bytearray(path.read_bytes())
    data[50] ^= 1
    path.write_bytes(data)


def edit(path, change):
    manifest = json.loads(path.read_text())
    change(manifest["files"])
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "damage",
    [
        lambda p: flip(p / "model.so"),
        lambda p: (p / "model.so").unlink(),
        lambda p: (p / "weights.bin").write_bytes(bytes(999)),
        lambda p: (p / "more" / "plan.json").write_text("[]"),
        lambda p: (p / "manifest.json").write_text((p / "manifest.json").read_text()[:40]),
        lambda p: (p / "manifest.json").write_text(""),
        lambda p: (p / "manifest.json").write_text("[" * 100_000),
        lambda p: (p / "manifest.json").write_text("[1]"),
        lambda p: (p / "manifest.json").write_text('{"files": {"model.so": 3}}'),
        lambda p: (p / "manifest.json").unlink(),
        lambda p: edit(p / "manifest.json", lambda f: f["model.so"].pop("sha256")),
        lambda p: edit(p / "manifest.json", lambda f: f.update({"../x.so": f["model.so"]})),
        lambda p: edit(p / "manifest.json", lambda f: f.update({"/etc/passwd": f["model.so"]})),
    ],
)
def test_a_damaged_entry_is_removed_and_made_again(cache, damage):
    path = cache.publish(KEY, fill)
    damage(path)
    assert cache.entry(KEY) is None
    assert not path.exists()
    assert cache.publish(KEY, fill) == path
    assert cache.entry(KEY) == path


@posix
@pytest.mark.parametrize("name", ["model.so", "manifest.json", "."])
def test_entries_that_others_can_write_are_not_used(cache, name):
    path = cache.publish(KEY, fill)
    os.chmod(path / name, 0o777)
    assert cache.entry(KEY) is None


@posix
def test_links_in_place_of_files_are_not_followed(cache, tmp_path):
    path = cache.publish(KEY, fill)
    (path / "model.so").rename(tmp_path / "elsewhere.so")
    (path / "model.so").symlink_to(tmp_path / "elsewhere.so")
    assert cache.entry(KEY) is None
    (tmp_path / "evil").mkdir()
    path.symlink_to(tmp_path / "evil")
    assert cache.entry(KEY) is None
    assert (tmp_path / "evil").is_dir()


@posix
def test_a_foreign_cache_is_refused(cache, monkeypatch):
    cache.publish(KEY, fill)
    user = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: user + 1)
    with pytest.raises(CacheError, match=f"belongs to user {user}"):
        Cache(cache.root)
    with pytest.raises(CacheError, match="belongs to user"):
        cache.entry(KEY)
    with pytest.raises(CacheError, match="belongs to user"):
        cache.publish(KEY + "2", fill)
    assert cache.root.is_dir()


@posix
def test_a_foreign_file_inside_an_entry_is_refused(cache, monkeypatch):
    path = cache.publish(KEY, fill)
    real = os.lstat

    def lstat(name, **options):
        facts = real(name, **options)
        if str(name).endswith("model.so"):
            return os.stat_result([*facts[:4], os.getuid() + 1, *facts[5:10]])
        return facts

    monkeypatch.setattr(os, "lstat", lstat)
    assert cache.entry(KEY) is None
    monkeypatch.undo()
    assert not path.exists()


@posix
def test_a_linked_or_open_root_is_refused(tmp_path):
    real = tmp_path / "real"
    real.mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(real)
    with pytest.raises(CacheError, match="symbolic link"):
        Cache(tmp_path / "link")
    real.chmod(0o777)
    with pytest.raises(CacheError, match="written by others"):
        Cache(real)
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match="not a folder"):
        Cache(tmp_path / "file")


def test_errors_of_make_come_through_and_leave_nothing(cache):
    def make(folder):
        fill(folder)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        cache.publish(KEY, make)
    assert cache.entry(KEY) is None
    assert leftovers(cache) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_full_or_read_only_disk_is_explained(cache, monkeypatch, number):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    with pytest.raises(CacheError, match=r"(?s)cannot use the cache in .*Hint: free some space"):
        cache.publish(KEY, fail)
    assert leftovers(cache) == []
    monkeypatch.setattr(os, "mkdir", fail)
    with pytest.raises(CacheError, match="cannot use the cache"):
        Cache(cache.root.parent / "other").publish(KEY, fill)


@pytest.mark.parametrize("below", ["cache", "more/cache"])
def test_an_explicit_folder_that_cannot_be_made_is_an_error(tmp_path, monkeypatch, below):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SARDONYX_CACHE_DIR", str(tmp_path / "file" / below))
    with pytest.raises(CacheError, match="cannot use the cache"):
        default().publish(KEY, fill)


@posix
def test_the_default_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SARDONYX_CACHE_DIR", str(tmp_path / "named"))
    assert default().root == tmp_path / "named"
    monkeypatch.delenv("SARDONYX_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default().root == tmp_path / "xdg" / "sardonyx"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default().root == tmp_path / ".cache" / "sardonyx"


@posix
def test_without_a_home_a_private_temporary_folder_is_used(tmp_path, monkeypatch):
    monkeypatch.delenv("SARDONYX_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    (tmp_path / "blocked").write_text("")
    monkeypatch.setenv("HOME", str(tmp_path / "blocked"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    root = tmp_path / f"sardonyx-{os.getuid()}"
    assert default().root == root
    assert stat.S_IMODE(root.stat().st_mode) == 0o700
    root.chmod(0o777)
    with pytest.raises(CacheError, match="written by others"):
        default()
    root.rmdir()
    root.symlink_to(tmp_path)
    with pytest.raises(CacheError, match="symbolic link"):
        default()


PUBLISHERS = """
import os, sys
from pathlib import Path
from sardonyx.compiler.cache import Cache

def fill(folder):
    (folder / "model.so").write_bytes(b"library" * 100)
    (folder / "weights.bin").write_bytes(bytes(1000))

start, go = os.pipe()
children = []
for _ in range(8):
    children.append(os.fork())
    if children[-1] == 0:
        os.close(go)
        os.read(start, 1)  # until the parent closes its end: all begin at once
        path = Cache(sys.argv[1]).publish(sys.argv[2], fill)
        os._exit(0 if (path / "model.so").read_bytes() == b"library" * 100 else 1)
os.close(go)
sys.exit(sum(os.waitpid(child, 0)[1] for child in children))
"""


@posix
@pytest.mark.parametrize("damaged", [False, True])
def test_eight_publishers_at_once_all_succeed(cache, damaged):
    if damaged:
        flip(cache.publish(KEY, fill) / "model.so")
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", PUBLISHERS, str(cache.root), KEY],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert leftovers(cache) == []
        path = cache.entry(KEY)
        assert path is not None
        if damaged:
            flip(path / "model.so")
        else:
            cache.remove(KEY)


@posix
def test_a_killed_publisher_leaves_only_what_is_swept_later(cache):
    script = (
        "import sys, time\n"
        "from sardonyx.compiler.cache import Cache\n"
        "def make(folder):\n"
        "    (folder / 'model.so').write_bytes(b'half')\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(60)\n"
        f"Cache(sys.argv[1]).publish({KEY!r}, make)\n"
    )
    command = [sys.executable, "-c", script, str(cache.root)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)})
    with process:
        assert process.stdout.readline() == b"ready\n"
        assert cache.entry(KEY) is None
        cache.prune(1 << 30)
        assert len(leftovers(cache)) == 1, "its maker lives"
        process.send_signal(signal.SIGKILL)
    assert cache.entry(KEY) is None
    assert len(leftovers(cache)) == 1
    cache.prune(1 << 30)
    assert leftovers(cache) == []
    assert cache.publish(KEY, fill).is_dir()


def test_old_work_of_other_machines_is_swept_by_age(cache):
    cache.publish(KEY, fill)
    other = cache.root / "entries" / ".new-elsewhere-1-abc"
    other.mkdir()
    cache.prune(1 << 30)
    assert other.is_dir()
    past = time.time() - 2 * 24 * 3600
    os.utime(other, (past, past))
    cache.prune(1 << 30)
    assert not other.exists()


def test_prune_keeps_what_was_used_last(cache, tmp_path):
    model = tmp_path / "model.onnx"
    model.write_bytes(b"x")
    for number in range(4):
        key = f"{KEY}-{number}"
        path = cache.publish(key, fill)
        os.utime(path / "manifest.json", (1000 + number, 1000 + number))
        cache.remember(fingerprint(model, str(number)), key)
    # Being used counts, not being made.
    assert cache.entry(f"{KEY}-0")
    one = cache.entries()[0].size
    assert cache.prune(cache.size() - one) >= one
    assert [entry.key for entry in cache.entries()] == [f"{KEY}-{n}" for n in (2, 3, 0)]
    assert cache.recall(fingerprint(model, "1")) is None
    assert cache.recall(fingerprint(model, "2")) == f"{KEY}-2"
    cache.clear()
    assert cache.entries() == []
    assert cache.recall(fingerprint(model, "2")) is None


def test_only_one_prunes(cache):
    cache.publish(KEY, fill)
    with cache._pruning() as mine:
        assert mine
        assert Cache(cache.root).prune(0) == 0
    assert Cache(cache.root).prune(0) > 0
    assert Cache(cache.root.parent / "nothing").prune(0) == 0


def test_the_index_recalls_a_file_until_it_or_its_data_change(cache, tmp_path):
    model, data = tmp_path / "model.onnx", tmp_path / "model.data"
    model.write_bytes(b"model")
    data.write_bytes(b"data")
    mark = fingerprint(model, "O2")
    assert cache.recall(mark) is None
    cache.remember(mark, KEY, [data])
    assert cache.recall(fingerprint(model, "O2")) == KEY
    assert cache.recall(fingerprint(model, "O3")) is None
    data.write_bytes(b"DATA")
    assert cache.recall(mark) is None
    cache.remember(mark, KEY, [data])
    assert cache.recall(mark) == KEY
    data.unlink()
    assert cache.recall(mark) is None
    model.write_bytes(b"MODEL")
    assert fingerprint(model, "O2") != mark


def test_a_file_replaced_at_once_by_another_of_the_same_size_has_another_mark(tmp_path):
    model = tmp_path / "model.onnx"
    for _ in range(5):
        model.write_bytes(b"model")
        mark = fingerprint(model)
        model.write_bytes(b"MODEL")
        assert fingerprint(model) != mark


@pytest.mark.parametrize("text", ["", "{", "[]", '{"key": 3}', '{"key": "../../x", "files": {}}'])
def test_a_damaged_index_is_as_good_as_none(cache, tmp_path, text):
    model = tmp_path / "model.onnx"
    model.write_bytes(b"model")
    mark = fingerprint(model)
    cache.remember(mark, KEY)
    (cache.root / "index" / mark).write_text(text)
    assert cache.recall(mark) is None


def test_remembering_on_a_read_only_disk_is_no_error(cache, tmp_path, monkeypatch):
    model = tmp_path / "model.onnx"
    model.write_bytes(b"model")

    def fail(*_, **__):
        raise OSError(errno.EROFS, "read-only")

    monkeypatch.setattr(module, "_create", fail)
    cache.remember(fingerprint(model), KEY)
    assert cache.recall(fingerprint(model)) is None


def test_a_warm_look_up_is_fast(cache):
    def make(folder):
        (folder / "model.so").write_bytes(bytes(300_000))
        (folder / "weights.bin").write_bytes(bytes(20_000_000))

    cache.publish(KEY, make)
    times = []
    for _ in range(20):
        begin = time.perf_counter()
        assert Cache(cache.root).entry(KEY)
        times.append(time.perf_counter() - begin)
    assert min(times) < 0.002
