"""Options of a session."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SessionOptions:
    """How a model is compiled and run.

    Attributes:
        threads: threads that one run may use; None: what the process may use (affinity and cgroup quota).
        providers: where the model runs: native (nodes without native code run on the reference evaluator), or whole
            on reference, onnxruntime or openvino.
        target: name of the CPU to compile for (`sardonyx.deployment.targets`); None: this machine.
        cache: keep the compiled model in the user's cache.
        profile: measure every step of every run.
        progress: show a progress bar while compiling (on a terminal).
    """

    threads: int | None = None
    providers: tuple[str, ...] = ("native",)
    target: str | None = None
    cache: bool = True
    profile: bool = False
    progress: bool = True
