"""Question: which of the first, the middle and the last layer of SmolLM2-135M can go, and how much
of the damage does a short QLoRA training on news stories heal?

Design: one trial an arm, the whole model beside them; equal data, order and token budget. Small
enough for two CPU cores: a first look, without replicates.
"""

from pressft.design import Choices, Study
from pressft.spec import TrialSpec

BASE = TrialSpec(
    model="smollm2-135m",
    corpus="corpora/demo",
    rank=8,
    learning_rate=5e-4,
    tokens=8192,
    batch=2,
    block=256,
    window=512,
    validation_tokens=1536,
)
STUDY = Study("demo", BASE, {"remove": Choices("none", "first", "middle", "last")})
