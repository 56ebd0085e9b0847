"""Data to calibrate and to judge with: samples by name of input, and what is true of each, if that is known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Feeds = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Data:
    """Samples.

    Attributes:
        feeds: for each run of the model, an array for each input, with the batch dimension that the model wants.
        labels: for each run, what is true; None: nothing is known, and a model is judged by the original's outputs.
        origin: where they come from, in a few words.
        generated: made up, since the user gave none.
    """

    feeds: Sequence[Feeds]
    labels: Sequence[Any] | None = None
    origin: str = ""
    generated: bool = False

    def __len__(self) -> int:
        return len(self.feeds)

    def __iter__(self) -> Iterator[Feeds]:
        return iter(self.feeds)


@dataclass(frozen=True)
class Parts:
    """Which samples do what; none has two tasks.

    Attributes:
        calibration: what steps look at.
        evaluation: what candidates are judged and chosen by.
        proof: what the chosen one alone is judged by at the end: choosing the best of many by the same samples makes it
            look better than it is. None: there are too few.
    """

    calibration: Data
    evaluation: Data
    proof: Data | None = None
