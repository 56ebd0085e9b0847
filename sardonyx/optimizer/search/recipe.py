"""Recipes: the steps that made a model, with all that is needed to do them again, as YAML."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sardonyx._version import __version__
from sardonyx.errors import InputError, ProviderError
from sardonyx.optimizer.reading.read import DataOptions
from sardonyx.optimizer.search.store import write_text
from sardonyx.optimizer.step import make_step

HEAD = "# Done again by: sardonyx optimize {model} --recipe {recipe} -o {output}\n"


@dataclass(frozen=True)
class Recipe:
    """What makes one model of another.

    Attributes:
        steps: ``{name: parameters}`` in order.
        seed: of steps, of samples that are made up, and of the split of the data.
        data: path or ``module:function`` of the data; None: made up, or given in Python.
        calibration: path of data that only calibrates; None: a part of `data`.
        options: how data is read.
        share: part of `data` that calibrates.
        data_digest: of the samples that calibrated.
        model: name of the original's file.
        model_sha256: of that file.
    """

    steps: Sequence[Mapping[str, Any]]
    seed: int = 0
    data: str | None = None
    calibration: str | None = None
    options: DataOptions = field(default_factory=DataOptions)
    share: float = 0.25
    data_digest: str = ""
    model: str = ""
    model_sha256: str = ""

    def text(self, path: Path, output: Path) -> str:
        """The file at `path`, for a model at `output`. Paths are relative to the recipe's folder."""
        yaml = _yaml()
        folder = path.resolve().parent
        document = {
            "sardonyx": __version__,
            "model": {"file": self.model, "sha256": self.model_sha256},
            "data": {
                "source": _relative(self.data, folder),
                "calibration": _relative(self.calibration, folder),
                "share": self.share,
                "options": self.options.to_json(),
                "digest": self.data_digest,
            },
            "seed": self.seed,
            "steps": [dict(each) for each in self.steps],
        }
        head = HEAD.format(model=self.model, recipe=path.name, output=output.name)
        return head + yaml.safe_dump(document, sort_keys=False, width=100)

    def write(self, path: Path, output: Path) -> None:
        """Write the file, at once or not at all."""
        write_text(path, self.text(path, output))


def read_recipe(path: str | os.PathLike[str]) -> Recipe:
    """The recipe at `path`.

    Raises:
        InputError: it is no recipe, or has a step or parameter that is unknown.
    """
    path, yaml = Path(path), _yaml()
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"there is no recipe {str(path)!r}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{str(path)!r} is no YAML: {error}") from error
    if not isinstance(document, dict) or not isinstance(document.get("steps"), list):
        raise InputError(f"{str(path)!r} is no recipe", hint="it has a list of steps: `- static-int8: {...}`")
    data, model = document.get("data") or {}, document.get("model") or {}
    steps = [_step(path, each) for each in document["steps"]]
    folder = path.resolve().parent
    return Recipe(
        steps,
        int(document.get("seed", 0)),
        _absolute(data.get("source"), folder),
        _absolute(data.get("calibration"), folder),
        DataOptions.from_json(data.get("options") or {}),
        float(data.get("share", 0.25)),
        str(data.get("digest", "")),
        str(model.get("file", "")),
        str(model.get("sha256", "")),
    )


def _step(path: Path, each: Any) -> dict[str, Any]:
    if isinstance(each, str):
        each = {each: {}}
    if not isinstance(each, dict) or len(each) != 1:
        raise InputError(f"{path.name}: {each!r} is no step", hint="write `- name: {parameter: value}`")
    ((name, parameters),) = each.items()
    if not isinstance(parameters or {}, dict):
        raise InputError(f"{path.name}: the parameters of {name!r} are {parameters!r}", hint="write {parameter: value}")
    made = make_step(str(name), parameters or {})
    return made.to_json()


def _relative(source: str | None, folder: Path) -> str | None:
    if source is None or not Path(source).exists():
        return source
    return os.path.relpath(Path(source).resolve(), folder)


def _absolute(source: str | None, folder: Path) -> str | None:
    if source is None:
        return None
    there = folder / source
    return str(there) if there.exists() else source


def _yaml() -> Any:
    try:
        import yaml
    except ImportError:
        raise ProviderError("recipes are YAML; PyYAML is missing", hint="pip install 'sardonyx[optimize]'") from None
    return yaml
