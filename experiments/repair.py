"""Question: does the free repair of Prune&Comp, which rescales the states after a cut to their
former norm, make a cut of SmolLM2-135M cheaper before and after healing?

Design: seven layers from costly to cheap, each repaired, and the whole model; the data, order and
budget are those of `every_layer.py`, whose arms without repair are the control.
"""

import dataclasses

from pressft import SMALL, Choices, Study

STUDY = Study(
    "repair",
    dataclasses.replace(SMALL, repair="scale"),
    {"remove": Choices("none", 0, 1, 11, 14, 17, 28, 29)},
)
