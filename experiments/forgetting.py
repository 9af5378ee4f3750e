"""Question: what does SmolLM2-135M forget of general prose while it learns a newsroom, does a cut
make it forget more, and does a share of general text in training keep it?

Design: grid of the whole model and the cheapest layer of a scan, two learning rates, and none or a
quarter of the token budget spent on openings of Wikipedia articles instead of news. Perplexity on
other such openings is scored before and after.
"""

import dataclasses

from pressft import SMALL, Choices, Study

BASE = dataclasses.replace(SMALL, general="wikipedia", tokens=16_384)
STUDY = Study(
    "forgetting",
    BASE,
    {
        "remove": Choices("none", "best-of-scan(1)"),
        "learning_rate": Choices(5e-4, 2e-3),
        "mix": Choices(0.0, 0.25),
    },
)
