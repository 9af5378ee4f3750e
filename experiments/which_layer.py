"""Question: which decoder layer of Qwen3-0.6B can be removed, and do LoRA rank and learning rate
change the answer once the model is trained on a newsroom's press releases?

Design: grid of four arms, three ranks, three learning rates and two seeds, 72 trials of up to a
million tokens; equal data order and budget. Of the first seed's trials only the best third of each
arm continues after a ninth of the tokens, and of those the best third after five ninths. A first
manual attempt (tiny corpus, one epoch) gave test perplexity 21.2 untrained, 19.7 trained, 35.2
trained without the last layer. Needs a GPU.
"""

from pressft import Choices, Study, TrialSpec

BASE = TrialSpec(model="qwen3-0.6b", corpus="corpora/bmw", tokens=1_000_000)
STUDY = Study(
    "which-layer",
    BASE,
    {
        "remove": Choices("none", "first", "middle", "last"),
        "rank": Choices(4, 8, 16),
        "learning_rate": Choices(5e-5, 2e-4, 8e-4),
    },
    seeds=(0, 1),
    pruning="halving",
)
