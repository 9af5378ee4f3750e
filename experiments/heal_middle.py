"""Question: how far can the removal of SmolLM2-135M's middle layer be healed, and what decides it:
the rank of the adapter, the learning rate or the number of tokens?

Design: grid of two arms, two ranks, three learning rates and three token budgets; the whole model
gets the same settings, so that the effect of training alone does not count as healing.
"""

from pressft import SMALL, Choices, Study

STUDY = Study(
    "heal-middle",
    SMALL,
    {
        "remove": Choices("none", "middle"),
        "rank": Choices(4, 32),
        "learning_rate": Choices(2e-4, 5e-4, 2e-3),
        "tokens": Choices(4096, 16_384, 65_536),
    },
)
