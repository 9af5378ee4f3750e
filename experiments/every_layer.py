"""Question: which single layer of SmolLM2-135M costs least once every cut is healed alike, and does
any cheap criterion on the untrained model predict it?

Design: one trial for each of the 30 layers and one for the whole model; equal data, order and token
budget, the settings of the demo. The spread over layers shows what a randomly chosen layer costs.
"""

from pressft import SMALL, Choices, Study

STUDY = Study("every-layer", SMALL, {"remove": Choices("none", *range(30))})
