"""Question: does a cut of SmolLM2-135M want another learning rate than the whole model, and is the
order of the cuts another one when each gets its own?

Design: three arms of six draws each from a range of learning rates, by magnitude, each arm with a
sampler of its own; the best of each arm is repeated with a second seed. Draws behind the median of
their arm end early. The rest is as in the demo.
"""

from pressft import SMALL, Choices, Range, Study

STUDY = Study(
    "learning-rate",
    SMALL,
    {"remove": Choices("none", "middle", "last"), "learning_rate": Range(1e-4, 5e-3, log=True)},
    design="per-arm",
    trials=6,
    seeds=(0, 1),
    pruning="median",
)
