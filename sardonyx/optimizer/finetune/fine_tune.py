"""The step ``fine-tune``: weights are trained until the model gives what the original gives; no labels are needed.

G. Hinton et al., "Distilling the knowledge in a neural network", arXiv:1503.02531, with the mean squared error of all
outputs as the loss. It needs PyTorch and data, and goes before quantisation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from sardonyx.errors import OptimizationError
from sardonyx.optimizer.finetune.torch_graph import TorchGraph, import_torch
from sardonyx.optimizer.quantize.feeds import QUIET, check_data
from sardonyx.optimizer.quantize.parameters import between
from sardonyx.optimizer.step import Applied, Context, Step, step
from sardonyx.optimizer.tidy import tidied
from sardonyx.runtime.session import Session

__all__ = ["FineTune"]

_HELD = 0.2  # of the samples: they do not train, but say when it is best
_LOOKS = 10  # times that those are looked at


@step("fine-tune")
@dataclass(frozen=True)
class FineTune(Step):
    """Train the weights against the outputs of the original.

    Attributes:
        steps: of Adam, a sample each.
        rate: how far a step goes at first; it falls to nothing along half a cosine.
    """

    steps: int = 500
    rate: float = 1e-3

    def __post_init__(self) -> None:
        between("steps", self.steps, 1, 1_000_000)
        between("rate", self.rate, 0.0, 1.0)

    def apply(self, model: ir.Model, context: Context) -> Applied:
        """See `Step.apply`.

        Raises:
            OptimizationError: there is no data, or an operator that cannot be trained through.
            ProviderError: PyTorch is missing.
        """
        torch = import_torch()
        if context.data is None or len(context.data) < 2 or context.original is None:
            raise OptimizationError("fine-tuning needs data: 2 samples at least", hint="Give some (--data).")
        check_data(model, context.data)
        work = tidied(model)
        graph = TorchGraph(work)
        teacher = Session(context.original, QUIET)
        names = [port.name for port in teacher.inputs]
        feeds = [{name: torch.from_numpy(np.array(each[name])) for name in names} for each in context.data]
        truth = [[torch.from_numpy(np.array(y)) for y in teacher.run({n: f[n] for n in names})] for f in context.data]
        before, after = self._train(torch, graph, feeds, truth, context)
        if not after < before:
            return Applied(
                model, False, [f"training did not help: error {before:.3%} of the outputs on held-out samples"]
            )
        for name, value in work.graph.initializers.items():
            array = graph.constants[name].detach().numpy()
            value.const_value = ir.Tensor(np.array(array), name=name)
        return Applied(work, True, [f"trained: error {before:.3%} -> {after:.3%} of the outputs on held-out samples"])

    def _train(
        self,
        torch: Any,
        graph: TorchGraph,
        feeds: Sequence[dict[str, Any]],
        truth: Sequence[Sequence[Any]],
        context: Context,
    ) -> tuple[float, float]:
        """The error on held-out samples before and after; the weights are the best ones that were seen."""
        rng = np.random.default_rng(context.seed)
        order = rng.permutation(len(feeds))
        held = order[: max(1, round(_HELD * len(feeds)))]
        rest = order[len(held) :]
        weights = graph.trainable()
        if not weights:
            raise OptimizationError("there are no weights to train")

        def error(number: int) -> Any:
            outputs = graph.run(feeds[number])
            return sum(torch.mean((a - b) ** 2) / (torch.mean(b**2) + 1e-12) for a, b in zip(outputs, truth[number]))

        def judged() -> float:
            with torch.no_grad():
                return float(np.mean([float(error(number)) for number in held]))

        optimiser = torch.optim.Adam(weights.values(), self.rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.steps)
        first = best = judged()
        kept = {name: tensor.detach().clone() for name, tensor in weights.items()}
        for number in range(1, self.steps + 1):
            optimiser.zero_grad()
            error(int(rng.choice(rest))).backward()
            optimiser.step()
            schedule.step()
            if number % max(1, self.steps // _LOOKS) == 0:
                context.progress(f"training {number}/{self.steps}")
                now = judged()
                if now < best:
                    best, kept = now, {name: tensor.detach().clone() for name, tensor in weights.items()}
        graph.constants |= kept
        return first, best
