"""What a run says about its trial."""

import pytest

from pressft.score import Score
from pressft.spec import Removal
from pressft.study.results import TrialResult, Untrained
from pressft.tracking import runs

SCORE = Score(nats=2.0, tokens=2, bytes=8, words=2)


@pytest.mark.parametrize(
    ("removal", "words"),
    [
        (Removal((), 30, 0), "The whole model: "),
        (Removal((15,), 30, 7), "Layer 15 removed (1 of 30): "),
        (Removal((3, 5), 30, 7), "Layers 3, 5 removed (2 of 30): "),
        (Removal((3,), 30, 7, ("mlp:14",)), "3, mlp:14 removed (of 30 layers): "),
    ],
)
def test_a_note_says_which_layers_are_removed_and_of_how_many(removal: Removal, words: str) -> None:
    result = TrialResult("c", removal, SCORE, (SCORE,), (), (), "d", 64, 1.0, 2.0)
    note = runs.note(result, Untrained(removal, 100, (SCORE,), ()))
    assert note.startswith(words)
    assert "validation loss 1.0000 nats per token" in note
