"""Write the figures in README.md afresh: operators from the registry, times from benchmarks/results/.

python scripts/status.py [--check]      --check: write nothing, fail when the figures are out of date
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from sardonyx.ops.registry import all_operators

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
MARKED = re.compile(r"(<!-- status:begin -->\n).*?(<!-- status:end -->)", re.DOTALL)


def operators() -> list[str]:
    """One line per domain: how many operators there are and how many have native code."""
    lines = ["| domain | operators | with native code |", "| --- | ---: | ---: |"]
    records = all_operators()
    for domain in sorted({record.domain for record in records}):
        here = [record for record in records if record.domain == domain]
        native = sum(record.native for record in here)
        lines.append(f"| {domain or 'ai.onnx'} | {len(here)} | {native} |")
    return lines


def benchmarks() -> list[str]:
    """One line per result and runtime, or nothing when there are no results."""
    results = [
        json.loads(path.read_text())
        for path in sorted((ROOT / "benchmarks" / "results").glob("*.json"))
    ]
    if not results:
        return []
    machine = results[0]["machine"]
    lines = [
        "",
        f"Measured on {machine['cpu']}, {machine['cores']} cores: median [p10 .. p90] in milliseconds.",
        "",
        "| model | threads | runtime | time |",
        "| --- | ---: | --- | ---: |",
    ]
    for result in results:
        lines.extend(
            f"| {result['model']} | {result['threads']} | {timing['runtime']} {timing['version']} "
            f"| {timing['median']:.2f} [{timing['p10']:.2f} .. {timing['p90']:.2f}] |"
            for timing in result["timings"]
        )
    return lines


def main() -> int:
    """Rewrite the marked part of README.md."""
    old = README.read_text(encoding="utf-8")
    if not MARKED.search(old):
        print("README.md has lost its status markers", file=sys.stderr)
        return 1
    figures = "\n".join(["", *operators(), *benchmarks(), "", ""])
    new = MARKED.sub(lambda match: match[1] + figures + match[2], old)
    if "--check" in sys.argv[1:]:
        if new != old:
            print("figures in README.md are out of date: make status", file=sys.stderr)
        return int(new != old)
    README.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
