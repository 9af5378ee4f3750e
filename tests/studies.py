"""Studies with made-up results: all that a real one leaves behind, without training."""

import random

from pressft.design import Choices, Study
from pressft.results import Store, TrialResult, Untrained
from pressft.scores import Score
from pressft.spec import Removal, TrialSpec, resolve
from pressft.status import Stores
from pressft.study import Ledger

EVIL = "<img src=x onerror=alert(1)>"
BASE = TrialSpec(
    model="tiny-llama",
    corpus="invented",
    rank=2,
    tokens=256,
    batch=2,
    block=64,
    window=64,
    validation_tokens=200,
)


def grid(n: int) -> Study:
    """n trials of four arms."""
    space = {
        "remove": Choices("none", "first", "middle", "last"),
        "rank": Choices(2, 4),
        "learning_rate": Choices(*(1e-4 * (i + 1) for i in range(n // 8))),
    }
    return Study("made", BASE, space, question=f"Question: {EVIL} how\nwide?\n\nDesign: {EVIL}")


def fill(study: Study, stores: Stores, *, leave: int = 0) -> None:
    """Results for all but `leave` trials of a study, without training them."""
    source, store = random.Random(0), Store(stores.root)
    ledger = Ledger(study, stores.storage, {"weights": "w", "corpus": "c"})
    ledger.describe(
        material={"prompts": [], "questions": []}, environment={"command": "pressft sweep x.py"}
    )

    def scores(loss: float) -> tuple[Score, ...]:
        return tuple(Score(100 * (loss + source.gauss(0, 0.1)), 100, 400, 80) for _ in range(20))

    for _ in range(study.n_trials - leave):
        ticket = ledger.take()
        assert ticket is not None
        layers = resolve(ticket.spec.remove, 4)
        removal = Removal(tuple(int(layer) for layer in layers), 4, 10 * len(layers))
        damage = {"none": 0.0, "first": 4.0, "middle": 0.2, "last": 1.0}[ticket.spec.remove]
        key, cell = f"untrained-{ticket.spec.remove}", f"cell-{ticket.number}"
        store.save(key, Untrained(removal, 90, scores(3 + damage), (f"a⟶{EVIL}",)))
        curve = [
            (
                5 * step,
                {"train/loss": 3 + damage / (step + 1), "eval/loss": 3 + damage / (step + 1)},
            )
            for step in range(1, 51)
        ]
        loss = 3 + damage / 2 + source.random() / 10
        result = TrialResult(
            cell=cell,
            removal=removal,
            validation=Score(100 * loss, 100, 400, 80),
            test=scores(loss),
            curve=tuple(curve),
            samples=(f"a⟶{EVIL}",),
            data="",
            tokens=250,
            training_s=1.0,
            total_s=1.0,
        )
        store.save(cell, result)
        adapter = store.folder(cell) / "adapter"
        adapter.mkdir()
        (adapter / "adapter_model.safetensors").write_bytes(b"weights")
        ledger.note(ticket, cell=cell, untrained=key)
        ledger.complete(ticket, loss)
