"""The command line: ``sardonyx run | inspect | bench | ops | cache``.

Every command prints tables for people and, with ``--json``, one JSON document for programs. What goes wrong is one
clean message on standard error and exit code 1; ``--debug`` shows where. Heavy imports wait until they are needed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import click

from sardonyx._version import __version__
from sardonyx.commands.convert import convert, verify
from sardonyx.errors import InputError, SardonyxError

if TYPE_CHECKING:
    import numpy as np

    from sardonyx.runtime.native import Port
    from sardonyx.runtime.session import Session

UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class _Group(click.Group):
    """Commands in the order in which they are written down, errors as one message."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (SardonyxError, OSError) as error:
            if ctx.params.get("debug") or isinstance(error, BrokenPipeError):
                raise  # click itself ends quietly when the reader of a pipe has left
            click.echo(f"error: {error}", err=True)
            ctx.exit(1)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="sardonyx")
@click.option("--debug", is_flag=True, help="Show where an error comes from.")
def cli(debug: bool) -> None:
    """Sardonyx: an ONNX runtime and compiler. Python decides, C computes."""


cli.add_command(convert)
cli.add_command(verify)


def main() -> NoReturn:
    """Entry point of the console script."""
    cli()
    raise AssertionError("click exits")  # for type checkers: cli() never returns


_model = click.argument("model", type=click.Path(exists=True, dir_okay=False))
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
_threads = click.option("--threads", type=click.IntRange(1), help="Number of threads.")
_dims = click.option("--dim", "dims", multiple=True, metavar="NAME=SIZE", help="Size of a symbolic dimension.")
_inputs = click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="NAME=VALUE",
    help="FILE.npy, FILE.npz or 'random'; or just FILE.npz with all inputs. Random where not given.",
)


@cli.command()
@_model
@_inputs
@_dims
@_threads
@click.option("--provider", "providers", multiple=True, help="Providers to use, first choice first.")
@click.option("--output", type=click.Path(dir_okay=False), help="Write the outputs to this .npz.")
@click.option("--seed", default=0, show_default=True, help="Seed of random inputs.")
@_json
def run(
    model: str,
    inputs: Sequence[str],
    dims: Sequence[str],
    threads: int | None,
    providers: Sequence[str],
    output: str | None,
    seed: int,
    as_json: bool,
) -> None:
    """Run MODEL once and show its outputs."""
    session = _session(model, threads=threads, providers=providers)
    feeds = _feeds(session.inputs, inputs, dims, seed)
    results = session.run(feeds)
    named = {info.name: value for info, value in zip(session.outputs, results)}
    if output:
        _save_npz(output, named)
    rows = [{"name": name, **_summary(value)} for name, value in named.items()]
    if as_json:
        _print_json({"model": model, "outputs": rows})
        return
    _print_table(f"Outputs of {model}", rows)
    if output:
        click.echo(f"written to {output}")


@cli.command()
@_model
@_threads
@click.option("--provider", "providers", multiple=True, help="Providers to use, first choice first.")
@_json
def inspect(model: str, threads: int | None, providers: Sequence[str], as_json: bool) -> None:
    """Show inputs and outputs of MODEL, where each node runs and why, and the memory it needs."""
    session = _session(model, threads=threads, providers=providers)
    report = _report(session)
    if as_json:
        _print_json({"model": model, **report})
        return
    _print_table("Inputs", report["inputs"])
    _print_table("Outputs", report["outputs"])
    _print_table("Nodes", report["nodes"])
    counts = ", ".join(f"{count} {place}" for place, count in report["providers"].items())
    click.echo(f"nodes by provider: {counts or 'none'}")
    sizes = ", ".join(
        f"{name} {'depends on inputs' if size is None else _bytes(size)}" for name, size in report["memory"].items()
    )
    click.echo(f"memory: {sizes}")


@cli.command()
@_model
@click.option("--against", default="", metavar="NAME,...", help="onnxruntime, openvino.")
@_inputs
@_dims
@click.option("--batch", type=click.IntRange(1), help="Size of the first dimension of every input.")
@_threads
@click.option("--seconds", default=2.0, show_default=True, help="Time to measure each runtime.")
@click.option("--rounds", default=5, show_default=True, help="Blocks to divide that time into.")
@click.option("--tolerance", default=1e-3, show_default=True, help="Largest relative difference.")
@_json
def bench(
    model: str,
    against: str,
    inputs: Sequence[str],
    dims: Sequence[str],
    batch: int | None,
    threads: int | None,
    seconds: float,
    rounds: int,
    tolerance: float,
    as_json: bool,
) -> None:
    """Time MODEL, verified first and in turn with other runtimes."""
    from dataclasses import asdict

    from sardonyx import benchmark

    threads = threads or benchmark.machine()["cores"]

    def feeds(infos: Sequence[Port]) -> dict[str, Any]:
        return _feeds(infos, inputs, [*dims, *_batch_dims(infos, batch)], seed=0)

    result = benchmark.compare(
        model,
        [name for name in against.split(",") if name],
        threads=threads,
        feeds=feeds,
        seconds=seconds,
        rounds=rounds,
        tolerance=tolerance,
    )
    if as_json:
        _print_json(asdict(result))
        return
    rows = [
        {
            "runtime": f"{timing.runtime} {timing.version}",
            "median ms": f"{timing.median:.3f}",
            "p10": f"{timing.p10:.3f}",
            "p90": f"{timing.p90:.3f}",
            "runs": timing.runs,
            "load ms": f"{timing.load:.0f}",
            "sardonyx is": f"{result.speedup(timing.runtime):.2f}x",
            "difference": f"{result.differences.get(timing.runtime, 0.0):.1e}",
        }
        for timing in result.timings
    ]
    _print_table(f"{model}, {threads} threads, {result.machine['cpu']}", rows)


@cli.command()
@click.argument("name", required=False)
@_json
def ops(name: str | None, as_json: bool) -> None:
    """Show which operators there are; NAME: one of them, and where it is written."""
    from sardonyx.ops.registry import all_operators

    records = all_operators()
    if name is not None:
        records = [record for record in records if record.name.lower() == name.lower()]
        if not records:
            raise SardonyxError(f"there is no operator called {name!r}", hint="sardonyx ops lists all")
    rows: list[dict[str, Any]] = [
        {
            "domain": record.domain or "ai.onnx",
            "name": record.name,
            "since": ", ".join(map(str, record.since)),
            "native": "yes" if record.native else "no",
            "defined in": f"{os.path.relpath(record.file)}:{record.line}" if record.file else "",
            "summary": record.summary,
        }
        for record in records
    ]
    if as_json:
        for row, record in zip(rows, records):
            row |= {"since": list(record.since), "native": record.native}
        _print_json(rows)
        return
    _print_table("Operators", rows if name else [_without(row, "summary") for row in rows])
    native = sum(record.native for record in records)
    click.echo(f"{native} of {len(records)} have native code; the others run on the reference")


@cli.group()
def cache() -> None:
    """Look at or empty the cache of compiled models."""


@cache.command("info")
@_json
def cache_info(as_json: bool) -> None:
    """Show where the cache is and what is in it."""
    import datetime

    from sardonyx.compiler.cache import default

    store = default()
    rows: list[dict[str, Any]] = [
        {
            "entry": entry.key,
            "bytes": entry.size,
            "last used": datetime.datetime.fromtimestamp(entry.last_used).isoformat(" ", "seconds"),
        }
        for entry in store.entries()
    ]
    if as_json:
        _print_json({"root": str(store.root), "bytes": store.size(), "entries": rows})
        return
    if rows:
        _print_table("Compiled models", [{**row, "bytes": _bytes(row["bytes"])} for row in rows])
    click.echo(f"{store.root}: {len(rows)} entries, {_bytes(store.size())} in all")


@cache.command("clear")
def cache_clear() -> None:
    """Remove everything from the cache."""
    from sardonyx.compiler.cache import default

    store = default()
    before = store.size()
    store.clear()
    click.echo(f"removed {_bytes(before - store.size())} from {store.root}")


@cache.command("prune")
@click.option("--max-size", default="1G", show_default=True, metavar="SIZE", help="Such as 500M.")
def cache_prune(max_size: str) -> None:
    """Remove what was used longest ago until the cache is no larger than SIZE."""
    from sardonyx.compiler.cache import default

    store = default()
    removed = store.prune(_parse_size(max_size))
    click.echo(f"removed {_bytes(removed)} from {store.root}, {_bytes(store.size())} left")


def _session(model: str, *, threads: int | None, providers: Sequence[str] = ()) -> Session:
    from sardonyx.runtime.options import SessionOptions
    from sardonyx.runtime.session import Session

    if providers:
        return Session(model, SessionOptions(threads=threads, providers=tuple(providers)))
    return Session(model, SessionOptions(threads=threads))


def _feeds(infos: Sequence[Port], inputs: Sequence[str], dims: Sequence[str], seed: int) -> dict[str, Any]:
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
    sizes = dict(_assignments(dims, "--dim", _positive))
    made = make_feeds(missing, sizes, seed) if missing else {}
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


def _save_npz(path: str, named: Mapping[str, Any]) -> None:
    import numpy as np

    arrays: dict[str, Any] = {}
    for name, value in named.items():
        if isinstance(value, np.ndarray):
            arrays[name] = value.astype(str) if value.dtype.kind == "O" else value
        elif isinstance(value, list) and all(isinstance(item, np.ndarray) for item in value):
            arrays.update({f"{name}.{index}": item for index, item in enumerate(value)})
        else:
            raise InputError(f"output {name!r} is neither a tensor nor a sequence of tensors")
    with open(path, "wb") as file:
        np.savez(file, **arrays)


def _assignments(texts: Iterable[str], option: str, convert: Callable[[str], int]) -> Iterable[tuple[str, int]]:
    for text in texts:
        name, equals, value = text.partition("=")
        try:
            if not (name and equals):
                raise ValueError
            yield name, convert(value)
        except ValueError:
            raise InputError(f"{option} {text!r}", hint="write NAME=SIZE, such as batch=8") from None


def _positive(text: str) -> int:
    value = int(text)
    if value < 0:
        raise ValueError
    return value


def _batch_dims(infos: Sequence[Port], batch: int | None) -> list[str]:
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


def _summary(value: Any) -> dict[str, Any]:
    """Type, shape and range of an output."""
    import numpy as np

    if not isinstance(value, np.ndarray):
        kind = type(value).__name__
        return {
            "type": kind,
            "shape": [len(value)] if hasattr(value, "__len__") else [],
            "values": "",
        }
    row: dict[str, Any] = {"type": str(value.dtype), "shape": list(value.shape)}
    if value.size and (value.dtype.kind in "fiu" or value.dtype.name == "bfloat16"):
        wide = value.astype(np.float64)
        low, mean, high = float(wide.min()), float(wide.mean()), float(wide.max())
        return {**row, "values": f"min {low:.6g}, mean {mean:.6g}, max {high:.6g}"}
    text = np.array2string(value.reshape(-1)[:6], separator=", ")
    return {**row, "values": text}


def _report(session: Session) -> dict[str, Any]:
    """Everything that `inspect` shows, ready for JSON."""
    from collections import Counter

    nodes = [
        {"node": p.node, "operator": p.operator, "provider": p.provider, "reason": p.reason}
        for p in session.placement()
    ]
    return {
        "inputs": [_describe(info) for info in session.inputs],
        "outputs": [_describe(info) for info in session.outputs],
        "nodes": nodes,
        "providers": dict(Counter(node["provider"] for node in nodes).most_common()),
        "memory": dict(session.memory()),
    }


def _describe(info: Any) -> dict[str, Any]:
    shape = None if info.shape is None else list(info.shape)
    return {"name": info.name, "type": info.type, "shape": shape}


def _without(row: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != key}


def _bytes(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def _parse_size(text: str) -> int:
    number, unit = (text[:-1], text[-1:].upper()) if not text[-1:].isdigit() else (text, "")
    try:
        return int(float(number) * UNITS[unit])
    except (ValueError, KeyError):
        raise InputError(f"{text!r} is not a size", hint="write 500M, 2G or a number of bytes") from None


def _print_json(document: Any) -> None:
    import json

    click.echo(json.dumps(document, indent=2, default=str))


def _print_table(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
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
