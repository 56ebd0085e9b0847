"""A processor limited to AVX2, for measurements."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "benchmarks" / "limit_cpu.c"
FEATURES = (
    "import threading\nfound = []\n"
    "def look():\n"
    "    from numpy._core._multiarray_umath import __cpu_features__ as features\n"
    "    found.extend(name for name, there in features.items() if there)\n"
    "thread = threading.Thread(target=look)\nthread.start()\nthread.join()\nprint(*found)"
)


def can_trap() -> bool:
    try:
        return "cpuid_fault" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


@pytest.mark.skipif(not can_trap(), reason="the processor cannot trap CPUID")
def test_a_limited_process_sees_no_avx512_in_any_thread(tmp_path):
    library = tmp_path / "limit_cpu.so"
    compiler = [sys.executable, "-m", "ziglang", "cc", "-target", "x86_64-linux-gnu", "-shared", "-fPIC"]
    subprocess.run([*compiler, "-o", library, SOURCE], check=True)
    command = [sys.executable, "-c", FEATURES]
    whole, limited = (
        subprocess.run(command, env=dict(os.environ, **more), capture_output=True, text=True, check=True).stdout.split()
        for more in ({}, {"LD_PRELOAD": str(library)})
    )
    assert "AVX2" in limited
    assert "FMA3" in limited
    assert set(limited) == {name for name in whole if not name.startswith(("AVX512", "X86_V4"))}
