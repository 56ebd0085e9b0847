"""What the commands share: options, sessions and inputs from words, tables and JSON."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from sardonyx.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from sardonyx.runtime.native import Port
    from sardonyx.runtime.session import Session

UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}

model_argument = click.argument("model", type=click.Path(exists=True, dir_okay=False))
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
threads_option = click.option("--threads", type=click.IntRange(1), help="Number of threads.")
dims_option = click.option("--dim", "dims", multiple=True, metavar="NAME=SIZE", help="Size of a symbolic dimension.")
inputs_option = click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="NAME=VALUE",
    help="FILE.npy, FILE.npz or 'random'; or just FILE.npz with all inputs. Random where not given.",
)


def open_session(model: str, *, threads: int | None, providers: Sequence[str] = ()) -> Session:
    """A session with the options given on the command line."""
    from sardonyx.runtime.options import SessionOptions
    from sardonyx.runtime.session import Session

    if providers:
        return Session(model, SessionOptions(threads=threads, providers=tuple(providers)))
    return Session(model, SessionOptions(threads=threads))


def read_feeds(infos: Sequence[Port], inputs: Sequence[str], dims: Sequence[str], seed: int) -> dict[str, Any]:
    """The inputs given on the command line, random ones for the rest."""
    from sardonyx.benchmark import make_feeds

    given: dict[str, Any] = {}
    for text in inputs:
        given.update(_read_input(text))
    names = {info.name for info in infos}
    if unknown := sorted(given.keys() - names):
        raise InputError(
            f"the model has no input called {unknown[0]!r}",
            hint=f"its inputs are: {', '.join(sorted(names))}",
        )
    missing = [info for info in infos if given.get(info.name) is None]
    made = make_feeds(missing, sizes(dims), seed) if missing else {}
    return {info.name: made.get(info.name, given.get(info.name)) for info in infos}


def _read_input(text: str) -> dict[str, Any]:
    """One ``--input``: arrays by name, None for a random one."""
    name, equals, value = text.partition("=")
    if not equals:
        if not text.endswith(".npz"):
            raise InputError(f"--input {text!r}", hint="write NAME=FILE.npy or FILE.npz")
        return _load_arrays(text)
    if value == "random":
        return {name: None}
    if value.endswith(".npz"):
        arrays = _load_arrays(value)
        if name in arrays:
            return {name: arrays[name]}
        if len(arrays) == 1:
            return {name: next(iter(arrays.values()))}
        raise InputError(f"{value} has no array called {name!r}, but {', '.join(arrays)}")
    if value.endswith(".npy"):
        return {name: _load_arrays(value)[""]}
    raise InputError(f"--input {text!r}", hint="the value is FILE.npy, FILE.npz or 'random'")


def _load_arrays(path: str) -> dict[str, np.ndarray]:
    """The arrays in a .npz by name, or the one in a .npy under the empty name. Never unpickles."""
    import numpy as np

    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return {"": content}
        with content:
            return {name: content[name] for name in content.files}
    except (ValueError, EOFError) as error:
        raise InputError(f"{path} cannot be read as numpy arrays: {error}") from error


def _assignments(texts: Iterable[str], option: str, convert: Callable[[str], int]) -> Iterable[tuple[str, int]]:
    for text in texts:
        name, equals, value = text.partition("=")
        try:
            if not (name and equals):
                raise ValueError
            yield name, convert(value)
        except ValueError:
            raise InputError(f"{option} {text!r}", hint="write NAME=SIZE, such as batch=8") from None


def sizes(dims: Sequence[str]) -> dict[str, int]:
    """What ``--dim`` says."""
    return dict(_assignments(dims, "--dim", _positive))


def _positive(text: str) -> int:
    value = int(text)
    if value < 0:
        raise ValueError
    return value


def batch_dims(infos: Sequence[Port], batch: int | None) -> list[str]:
    """``--batch`` as assignments to the symbols that stand first in the shapes of inputs."""
    if batch is None:
        return []
    first = {info.shape[0] for info in infos if info.shape}
    symbols = sorted(dim for dim in first if isinstance(dim, str))
    if not symbols and first != {batch}:
        raise InputError(
            "--batch: the first dimensions of the inputs are not symbolic",
            hint="sardonyx inspect shows the shapes",
        )
    return [f"{symbol}={batch}" for symbol in symbols]


def parse_size(text: str) -> int:
    """Bytes of ``500M``, ``2G`` or a number."""
    number, unit = (text[:-1], text[-1:].upper()) if not text[-1:].isdigit() else (text, "")
    return int(_scaled(text, number, unit, UNITS, "a size", "500M, 2G or a number of bytes"))


def parse_seconds(text: str) -> float:
    """Seconds of ``90``, ``90s``, ``10m`` or ``1h``."""
    number = text.rstrip("smh")
    return _scaled(text, number, text[len(number) :], {"": 1, "s": 1, "m": 60, "h": 3600}, "a time", "90s, 10m or 1h")


def parse_milliseconds(text: str) -> float:
    """Milliseconds of ``5``, ``5ms``, ``200us`` or ``1s``."""
    number = text.rstrip("ums")
    units = {"": 1, "ms": 1, "us": 1e-3, "s": 1e3}
    return _scaled(text, number, text[len(number) :], units, "a time", "5ms, 200us or 1s")


def _scaled(text: str, number: str, unit: str, units: Mapping[str, float], what: str, hint: str) -> float:
    try:
        return float(number) * units[unit]
    except (ValueError, KeyError):
        raise InputError(f"{text!r} is not {what}", hint=f"write {hint}") from None


def print_json(document: Any) -> None:
    """Print one JSON document."""
    import json

    click.echo(json.dumps(document, indent=2, default=str))


def print_table(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows, dictionaries with the same keys, under their keys."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", title_style="bold")
    for name in rows[0] if rows else ():
        table.add_column(name)
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row.values()))
    # Not a terminal: lines as long as they need to be, for grep.
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def _cell(value: Any) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, list):
        return " x ".join("?" if dim is None else str(dim) for dim in value) or "scalar"
    return str(value)
