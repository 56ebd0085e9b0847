"""What all tests share: a cache of their own, and the marker for instruction sets."""

from __future__ import annotations

import os
import tempfile

import pytest

from sardonyx.deployment.targets import cpu_flags


def pytest_configure(config: pytest.Config) -> None:
    """Keep the user's cache out of it. Workers of xdist inherit the folder from the process that starts them."""
    if "SARDONYX_CACHE_DIR" in os.environ:
        return
    folder = tempfile.TemporaryDirectory(prefix="sardonyx-tests-", ignore_cleanup_errors=True)
    os.environ["SARDONYX_CACHE_DIR"] = folder.name
    config.add_cleanup(folder.cleanup)
    config.add_cleanup(lambda: os.environ.pop("SARDONYX_CACHE_DIR"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests marked ``isa(name)`` where this process may not use what Linux calls `name` in /proc/cpuinfo."""
    for marker in item.iter_markers("isa"):
        if marker.args[0] not in cpu_flags():
            pytest.skip(f"this CPU has no {marker.args[0]}")
