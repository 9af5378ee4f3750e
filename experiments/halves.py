"""Question: is a layer's attention or its MLP the half that can go, once healed? In a scan of
SmolLM2-135M the damage of layers 11 and 29 sits in their MLP.

Design: one trial for both halves of seven layers, from the first to the last, and for the same
layers whole; equal data, order and token budget, the settings of the demo.
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
