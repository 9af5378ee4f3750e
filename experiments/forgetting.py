"""Question: how much does SmolLM2-135M forget of general-domain text while it is trained on a
newsroom, does a cut make it forget more, and does a share of general-domain text prevent it?

Design: grid of the whole model and the cheapest layer of a scan, two learning rates, and none or a
quarter of the token budget spent on openings of Wikipedia articles instead of news. Perplexity on
other such openings is scored before and after training.
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
