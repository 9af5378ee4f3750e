"""Question: is the damage of two removed layers the sum of their single damages, and do two cheap
layers far apart cost less than two neighbours?

Design: the layers that are cheap in a scan of SmolLM2-135M, two costly ones, and pairs of them;
equal data, order and token budget, the settings of the demo. Damage is compared in nats per token.
"""

from pressft import SMALL, Choices, Study

STUDY = Study(
    "two-layers",
    SMALL,
    {"remove": Choices("none", 5, 14, 15, 17, 28, "14,15", "14,17", "5,17", "5,28", "17,28")},
)
