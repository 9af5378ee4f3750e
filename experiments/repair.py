"""Question: does the free repair of Prune&Comp, scaling the states behind a cut to the length they
had, make a cut of SmolLM2-135M cheaper before and after healing?

Design: seven layers from costly to harmless, each repaired, and the whole model; data, order,
budget and cells are those of `every_layer.py`, whose arms without repair are the control.
"""

import dataclasses

from pressft import SMALL, Choices, Study

STUDY = Study(
    "repair",
    dataclasses.replace(SMALL, repair="scale"),
    {"remove": Choices("none", 0, 1, 11, 14, 17, 28, 29)},
)
