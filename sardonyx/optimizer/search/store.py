"""The folder of a search: every candidate with what was measured of it, on disk as soon as it is known.

- search.json: what is searched: model, data, metric, seed
- ranking.json: how much each layer suffers from quantisation
- study.db: Optuna's trials
- candidates/0007.json: what was done and measured
- candidates/0007.onnx: the model, where it is verified
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sardonyx.errors import InputError
from sardonyx.optimizer.search.budget import Candidate

__all__ = ["Store", "replace_model", "write_text"]


class Store:
    """Candidates on disk.

    Args:
        folder: of the search.
        identity: what is searched; a search that goes on must have the same.
        resume: go on with what is there; else it is put aside, as ``NAME.old``.

    Raises:
        InputError: what is there belongs to another search.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], resume: bool = False):
        self.folder = folder
        self.candidates: dict[str, Candidate] = {}
        facts = folder / "search.json"
        if folder.exists() and not resume:
            old = folder.with_name(folder.name + ".old")
            shutil.rmtree(old, ignore_errors=True)
            folder.rename(old)
        if resume and facts.exists():
            self._check(json.loads(facts.read_text(encoding="utf-8")), identity)
            self._read()
        (folder / "candidates").mkdir(parents=True, exist_ok=True)
        write_text(facts, json.dumps(identity, indent=1))

    def _check(self, known: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
        other = [name for name, value in identity.items() if known.get(name) != value]
        if other:
            raise InputError(
                f"{str(self.folder)!r} holds a search with another {', '.join(other)}",
                hint="leave --resume away to begin anew; what is there is put aside",
            )

    def _read(self) -> None:
        for path in sorted((self.folder / "candidates").glob("*.json")):
            candidate = Candidate.from_json(json.loads(path.read_text(encoding="utf-8")))
            if candidate.file and not (path.parent / candidate.file).exists():
                continue
            self.candidates[key(candidate.steps)] = candidate

    def recall(self, name: str, make: Callable[[], Any]) -> Any:
        """What `make` gave when it was called first in this search."""
        path = self.folder / f"{name}.json"
        if path.exists():
            return json.loads(path.read_text(encoding="utf-8"))
        made = make()
        write_text(path, json.dumps(made, indent=1))
        return made

    @property
    def study(self) -> str:
        """Where Optuna keeps its trials, as a URL."""
        return f"sqlite:///{(self.folder / 'study.db').resolve()}"

    def next_number(self) -> int:
        """Of a new candidate."""
        return 1 + max((each.number for each in self.candidates.values()), default=0)

    def path(self, number: int) -> Path:
        """Where the model of a candidate lies."""
        return self.folder / "candidates" / f"{number:04}.onnx"

    def add(self, candidate: Candidate) -> None:
        """Write a record down; the model lies in its place already, and is removed where it is not verified."""
        path = self.path(candidate.number)
        if candidate.verdict == "verified":
            candidate.file = path.name
        else:
            candidate.file = ""
            remove_model(path)
        write_text(path.with_suffix(".json"), json.dumps(candidate.to_json(), indent=1))
        self.candidates[key(candidate.steps)] = candidate

    def find(self, steps: Sequence[Mapping[str, Any]]) -> Candidate | None:
        """What is known of a recipe."""
        return self.candidates.get(key(steps))


def key(steps: Sequence[Mapping[str, Any]]) -> str:
    """The same for the same steps."""
    return json.dumps(list(steps), sort_keys=True)


def write_text(path: Path, text: str) -> None:
    """Write a file that is complete or untouched."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".write-", delete=False, encoding="utf-8") as file:
        try:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            os.unlink(file.name)
            raise
    os.chmod(file.name, 0o666 & ~_umask())
    os.replace(file.name, path)


def replace_model(source: Path, target: Path) -> None:
    """Put a copy of a model in the place of another, at once: readers see the old one or the new one.

    A `target` called ``.sdx`` becomes a container.
    """
    from sardonyx.model.load import external_files, load
    from sardonyx.model.save import save

    if source.resolve() == target.resolve():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.suffix == ".sdx":
        from sardonyx.optimizer.compress.container import pack

        pack(source, target)
        return
    if external_files(source):
        save(load(source), target, external=True)
        return
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".optimize-") as folder:
        partial = Path(folder) / target.name
        shutil.copyfile(source, partial)
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, target)


def remove_model(path: Path) -> None:
    """Remove a model and its weights, if it is there."""
    path.unlink(missing_ok=True)
    path.with_name(path.name + ".data").unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
