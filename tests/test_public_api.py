"""What is public, and what importing it costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import sardonyx

HEAVY = {"onnx", "onnx_ir", "sympy", "rich", "click", "numpy", "google", "onnxruntime"}


def imported_by(statement: str) -> set[str]:
    """Top-level packages, and the sub-modules of sardonyx, that a statement imports in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", statement],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    names = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    return {n if n.startswith("sardonyx") else n.partition(".")[0] for n in names}


@pytest.mark.parametrize("name", sorted(sardonyx.__all__))
def test_every_public_name_can_be_loaded(name: str) -> None:
    value = getattr(sardonyx, name)
    assert value is getattr(sardonyx, name)
    assert name in dir(sardonyx)


def test_the_table_of_names_and_all_agree() -> None:
    assert set(sardonyx._EXPORTS) == set(sardonyx.__all__) - {"__version__"}


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'sardonyx' has no attribute 'sesion'"):
        _ = sardonyx.sesion  # type: ignore[attr-defined]


def test_the_errors_that_are_listed_exist_and_share_one_root() -> None:
    for name in sardonyx.errors.__all__:
        assert issubclass(getattr(sardonyx.errors, name), sardonyx.SardonyxError)


def test_importing_the_package_imports_next_to_nothing() -> None:
    modules = imported_by("import sardonyx")
    assert not modules & HEAVY
    assert {name for name in modules if name.startswith("sardonyx")} == {
        "sardonyx",
        "sardonyx._version",
    }


def test_a_session_needs_numpy_alone_until_something_is_compiled() -> None:
    modules = imported_by("import sardonyx; sardonyx.Session")
    assert not modules & (HEAVY - {"numpy"})


def test_help_needs_no_numpy() -> None:
    modules = imported_by("import sardonyx.cli")
    assert not modules & (HEAVY - {"click"})


def test_running_as_a_module_shows_the_version() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sardonyx", "--version"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert sardonyx.__version__ in done.stdout
