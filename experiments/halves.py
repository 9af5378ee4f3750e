"""Question: which half of a layer can be removed and healed, its attention or its MLP? In a scan of
SmolLM2-135M the damage of removing layers 11 and 29 comes from their MLPs.

Design: one trial for each half of seven layers, from the first to the last, and for each of these
layers as a whole; equal data, order and token budget, the settings of the demo.
"""

from pressft import SMALL, Choices, Study

LAYERS = (0, 5, 11, 14, 20, 28, 29)
STUDY = Study(
    "halves",
    SMALL,
    {
        "remove": Choices(
            "none",
            *LAYERS,
            *(f"attention:{layer}" for layer in LAYERS),
            *(f"mlp:{layer}" for layer in LAYERS),
        )
    },
)
