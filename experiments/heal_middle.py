"""Question: how far can the middle layer of SmolLM2-135M be healed, and what decides it: the rank
of the adapter, the learning rate or the number of tokens?

Design: grid of two arms, two ranks, three learning rates and three budgets; the whole model gets
the very same settings, so that what training alone brings is not taken for healing.
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
