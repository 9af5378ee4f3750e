"""Question: is the damage of two cuts the sum of both? And do two cheap layers far apart cost less
than two neighbours?

Design: the single layers that a scan of SmolLM2-135M calls cheap, two costly ones, and pairs of
them; equal data, order and token budget, the settings of the demo. Damage is compared in nats a
token.
"""

from pressft import SMALL, Choices, Study

STUDY = Study(
    "two-layers",
    SMALL,
    {"remove": Choices("none", 5, 14, 15, 17, 28, "14,15", "14,17", "5,17", "5,28", "17,28")},
)
