"""Whether all processors give the same bytes: the official cases, and whole models, on each machine that can be had.

    python scripts/check_targets.py --jobs 2 --json targets.json
    python scripts/check_targets.py --filter softmax --machines aarch64 riscv64_v128
    python scripts/check_targets.py --no-cases --models squeezenet1_1.onnx
    python scripts/check_targets.py --no-cases --models minilm.onnx --dim batch=2 --dim sequence=32
    python scripts/check_targets.py --machines host+undefined --apart     (undefined behaviour, memory)

Programs are static, of many models each, run here or by qemu-user. Their memory is guarded, and the tasks of each step
run one by one, backwards. The reference is this machine's session; for portable machines, which round after each
multiplication, the session of a portable build.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing as mp
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import onnx_cases  # noqa: E402
from deployment.checks import Ready, Row, Sample, check, official, ready  # noqa: E402
from deployment.models import SAMPLES  # noqa: E402

from sardonyx import Session, SessionOptions  # noqa: E402
from sardonyx.deployment.run_target import Machine, machine  # noqa: E402

DEFAULT = (
    *("x86_64_v3", "skylake_avx512", "icelake_server", "sapphirerapids", "znver4", "aarch64", "aarch64_dotprod"),
    *("riscv64", "riscv64_v128", "riscv64_v256", "riscv64_v512"),
    *("x86_64", "x86_64_v2", "x86_64_v3+portable", "aarch64+portable", "riscv64_v128+portable"),
)
BATCH = 24  # samples in a program


def check_batch(work: tuple[Sequence[str], Sequence[str], bool]) -> list[Row]:
    """The rows of some samples on some machines."""
    names, machines, apart = work
    return check_samples([SAMPLES[n]() if n in SAMPLES else official(n) for n in names], machines, apart)


def check_samples(samples: Sequence[Sample], machines: Sequence[str], apart: bool, backwards: bool = True) -> list[Row]:
    """Compile the samples once for each kind of rounding, and run them on every machine of that kind."""
    rows: list[Row] = []
    for portable in (False, True):
        chosen = [row for row in map(machine, machines) if row.target.portable == portable]
        if not chosen:
            continue
        made = [ready(sample, "x86_64_v2" if portable else None, apart=apart) for sample in samples]
        batch = [item for item in made if isinstance(item, Ready)]
        for row in chosen:
            skipped = [item for item in made if isinstance(item, Row)]
            rows += [Row(item.sample, row.name, "skipped", item.detail) for item in skipped]
            rows += _timed(batch, row, backwards) if batch else []
    return rows


def _timed(batch: Sequence[Ready], row: Machine, backwards: bool) -> list[Row]:
    start = time.perf_counter()
    rows = check(batch, row, backwards=backwards, timeout=1800)
    if len(batch) == 1:
        seconds = time.perf_counter() - start
        print(f"{batch[0].sample.name} on {row.name}: {rows[0].outcome}, {seconds:.1f} s", file=sys.stderr)
    return rows


def model_sample(path: Path, dims: dict[str, int]) -> Sample:
    """A model file with inputs drawn for it; symbolic dims are 1 unless `dims` says otherwise."""
    rng = np.random.default_rng(0)
    feeds = {}
    for port in Session(str(path), SessionOptions(progress=False)).inputs:
        shape = [dim if isinstance(dim, int) else dims.get(str(dim), 1) for dim in port.shape]
        dtype = np.dtype(port.dtype)
        values = rng.standard_normal(shape) if dtype.kind == "f" else rng.integers(0, 2, shape)
        feeds[port.name] = values.astype(dtype)
    return Sample(path.stem, path, (feeds,))


def case_rows(names: Sequence[str], machines: Sequence[str], jobs: int, apart: bool) -> Iterator[Row]:
    """Rows of the official cases and of our own samples, by worker processes."""
    work = [(names[i : i + BATCH], machines, apart) for i in range(0, len(names), BATCH)]
    with mp.get_context("spawn").Pool(jobs) as pool:
        for number, rows in enumerate(pool.imap_unordered(check_batch, work), 1):
            bad = sum(row.outcome not in ("same", "skipped") for row in rows)
            print(f"{number}/{len(work)} batches, {bad} rows to look at", file=sys.stderr)
            yield from rows


def emulators(machines: Sequence[str]) -> dict[str, str]:
    """First line of what each emulator says of its version."""
    programs = sorted({machine(name).emulator[0] for name in machines if machine(name).emulator})
    outputs = [subprocess.run([p, "--version"], capture_output=True, text=True, check=True).stdout for p in programs]
    return {program: output.splitlines()[0] for program, output in zip(programs, outputs)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machines", nargs="+", default=list(DEFAULT))
    parser.add_argument("--filter", default="", help="regular expression for names of cases")
    parser.add_argument("--no-cases", action="store_true")
    parser.add_argument("--models", nargs="*", type=Path, default=[])
    parser.add_argument("--dim", action="append", default=[], metavar="NAME=SIZE")
    parser.add_argument("--apart", action="store_true", help="give every temporary a block of memory of its own")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    options.machines = [name.replace("host", machine("host").name, 1) for name in options.machines]
    missing = {name: reason for name in options.machines if (reason := machine(name).missing())}
    there = [name for name in options.machines if name not in missing]
    rows: list[Row] = []
    if not options.no_cases:
        names = [n for n in [*SAMPLES, *onnx_cases.names(["node", "simple"])] if re.search(options.filter, n)]
        rows += case_rows(names, there, options.jobs, options.apart)
    dims = {name: int(size) for name, size in (item.split("=") for item in options.dim)}
    for path in options.models:
        rows += check_samples([model_sample(path, dims)], there, options.apart, backwards=False)
    _report(rows, there, missing)
    if options.json:
        facts = {"emulators": emulators(there), "missing": missing, "rows": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(facts, indent=1))
    return int(any(row.outcome not in ("same", "skipped") for row in rows))


def _report(rows: Sequence[Row], there: Sequence[str], missing: dict[str, str]) -> None:
    kinds = ("same", "differs", "crash", "memory", "skipped")
    print(f"{'machine':28}" + "".join(f"{kind:>9}" for kind in kinds))
    for name in there:
        counts = Counter(row.outcome for row in rows if row.machine == name)
        print(f"{name:28}" + "".join(f"{counts[kind]:9}" for kind in kinds))
    for name, reason in missing.items():
        print(f"{name:28} not run: {reason}")
    for program, version in emulators(there).items():
        print(f"{program}: {version}")
    for row in rows:
        if row.outcome not in ("same", "skipped"):
            print(f"{row.outcome}: {row.sample} on {row.machine}: {row.detail}")


if __name__ == "__main__":
    sys.exit(main())
