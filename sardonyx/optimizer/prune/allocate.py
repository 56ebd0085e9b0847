"""Which units go: over all layers, those that lose least for what they save, until the budget is met."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sardonyx.optimizer.prune.importance import Importance
from sardonyx.optimizer.prune.units import Budget, Pool

__all__ = ["allocate"]

_STEPS = 24  # in which a pool is removed at most: scores are taken anew after each


@dataclass
class _Offer:
    """The next units of a pool, what they lose and what they save."""

    units: np.ndarray
    lost: float
    saved: float

    def price(self, wanted: float) -> float:
        """What is lost for each unit of cost saved, if no more than `wanted` of that is of use."""
        return self.lost / min(self.saved, wanted)


def allocate(
    pools: list[Pool],
    importance: Importance,
    budget: Budget,
    share: float,
    *,
    cap: float = 0.75,
    multiple: int = 1,
    progress: Callable[[str], None] = lambda text: None,
) -> float:
    """Choose units until `share` of the cost is gone; `budget.removed` has them.

    Args:
        pools: the units to choose from; each notes what it gave.
        importance: what a unit is worth.
        budget: what is saved.
        share: of the cost, to be removed.
        cap: the share of a pool that may go at most.
        multiple: channels that a layer keeps are a multiple of this.
        progress: called now and then.

    Returns:
        The share that is gone.
    """
    total = budget.total
    sizes = [len(pool.units) for pool in pools]
    values = [{value for value, _ in pool.axes} for pool in pools]
    offers: dict[int, _Offer | None] = {}
    while (now := budget.total) > (1 - share) * total:
        for number, pool in enumerate(pools):
            if number not in offers:
                offers[number] = _offer(pool, sizes[number], importance, budget, cap, multiple)
        wanted = now - (1 - share) * total
        open_ = [(offer.price(wanted), number, offer) for number, offer in offers.items() if offer is not None]
        if not open_:
            break
        _, number, offer = min(open_, key=lambda each: each[:2])
        budget.remove(pools[number], offer.units)
        importance.remove(offer.units)
        pools[number].removed += offer.units.tolist()
        pools[number].units = np.setdiff1d(pools[number].units, offer.units)
        # Prices of all that shares a layer with it have changed.
        offers = {other: each for other, each in offers.items() if not values[number] & values[other]}
        progress(f"choosing channels: {1 - now / total:.0%} of {share:.0%}")
    return 1 - budget.total / total if total else 0.0


def _offer(pool: Pool, size: int, importance: Importance, budget: Budget, cap: float, multiple: int) -> _Offer | None:
    count, least = len(pool.units), max(int(np.ceil((1 - cap) * size)), 1)
    step = max(multiple // pool.width, 1)
    if step > 1 and size >= 2 * step:
        least = -(-least // step) * step
    elif step > 1:
        step = max(size // 4, 1)  # too few for whole multiples
    stride = -(-max(size // _STEPS, 1) // step) * step
    keep = max((count - 1) // step * step if count % step else count - stride, least)
    if keep >= count:
        return None
    losses = importance.losses(pool.units)
    chosen = np.argsort(losses, kind="stable")[: count - keep]
    units = pool.units[chosen]
    saved = budget.saving(pool, units)
    if saved <= 0:
        return None
    return _Offer(units, max(float(losses[chosen].sum()), 0.0), saved)
