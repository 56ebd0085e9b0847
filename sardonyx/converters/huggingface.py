"""Hugging Face folders: a config.json with weights, as Transformers and sentence-transformers write them.

What the model is for is told by its architecture, or asked for (``--option task=text-classification``). A model that
reads one text, or sound, and writes another becomes three files: NAME_encoder, NAME_decoder (the first tokens) and
NAME_decoder_with_past (those that follow), as is usual; a merged decoder would hold control flow. One that only writes
is a single file with its past as inputs and outputs; a past of length 0 begins. ``--option past=no`` leaves it out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sardonyx.converters import hf_tasks
from sardonyx.converters.pytorch import PyTorch
from sardonyx.converters.source import Input, Request, Source
from sardonyx.converters.torch_load import brief
from sardonyx.errors import ConversionError, InputError, SourceError


class HuggingFace(PyTorch):
    """A model of Transformers and the task that it is converted for."""

    def open(self) -> None:
        """Load the model, and cut it into parts."""
        options = self.request.options
        self.folder = None if self.made is not None else Path(self.request.source)
        names = [type(self.made).__name__] if self.folder is None else _config(self.folder).get("architectures") or [""]
        self.task = hf_tasks.task_of(names[0], options.get("task", ""))
        self.model = self.made if self.folder is None else self._load(self.folder, names[0])
        self.model.eval()
        self._about = [f"task: {self.task.name} ({type(self.model).__name__})"]
        self._cut = self._parts_of_task()
        asked = options.get("part", "")
        if asked and asked not in self._cut:
            raise InputError(f"the model has no part {asked!r}", hint=f"It has: {', '.join(self._cut)}.")
        self._asked = [asked] if asked else list(self._cut)
        if len(self._asked) == 1:
            self.choose(self._asked[0])

    def _load(self, folder: Path, architecture: str) -> Any:
        import transformers

        loader = getattr(transformers, self.task.loader)
        if not self.request.options.get("task"):
            loader = getattr(transformers, architecture, loader)
        self.progress(f"loading {architecture}")
        try:
            # Eager: attention as plain products and softmax, which every exporter and opset has.
            model, said = loader.from_pretrained(
                folder,
                local_files_only=True,
                trust_remote_code=self.request.trust,
                attn_implementation="eager",
                dtype="float32",
                output_loading_info=True,
            )
        except Exception as problem:  # whatever a model's own code raises
            hint = "It needs code that the folder holds: if you know where it is from, --trust."
            trust = "trust_remote_code" in str(problem)
            raise SourceError(
                f"Transformers cannot load {str(folder)!r}: {brief(problem)}", hint=hint if trust else None
            ) from problem
        missing = sorted(said.get("missing_keys") or ()) + sorted(map(str, said.get("mismatched_keys") or ()))
        if missing:
            shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
            raise SourceError(
                f"{str(folder)!r} has no weights for {shown}: they would be random",
                hint=f"It is a {architecture}: is {self.task.name} the right task?",
            )
        return model

    # Parts.

    def _parts_of_task(self) -> dict[str, Callable[[], Any]]:
        from sardonyx.converters import hf_modules as modules

        inputs = hf_tasks.inputs_of(self.model, self.folder)
        past = self.request.options.get("past", "yes") != "no"
        if self.task.generates == "encoder-decoder":
            parts: dict[str, Callable[[], Any]] = {
                "encoder": lambda: modules.Encoder(self.model, inputs),
                "decoder": lambda: modules.FirstDecoder(self.model, inputs),
            }
            return {**parts, "decoder_with_past": lambda: modules.NextDecoder(self.model, inputs)} if past else parts
        if self.task.generates == "decoder" and past:
            return {"decoder": lambda: modules.Decoder(self.model, inputs)}
        if self.task.name == "feature-extraction" and self.model.config.is_encoder_decoder:
            return {"encoder": lambda: modules.Encoder(self.model, inputs)}
        steps = self._sentence_steps() if self.task.name == "feature-extraction" else []
        if steps:
            return {"model": lambda: modules.SentenceEmbedding(self.model, inputs, steps)}
        return {"model": lambda: modules.Part(self.model, inputs, self.task.outputs)}

    def _sentence_steps(self) -> list[Callable[..., Any]]:
        """What sentence-transformers does with the embeddings of tokens; nothing for other folders."""
        if self.folder is None or not (self.folder / "modules.json").is_file():
            return []
        from sardonyx.converters import hf_modules as modules

        found: list[Callable[..., Any]] = []
        for module in json.loads((self.folder / "modules.json").read_bytes())[1:]:
            kind = module["type"].rpartition(".")[2]
            if kind == "Normalize":
                found.append(modules.unit_length)
            elif kind == "Pooling":
                found.append(_pooling(json.loads((self.folder / module["path"] / "config.json").read_bytes())))
            else:
                raise ConversionError(
                    f"after the encoder comes a {kind}, which is not known here",
                    hint="Without it: remove modules.json from a copy of the folder.",
                )
        if found:
            self._about.append("sentence embedding: " + ", ".join(step.__name__ for step in found))
        return found

    def parts(self) -> Sequence[str]:
        """Those of an encoder-decoder, unless one of them was asked for."""
        return self._asked if len(self._asked) > 1 else ()

    def choose(self, part: str) -> None:
        """Wrap that part."""
        module = self._cut[part]()
        self.take(module)
        self._declared = [self._with_dims(each) for each in module.inputs]
        self.notes = list(self._about)

    def _with_dims(self, each: Input) -> Input:
        """The input with the sizes, or names, that the user gives its dimensions (``pixel_values.2``)."""
        from dataclasses import replace

        dims = self.request.dims
        shape = (dims.get(f"{each.name}.{axis}", dim) for axis, dim in enumerate(each.shape))
        return replace(each, shape=tuple(shape))

    # Export.

    def export(self, path: Path) -> list[str]:
        """By the first exporter that manages, under the names of the task."""
        self._outputs = self._named_outputs()
        return super().export(path)

    def _named_outputs(self) -> list[str]:
        """The outputs that the module really gives."""
        import torch

        values = dict(zip((each.name for each in self._declared), self._tensors(self._feeds()).values(), strict=True))
        with torch.no_grad():
            found = self.module.compute(values)
        return [name for name in self.module.outputs if isinstance(found.get(name), torch.Tensor)]

    def _exporters(self) -> Iterator[tuple[str, Callable[[Path, Mapping[str, np.ndarray]], None]]]:
        first, *others = super()._exporters()
        yield first
        yield "torch.export with the patches of Transformers", partial(self._export_patched, dynamic=True)
        yield from others

    def _export_patched(self, path: Path, feeds: Mapping[str, np.ndarray], dynamic: bool) -> None:
        try:
            from transformers.exporters.utils import apply_patches
        except ImportError:
            raise ConversionError("this version of Transformers has none") from None
        import transformers.exporters.exporter_onnx  # noqa: F401  # registers them

        with apply_patches("onnx"):
            self._export_new(path, feeds, dynamic)

    def sizes(self) -> Mapping[str, Sequence[int]]:
        """Short texts and sounds, small batches, and an empty past."""
        return hf_tasks.SIZES


def open_source(request: Request, progress: Callable[[str], None], made: Any = None) -> Source:
    """Open the folder with Transformers."""
    return HuggingFace(request, progress, made)


def _config(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError) as problem:
        raise SourceError(f"{str(folder / 'config.json')!r} cannot be read: {problem}") from problem
    if not isinstance(content, dict):
        raise SourceError(f"{str(folder / 'config.json')!r} is no JSON object")
    return content


def _pooling(config: Mapping[str, Any]) -> Callable[..., Any]:
    """The step that makes one embedding of those of the tokens."""
    from sardonyx.converters import hf_modules as modules

    known = {
        "pooling_mode_mean_tokens": modules.mean_of_tokens,
        "pooling_mode_cls_token": modules.first_token,
        "pooling_mode_max_tokens": modules.max_of_tokens,
    }
    modes = [name for name, on in config.items() if name.startswith("pooling_mode") and on is True]
    if len(modes) != 1 or modes[0] not in known:
        raise ConversionError(f"the pooling {' + '.join(modes) or 'of tokens'} is not known here")
    return known[modes[0]]
