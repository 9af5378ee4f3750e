"""Question: which of the first, the middle and the last layer of SmolLM2-135M can be removed, and
how much of the damage does a short QLoRA training on news stories heal?

Design: one trial per arm, including the whole model; equal data, order and token budget. Small
enough for two CPU cores: a first look, without replicates.
"""

from pressft import SMALL, Choices, Study

STUDY = Study(
    "demo",
    SMALL,
    {"remove": Choices("none", "first", "middle", "last")},
    prompts="demo_prompts.txt",
    questions="demo_questions.jsonl",
)
