# SPDX-License-Identifier: Apache-2.0
"""How likely a tracker's result is right, given the evidence for and against it.

A tracker's own score tells well that nothing is there, and badly that the wrong thing is. Numbers
that any tracker's results give tell more together: a logistic regression turns them into the
probability that the box overlaps the target by more than half. `tools/calibrate.py` fits it for a
model, whose card then holds it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

EVIDENCE = (
    "score",  # logit of the tracker's score
    "rival",  # highest score outside the box over that of the target
    "jump",  # distance from the last box in sides of it, beyond the usual
    "growth",  # logarithm of the area against the usual one, absolute
    "aspect",  # logarithm of width over height against the usual one, absolute
    "likeness_first",  # correlation with the first look
    "likeness",  # highest correlation with the first and with later, sure looks
    "colour",  # Bhattacharyya coefficient of the colours with the first ones
    "edge",  # 1 if the box ends at the image's edge
    "look_back",  # logit of the last `Tracker.look_back`
)


def log_odds(probability: float, least: float = 1e-3) -> float:
    """Return the logit of a probability, bounded by that of `least` and of 1 - `least`."""
    bounded = min(max(probability, least), 1.0 - least)
    return math.log(bounded / (1.0 - bounded))


@dataclass(frozen=True)
class Calibration:
    """A logistic regression from evidence to a probability.

    Raises ValueError if a name is no kind of evidence, or a number is not finite.
    """

    bias: float  # log odds without evidence
    # log odds per unit of each kind of `EVIDENCE`; 0 for those that are missing
    weights: Mapping[str, float]
    # mean evidence of right results, for each weight
    typical: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in (("bias", self.bias), *self.weights.items(), *self.typical.items()):
            if name != "bias" and name not in EVIDENCE:
                raise ValueError(f"{name!r} is no evidence; known: {', '.join(EVIDENCE)}")
            if not math.isfinite(value):
                raise ValueError(f"the calibration's {name} is {value}, expected a finite number")

    @classmethod
    def from_card(cls, facts: Mapping[str, Any]) -> Calibration:
        """Return what a card says under "calibration"; raises ValueError if it cannot be used."""
        return cls(float(facts["bias"]), dict(facts["weights"]), dict(facts["typical"]))

    def probability(self, evidence: Mapping[str, float]) -> float:
        """Return the probability in [0, 1] that a result with this evidence is right."""
        odds = self.bias + sum(weight * evidence[name] for name, weight in self.weights.items())
        return 1.0 / (1.0 + math.exp(-max(-30.0, min(30.0, odds))))

    def strongest_against(self, evidence: Mapping[str, float]) -> str:
        """Return the kind of evidence that speaks most against a result, compared with others."""
        return min(
            self.weights,
            key=lambda name: self.weights[name] * (evidence[name] - self.typical.get(name, 0.0)),
        )


SCORE_ONLY = Calibration(0.62, {"score": 1.0})
"""For one-stream models without a fit of their own: at a score of 0.35 as likely right as wrong.

Of the frames on which the box of `ostrack_tiny` was right, on eleven real sequences, 0.2 % scored
below 0.45 and none below 0.35.
"""
