"""What kind of source is it? Decided by content, never by the name of the file, and without running anything.

A pickle is read as a list of instructions (`pickletools`), none of which is executed: the classes that it names say
which framework wrote it.
"""

from __future__ import annotations

import json
import pickletools
import re
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sardonyx.errors import SourceError

_HEAD = 1 << 16
_MODULE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*\Z")
_PICKLE_HEAD = 1 << 22  # bytes of a pickle searched for the classes that it names

# First module of a pickled class -> kind.
_PICKLED = {
    "sklearn": "sklearn",
    "imblearn": "sklearn",
    "xgboost": "sklearn",  # the wrappers of scikit-learn's interface
    "lightgbm": "sklearn",
    "catboost": "sklearn",
    "torch": "torch-pickle",
    "numpy": "",
}


def recognise(source: str) -> str:
    """The name of the kind of `source`, a row of `table.KINDS`.

    Args:
        source: a file, a folder, or ``module:factory``.

    Raises:
        SourceError: nothing is there, it is empty or damaged, or of no kind that is known.
    """
    path = Path(source)
    if not path.exists():
        if _MODULE.match(source):
            return "module"
        if Path(f"{source}.index").exists():  # how people name a checkpoint of TensorFlow: by its prefix
            return "tf-checkpoint"
        raise SourceError(f"{source!r} does not exist", hint="Give a file, a folder, or module:factory.")
    found = _folder(path) if path.is_dir() else _file(path)
    if found is None:
        raise SourceError(
            f"{source!r} is of no kind that is known here",
            hint="If you know what it is, say so: --kind (sardonyx convert --help lists them).",
        )
    return found


def _folder(path: Path) -> str | None:
    names = {entry.name for entry in path.iterdir()}
    if "saved_model.pb" in names or "saved_model.pbtxt" in names:
        return "saved-model"
    if "config.json" in names:
        return "huggingface" if _json(path / "config.json", "model_type", "architectures") else None
    if "checkpoint" in names or any(name.endswith(".index") for name in names):
        return "tf-checkpoint"
    if any(name.endswith((".pdmodel", ".pdiparams")) for name in names):
        return "paddle"
    if any(name.endswith("-symbol.json") for name in names):
        return "mxnet"
    if not names:
        raise SourceError(f"the folder {str(path)!r} is empty")
    return None


def whole(source: str, kind: str, options: Mapping[str, str]) -> tuple[str, str]:
    """Source and kind, where a file of weights lies in a Hugging Face folder and no factory is named: the folder."""
    folder = Path(source).parent
    alone = kind in ("safetensors", "torch-weights") and "factory" not in options
    if alone and (folder / "config.json").is_file() and _folder(folder) == "huggingface":
        return str(folder), "huggingface"
    return source, kind


def _json(path: Path, *keys: str) -> bool:
    """Whether the file is a JSON object with one of these keys."""
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, OSError):
        return False
    return isinstance(content, dict) and any(key in content for key in keys)


def _file(path: Path) -> str | None:
    with open(path, "rb") as file:
        head = file.read(_HEAD)
    if not head:
        raise SourceError(f"{str(path)!r} is empty")
    for recognised in _RECOGNISERS:
        kind = recognised(path, head)
        if kind:
            return kind
    return None


def _by_signature(path: Path, head: bytes) -> str | None:
    del path
    for offset, signature, kind in (
        (4, b"TFL3", "tflite"),
        (4, b"ORTM", "ort"),
        (0, b"\x89HDF\r\n\x1a\n", "keras-h5"),
        (0, b"\x12\x01\0\0\0\0\0\0", "mxnet"),  # a list of NDArrays
        (0, b"CBM1", "catboost"),
        (0, b"tree\n", "lightgbm"),
        (0, b"binf", "xgboost"),
    ):
        if head[offset : offset + len(signature)] == signature:
            return kind
    if head[:16] == bytes(16) and head[20:21] == b"\x08":  # versions, no levels of detail, TensorDesc.data_type
        return "paddle"
    if head[0:1] == b"{" and b"learner" in head[:64] and not head.lstrip().startswith(b'{"'):
        return "xgboost"  # universal binary JSON
    return None


def _zip(path: Path, head: bytes) -> str | None:
    if head[:4] != b"PK\x03\x04":
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as problem:
        raise SourceError(f"{str(path)!r} is a damaged zip archive: {problem}", hint="Copy it again.") from problem
    last = {name.rpartition("/")[2] for name in names}
    if "model.weights.h5" in last and "config.json" in last:
        return "keras"
    if any("exported_program" in name or name.endswith("archive_format") for name in names):
        return "torch-export"
    if "constants.pkl" in last and any("/code/" in name for name in names):
        return "torchscript"
    if "data.pkl" in last:
        with zipfile.ZipFile(path) as archive:
            inside = archive.read(next(name for name in names if name.endswith("data.pkl")))
        return _torch_pickle(inside)
    if any(name.endswith(".tflite") for name in last):
        return "tflite"  # a bundle of models (.task)
    return "skops" if "schema.json" in last else None


def _torch_pickle(data: bytes) -> str:
    """Weights alone (containers and tensors), or a whole module with its classes."""
    plain = ("torch._utils", "collections", "torch.storage", "torch", "numpy", "numpy.core.multiarray", "_codecs")
    return "torch-weights" if all(module in plain for module, _ in _globals(data)) else "torch-pickle"


def _pickle(path: Path, head: bytes) -> str | None:
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05":
        data = path.read_bytes()[:_PICKLE_HEAD]
    elif head[:1] == b"x" or head[:2] == b"\x1f\x8b":  # joblib compresses by zlib or gzip
        try:
            data = zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(path.read_bytes(), _PICKLE_HEAD)
        except zlib.error:
            return None
        if data[:1] != b"\x80":
            return None
    else:
        return None
    modules = [module for module, _ in _globals(data)]
    if any(module.startswith("torch") for module in modules) or b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19" in data[:32]:
        return _torch_pickle(data)
    kinds = [_PICKLED.get(module.partition(".")[0], "") for module in modules]
    return next(filter(None, kinds), "sklearn" if modules else None)


def _globals(data: bytes) -> list[tuple[str, str]]:
    """The (module, name) pairs that a pickle asks for, as far as it can be read; nothing is executed."""
    found: list[tuple[str, str]] = []
    texts: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name == "GLOBAL":
                module, _, name = str(argument).partition(" ")
                found.append((module, name))
            elif opcode.name == "STACK_GLOBAL" and len(texts) >= 2:
                found.append((texts[-2], texts[-1]))
            elif isinstance(argument, str):
                texts.append(argument)
    except (ValueError, UnicodeDecodeError, IndexError, OverflowError):
        pass  # joblib puts raw arrays between the instructions: what came before is enough
    return found


def _text(path: Path, head: bytes) -> str | None:
    if head.lstrip()[:1] != b"{":
        return None
    try:
        content: Any = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict):
        return None
    for keys, kind in (
        ({"nodes", "arg_nodes", "heads"}, "mxnet"),
        ({"learner"}, "xgboost"),
        ({"oblivious_trees"}, "catboost"),
        ({"base_code", "program"}, "paddle"),
    ):
        if keys <= content.keys():
            return kind
    return None


def _table_file(path: Path, head: bytes) -> str | None:
    """The index of a checkpoint of TensorFlow: a sorted table, whose signature stands at its end."""
    del head
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 8))
        return "tf-checkpoint" if file.read() == (0xDB4775248B80FB57).to_bytes(8, "little") else None


def _safetensors(path: Path, head: bytes) -> str | None:
    size = int.from_bytes(head[:8], "little")
    return "safetensors" if head[8:9] == b"{" and 2 <= size < path.stat().st_size else None


def _protobuf(path: Path, head: bytes) -> str | None:
    """ONNX, a frozen TensorFlow graph or a Paddle program, told apart by their first fields."""
    del path
    if head[0] == 0x08:  # ModelProto.ir_version
        return "onnx"
    if head[0] != 0x0A:
        return None
    start = 1
    while start < len(head) and head[start] & 0x80:
        start += 1
    inner = head[start + 1 : start + 2]
    if inner == b"\x0a":  # NodeDef.name
        return "graphdef"
    return "paddle" if inner == b"\x08" else None  # BlockDesc.idx


_RECOGNISERS: tuple[Callable[[Path, bytes], str | None], ...] = (
    _by_signature,
    _zip,
    _pickle,
    _text,
    _table_file,
    _safetensors,
    _protobuf,
)
