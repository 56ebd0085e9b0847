"""Sessions over one cache: whoever is killed, comes at the same time or damages an entry, the next session works."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from errors.models import FLOAT, model, node

from sardonyx import Session, SessionOptions
from sardonyx.errors import CacheError

ROOT = Path(__file__).parents[2]
WEIGHT = np.arange(2000, dtype=np.float32).reshape(2, 1000)
RUN = """
import sys
import numpy as np
from sardonyx import Session
print(Session(sys.argv[1]).run({"x": np.ones((1, 2), np.float32)})[0].sum())
"""


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SARDONYX_CACHE_DIR", str(tmp_path / "cache"))
    nodes = [node("MatMul", ["x", "w"], ["m"]), *(node(f, ["m"], [f]) for f in ("Relu", "Sigmoid", "Erf"))]
    made = model([*nodes, node("Sum", ["Relu", "Sigmoid", "Erf"])], {"x": (FLOAT, ["n", 2])}, {"w": WEIGHT})
    file = tmp_path / "m.onnx"
    file.write_bytes(made.SerializeToString())
    return file


def start(path: Path) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", RUN, str(path)], env=environment, stdout=subprocess.PIPE, text=True)


def works(path: Path) -> bool:
    session = Session(path, SessionOptions(progress=False))
    first = session.run({"x": np.ones((1, 2), np.float32)})[0]
    product = np.ones((1, 2)) @ WEIGHT
    return bool(np.all(first >= np.maximum(product, 0)) and np.all(first <= product + 2.001))


def files(path: Path, name: str) -> list[Path]:
    return list((path.parent / "cache").rglob(name))


def test_a_killed_compilation_leaves_a_usable_cache(path: Path) -> None:
    process = start(path)
    deadline = time.monotonic() + 60
    while not files(path, "model.c") and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert works(path)
    assert works(path)


def test_processes_that_compile_the_same_model_at_once_all_work(path: Path) -> None:
    processes = [start(path) for _ in range(3)]
    texts = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len(set(texts)) == 1
    assert len([f for f in files(path, "program.json") if not f.parent.name.startswith(".")]) == 1


@pytest.mark.parametrize("name", ["model.so", "weights.bin", "program.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["cut", "empty", "gone"])
def test_a_damaged_entry_is_made_again(path: Path, name: str, damage: str) -> None:
    assert works(path)
    (library,) = files(path, "model.so")
    file = library.parent / name
    os.chmod(file.parent, 0o700)
    content = file.read_bytes()
    file.unlink()  # it may still be mapped: a new file takes its place
    if damage != "gone":
        file.write_bytes(content[: len(content) // 2] if damage == "cut" else b"")
        os.chmod(file, 0o600)
    assert works(path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away")
def test_a_cache_of_another_user_is_refused(path: Path) -> None:
    assert works(path)
    root = path.parent / "cache"
    os.chown(root, 65534, 65534)
    with pytest.raises(CacheError):
        works(path)


def test_a_changed_file_is_compiled_anew(path: Path) -> None:
    assert works(path)
    path.write_bytes(model(node("Neg", ["x"]), {"x": (FLOAT, ["n", 2])}).SerializeToString())
    session = Session(path, SessionOptions(progress=False))
    np.testing.assert_array_equal(session.run({"x": np.ones((1, 2), np.float32)})[0], [[-1, -1]])
