"""The step `prune-channels`: channels, hidden units and heads go until a share of the work or the weights is gone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sardonyx.errors import InputError, OptimizationError
from sardonyx.model import load
from sardonyx.model.prepare import remove_unused
from sardonyx.optimizer.moments import measure
from sardonyx.optimizer.products import Product, find_products
from sardonyx.optimizer.prune.allocate import allocate
from sardonyx.optimizer.prune.flow import Flow
from sardonyx.optimizer.prune.importance import Activation, Importance, Magnitude, Surgeon
from sardonyx.optimizer.prune.reconstruct import affected, reconstruct
from sardonyx.optimizer.prune.remove import Removal, remove
from sardonyx.optimizer.prune.units import Budget, find_units, pools_of
from sardonyx.optimizer.shapes import Shapes, sizes_of
from sardonyx.optimizer.step import Applied, Context, Step, step
from sardonyx.optimizer.tidy import tidied

__all__ = ["PruneChannels"]

IMPORTANCE = ("obs", "activation", "l2", "l1")


@step("prune-channels")
@dataclass(frozen=True)
class PruneChannels(Step):
    """Remove channels, hidden units and attention heads; shapes really shrink.

    Attributes:
        flops: share of the multiply-adds of the model's products to remove, 0 to 1.
        parameters: share of the weights to remove, in the place of `flops`.
        importance: ``obs``, ``activation`` (both need data), ``l2`` or ``l1`` (see `importance.py`).
        multiple: the channels that a layer keeps are a multiple of this; 16 is what fast kernels work in.
        cap: share of the channels that a layer may lose at most.
        reconstruct: fit the kept weights anew by least squares (needs data).
        through_normalization: also remove along axes that LayerNormalization works along, which is never exact.
    """

    flops: float = 0.0
    parameters: float = 0.0
    importance: str = "obs"
    multiple: int = 1
    cap: float = 0.75
    reconstruct: bool = True
    through_normalization: bool = False

    def __post_init__(self) -> None:
        if (self.flops > 0) == (self.parameters > 0) or not 0 <= max(self.flops, self.parameters) < 1:
            raise InputError("prune-channels needs either flops or parameters, between 0 and 1")
        if self.importance not in IMPORTANCE:
            raise InputError(f"importance {self.importance!r} is unknown", hint=f"Known are: {', '.join(IMPORTANCE)}.")
        if self.multiple < 1 or not 0 < self.cap < 1:
            raise InputError("multiple has to be at least 1, cap between 0 and 1")

    def apply(self, model: ir.Model, context: Context) -> Applied:
        """Prune.

        Raises:
            OptimizationError: no shape is known of the model's inputs, or the pruned model does not fit together.
        """
        notes: list[str] = []
        original = tidied(model)
        if original.graph.inputs and not sizes_of(original):
            raise OptimizationError("the shapes of the inputs are not known", hint="Give calibration data.")
        refused: dict[str, str] = {}
        for _ in range(4):
            pruned = load(original)
            flow, removal, said = self._prune(pruned, context, refused)
            wrong = misfits(flow, removal, pruned)
            if not wrong:
                break
            refused |= dict.fromkeys(wrong, "its shape does not follow")
        else:
            raise OptimizationError(f"the shapes of {sorted(refused)[:3]} do not follow a removal of channels")
        notes += said
        if removal is None:
            return Applied(load(model), False, notes)
        if self.reconstruct:
            notes += _reconstruct(original, pruned, removal, context)
        return Applied(pruned, True, notes)

    def _prune(
        self, model: ir.Model, context: Context, refused: dict[str, str]
    ) -> tuple[Flow, Removal | None, list[str]]:
        sample = context.data.feeds[0] if context.data is not None and len(context.data) else None
        shapes = Shapes(model, sizes_of(model, sample))
        flow = find_units(model, shapes, through_normalization=self.through_normalization, refused=refused)
        pools, notes = pools_of(flow)
        budget = Budget(flow, "parameters" if self.parameters else "flops")
        if not pools or not budget.total:
            return flow, None, [*notes, "nothing can be pruned"]
        share = self.parameters or self.flops
        importance, said = self._importance(model, flow, context)
        reached = allocate(
            pools, importance, budget, share, cap=self.cap, multiple=self.multiple, progress=context.progress
        )
        if not budget.removed.any():
            return flow, None, [*notes, *said, "nothing can be pruned within cap and multiple"]
        notes += said
        if reached < share:
            notes.append(f"only {reached:.0%} of {share:.0%} could be removed")
        removal = remove(flow, budget.removed)
        remove_unused(model)
        counts = ", ".join(f"{p.name} {len(p.units) + len(p.removed)} -> {len(p.units)}" for p in pools if p.removed)
        return flow, removal, [*notes, f"removed {reached:.1%}: {counts}"]

    def _importance(self, model: ir.Model, flow: Flow, context: Context) -> tuple[Importance, list[str]]:
        products = [p for p in find_products(model) if flow.labelled(p.x) or flow.labelled(p.weights)]
        if self.importance in ("l1", "l2"):
            return Magnitude(flow, products, 1 if self.importance == "l1" else 2), []
        if context.data is None or not len(context.data):
            note = f"without data, importance is judged by the weights alone instead of {self.importance}"
            return Magnitude(flow, products, 2), [note]
        read = [p for p in products if (flow.units(p.x, p.channel_axis) >= 0).any()]
        context.progress("measuring what layers read")
        moments = measure(model, read, context.data, context.seed)
        if self.importance == "activation":
            return Activation(flow, read, moments), []
        return Surgeon(flow, read, moments), []


def misfits(flow: Flow, removal: Removal | None, model: ir.Model) -> list[str]:
    """Names of nodes whose outputs have not the shape that was meant."""
    if removal is None:
        return []
    sizes = {str(value.name): flow.shape(value) or () for value in model.graph.inputs}
    shapes = Shapes(model, sizes)
    wrong = []
    for node in model.graph:
        for value in node.outputs:
            meant = flow.shape(value)
            if meant is None:
                continue
            changed = removal.changed(value)
            meant = tuple(int(changed[axis].sum()) if axis in changed else size for axis, size in enumerate(meant))
            if shapes.of(value) != meant:
                wrong.append(str(node.name))
    return wrong[:1]  # the others follow from it


def _reconstruct(original: ir.Model, pruned: ir.Model, removal: Removal, context: Context) -> list[str]:
    if context.data is None or not len(context.data):
        return ["without data, the kept weights were not fitted anew"]
    products = find_products(pruned)
    cut = {p.name for p in products if removal.mask(p.x, p.channel_axis) is not None}
    names = affected(pruned, cut) & {p.name for p in products}
    kept = {p.name: removal.mask(p.weights, p.output_axis) for p in products}

    def outputs(source: Product) -> np.ndarray:
        mask = kept[source.name]
        whole = source.weights.const_value.numpy().shape[source.output_axis]  # type: ignore[union-attr]
        return np.ones(whole, bool) if mask is None else mask

    fits = reconstruct(original, pruned, names, outputs, context.data, seed=context.seed, progress=context.progress)
    if not fits:
        return ["no layer reads what was removed in a way that can be fitted"]
    worst = max(fits, key=lambda name: fits[name].after)
    mean = [float(np.mean([getattr(each, side) for each in fits.values()])) for side in ("before", "after")]
    text = f"fitted {len(fits)} layers: error of their outputs {mean[0]:.2%} -> {mean[1]:.2%} on held-out samples, "
    return [text + f"the most in {worst} ({fits[worst].after:.1%})"]
