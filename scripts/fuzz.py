"""Look for models that Sardonyx crashes, hangs or errs on.

python scripts/fuzz.py mutations --count 20000 --jobs 2      broken models: a typed error or a result, nothing else
python scripts/fuzz.py graphs --count 2000 --jobs 2          random graphs: native results against the reference

Each trial is decided by its number alone; what fails is printed with it (and goes to --save), so that
`--start NUMBER --count 1` repeats it. The exit code is 1 when anything was found.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import json
import sys
import time
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[1] / "tests")  # in place of this folder: its fuzz is a package

from fuzz import workers  # noqa: E402 - found by the path set above

TRIALS = {"mutations": "fuzz.trial:trial", "graphs": "fuzz.compare:trial"}
FOUND = ("bug", "crash", "hang", "wrong")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=TRIALS)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--share", type=float, default=0.1, help="of sound mutants that are compiled and run")
    parser.add_argument("--seconds", type=float, default=60.0, help="after which a trial counts as hanging")
    parser.add_argument("--save", type=Path, help="a file for what was found")
    parser.add_argument("--json", type=Path, help="a file for the counts, beside those of the other kind")
    parser.add_argument("--verbose", action="store_true", help="print every outcome")
    options = parser.parse_args()
    arguments = (options.share,) if options.kind == "mutations" else ()
    started = time.monotonic()

    def part(job: int) -> list[workers.Outcome]:
        numbers = range(options.start + job, options.start + options.count, options.jobs)
        results = []
        for outcome in workers.run(TRIALS[options.kind], numbers, arguments=arguments, seconds=options.seconds):
            results.append(outcome)
            if outcome[1] in (*FOUND, "tripped") or options.verbose:
                text = f"--- {outcome[0]}: {outcome[1]}: {outcome[2]}\n"
                print(text, end="", flush=True)
                if options.save is not None:
                    with options.save.open("a", encoding="utf-8") as file:
                        file.write(text)
        return results

    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        outcomes = [outcome for results in pool.map(part, range(options.jobs)) for outcome in results]
    counts = collections.Counter(outcome for _, outcome, _ in outcomes)
    print(f"{len(outcomes)} trials in {time.monotonic() - started:.0f} s: {dict(counts.most_common())}")
    if options.json is not None:
        report = json.loads(options.json.read_text()) if options.json.exists() else {}
        report[options.kind] = {"trials": len(outcomes), "counts": dict(counts)}
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return int(any(counts[kind] for kind in FOUND))


if __name__ == "__main__":
    raise SystemExit(main())
