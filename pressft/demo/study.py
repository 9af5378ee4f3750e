"""The settings of the demo, which most experiments share."""

from pressft.spec import TrialSpec

SMALL = TrialSpec(  # a trial takes two CPU cores a minute or two
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
