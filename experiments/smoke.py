"""Question: does the installation work? A tiny random model on invented press releases.

Design: grid of four arms and two learning rates; it takes under a minute and downloads nothing. The
numbers say nothing about layers, because the weights are random.
"""

from pressft import Choices, Study, TrialSpec

BASE = TrialSpec(
    model="tiny-qwen3",
    corpus="invented",
    rank=4,
    tokens=16_384,
    batch=4,
    block=128,
    window=256,
    validation_tokens=2048,
)
STUDY = Study(
    "smoke",
    BASE,
    {
        "remove": Choices("none", "first", "middle", "last"),
        "learning_rate": Choices(1e-3, 5e-3),
    },
)
