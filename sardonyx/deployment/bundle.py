"""A bundle: a compiled model as a folder for one target, complete with the C it was made from.

model.so            the library (its name does not depend on the target's system)
weights.bin         constants in the layouts that the kernels read
program.json        inputs, outputs, symbols, steps: what a host must know
model.c, loops*.c   the generated source
sardonyx.h          the interface that the library has with its host
target.json         the target's name and triple
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sardonyx.compiler import build
from sardonyx.deployment.targets import Target

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Bundle", "make_bundle"]


@dataclass(frozen=True)
class Bundle:
    """A folder with a compiled model.

    Attributes:
        folder: Where it lies. A folder of the compile cache is one as well.
        target: What it was compiled for.
    """

    folder: Path
    target: Target

    @cached_property
    def facts(self) -> dict[str, Any]:
        """The contents of program.json."""
        return json.loads((self.folder / "program.json").read_bytes())

    @property
    def weights(self) -> Path:
        """The file of the constants."""
        return self.folder / "weights.bin"

    @property
    def sources(self) -> list[Path]:
        """The generated files, model.c first."""
        return [self.folder / "model.c", *sorted(self.folder.glob("loops*.c"))]

    @property
    def kernels(self) -> list[str]:
        """Names of the hand-written kernels that it calls."""
        return self.facts["kernels"]

    def hosted(self) -> str | None:
        """Why it can't run without Python (operators or objects on the host); None if it can."""
        if self.facts["slots"]:
            return "sequences, optionals or strings are Python objects"
        operators = sorted({row[1] for row in self.facts["placement"] if row[2] != "native"})
        return f"on the host: {', '.join(operators)}" if operators or self.facts["captured"] else None

    def units(self) -> list[build.Unit]:
        """What to compile and link into a program that calls the model."""
        units = [build.Unit(path.stem, path.read_text()) for path in self.sources]
        return units + [build.Unit(name, Path(f"{name}.c")) for name in self.kernels]


def make_bundle(model: ir.Model, target: Target, folder: Path) -> Bundle:
    """Compile `model` for `target` into `folder`, which is made if it is missing.

    Raises:
        SardonyxError: The model can't be compiled.
    """
    from sardonyx.compiler.compile import compile_model

    folder.mkdir(parents=True, exist_ok=True)
    compile_model(model, target, folder)
    shutil.copyfile(build.SOURCES / "sardonyx.h", folder / "sardonyx.h")
    facts = {"name": target.name, "triple": target.triple, "cpu": target.cpu}
    (folder / "target.json").write_text(json.dumps(facts))
    return Bundle(folder, target)
