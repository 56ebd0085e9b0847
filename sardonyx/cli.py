"""The command line: ``sardonyx run | inspect | convert | verify | optimize | deploy | bench | ...``.

Every command prints tables for people and, with ``--json``, one JSON document for programs. What goes wrong is one
clean message on standard error and exit code 1; ``--debug`` shows where. Heavy imports wait until they are needed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import click

from sardonyx._version import __version__
from sardonyx.commands.convert import convert, verify
from sardonyx.commands.measure import bench, profile, tune
from sardonyx.commands.optimize import deploy, optimize
from sardonyx.commands.support import (
    dims_option,
    inputs_option,
    json_option,
    model_argument,
    open_session,
    parse_size,
    print_json,
    print_table,
    read_feeds,
    threads_option,
)
from sardonyx.errors import InputError, SardonyxError

if TYPE_CHECKING:
    from sardonyx.runtime.session import Session


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


def main() -> NoReturn:
    """Entry point of the console script."""
    cli()
    raise AssertionError("click exits")  # for type checkers: cli() never returns


@cli.command()
@model_argument
@inputs_option
@dims_option
@threads_option
@click.option("--provider", "providers", multiple=True, help="Providers to use, first choice first.")
@click.option("--output", type=click.Path(dir_okay=False), help="Write the outputs to this .npz.")
@click.option("--seed", default=0, show_default=True, help="Seed of random inputs.")
@json_option
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
    session = open_session(model, threads=threads, providers=providers)
    feeds = read_feeds(session.inputs, inputs, dims, seed)
    results = session.run(feeds)
    named = {info.name: value for info, value in zip(session.outputs, results)}
    if output:
        _save_npz(output, named)
    rows = [{"name": name, **_summary(value)} for name, value in named.items()]
    if as_json:
        print_json({"model": model, "outputs": rows})
        return
    print_table(f"Outputs of {model}", rows)
    if output:
        click.echo(f"written to {output}")


@cli.command()
@model_argument
@threads_option
@click.option("--provider", "providers", multiple=True, help="Providers to use, first choice first.")
@json_option
def inspect(model: str, threads: int | None, providers: Sequence[str], as_json: bool) -> None:
    """Show inputs and outputs of MODEL, where each node runs and why, and the memory it needs."""
    session = open_session(model, threads=threads, providers=providers)
    report = _report(session)
    if as_json:
        print_json({"model": model, **report})
        return
    print_table("Inputs", report["inputs"])
    print_table("Outputs", report["outputs"])
    print_table("Nodes", report["nodes"])
    counts = ", ".join(f"{count} {place}" for place, count in report["providers"].items())
    click.echo(f"nodes by provider: {counts or 'none'}")
    sizes = ", ".join(
        f"{name} {'depends on inputs' if size is None else _bytes(size)}" for name, size in report["memory"].items()
    )
    click.echo(f"memory: {sizes}")


for command in (convert, verify, optimize, deploy, bench, profile, tune):
    cli.add_command(command)


@cli.command()
@click.argument("name", required=False)
@json_option
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
        print_json(rows)
        return
    print_table("Operators", rows if name else [_without(row, "summary") for row in rows])
    native = sum(record.native for record in records)
    click.echo(f"{native} of {len(records)} have native code; the others run on the reference")


@cli.group()
def cache() -> None:
    """Look at or empty the cache of compiled models."""


@cache.command("info")
@json_option
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
        print_json({"root": str(store.root), "bytes": store.size(), "entries": rows})
        return
    if rows:
        print_table("Compiled models", [{**row, "bytes": _bytes(row["bytes"])} for row in rows])
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
    removed = store.prune(parse_size(max_size))
    click.echo(f"removed {_bytes(removed)} from {store.root}, {_bytes(store.size())} left")


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
