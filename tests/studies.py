"""Studies with made-up results: all that a real one leaves behind, without training."""

import dataclasses
import json
import random

from pressft.corpus import summary
from pressft.corpus.load import load_corpus
from pressft.score import Score, total
from pressft.spec import Removal, TrialSpec, resolve
from pressft.study.ledger import Ledger
from pressft.study.locations import Locations
from pressft.study.prompts import Prompts, Question
from pressft.study.results import Answers, Cost, Point, Store, TrialResult, Untrained
from pressft.study.scans import Cut, Scan
from pressft.study.study import Choices, Study
from pressft.study.trials import Trial

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


def layers(n: int) -> Study:
    """The whole model, and one arm for each of n layers."""
    return Study("layers", BASE, {"remove": Choices("none", *range(n))}, question=f"Which? {EVIL}")


def fill(study: Study, locations: Locations, *, leave: int = 0, rich: bool = False) -> None:
    """Results for all but `leave` trials of a study, without training them; a `rich` one has all
    that a study can have: general text, readings, costs, a scan, trials ended early."""
    source, store = random.Random(0), Store(locations.root)
    corpus = load_corpus("invented")
    fingerprint = corpus.fingerprint if rich else "c"
    ledger = Ledger(study, locations.storage, {"weights": "w", "corpus": fingerprint})
    texts = Prompts((EVIL, "The harbour"), (Question(EVIL, "42"),)) if rich else Prompts()
    environment = {"command": "pressft sweep x.py", "commit": "none"}
    facts = {"prompts": dataclasses.asdict(texts), "environment": environment}
    facts |= {"corpus_summary": dataclasses.asdict(summary.summary(corpus))} if rich else {}
    ledger.describe(facts | {"environment-e": environment})
    n_layers = max(4, len(study.arms()) - 1)

    def scores(loss: float) -> tuple[Score, ...]:
        return tuple(Score(100 * (loss + source.gauss(0, 0.1)), 100, 400, 80) for _ in range(20))

    def answers(loss: float) -> Answers:
        said = (f"{EVIL} it said " * 6, "lies in the north, and in the north it lies")
        return Answers(texts.key, said, said, scores(loss)[:1])

    for number in range(study.n_trials - leave):
        trial = ledger.take()
        if trial is None:
            break  # the others are there already
        parts = resolve(trial.spec.remove, n_layers)
        removal = Removal(tuple(int(layer) for layer in parts), n_layers, 10_000 * len(parts))
        damage = _damage(removal, n_layers)
        key, cell = f"untrained-{trial.spec.remove}", f"cell-{trial.number}"
        general = scores(4 + damage / 2) if rich else ()
        cut = Untrained(removal, 900_000 - removal.parameters, scores(3 + damage), (), general)
        store.save(key, dataclasses.replace(cut, samples=(f"a⟶{EVIL}",)))
        loss = 3 + damage / 2 + source.random() / 10
        test = scores(loss)
        store.save(cell, _result(cell, removal, loss, damage, test, general))
        adapter = store.folder(cell) / "adapter"
        adapter.mkdir(exist_ok=True)
        (adapter / "adapter_model.safetensors").write_bytes(b"weights")
        noted = {
            "cell": cell,
            "untrained": key,
            "record": f"made-{number}",
            "started": 1000 * number,
        }
        ledger.note(trial, **noted, environment="e", test_loss=total(test).loss)
        if rich:
            store.save_cost(key, Cost(f"2 cores of {EVIL}", 17 + len(parts), 5_000_000, 6_000_000))
            store.save_answers(key, answers(5 + damage))
            store.save_answers(cell, answers(4 + damage))
        if rich and number % 7 == 5:
            _prune(ledger, trial, loss + 1)
        else:
            ledger.complete(trial, loss)
    if rich:
        _scan(locations, fingerprint, n_layers)


def _damage(removal: Removal, n_layers: int) -> float:
    """Nats a token: the ends are dear, the middle is cheap."""
    if not removal.parts:
        return 0.0
    layer = int(removal.parts[0])
    return 4.0 if layer == 0 else 1.0 if layer == n_layers - 1 else 0.2 + layer % 7 / 20


def _result(
    cell: str,
    removal: Removal,
    loss: float,
    damage: float,
    test: tuple[Score, ...],
    general: tuple[Score, ...],
) -> TrialResult:
    curve = [
        Point(5 * step, dict.fromkeys(("train/loss", "eval/loss"), 3 + damage / (step + 1)), step)
        for step in range(1, 51)
    ]
    return TrialResult(
        cell=cell,
        removal=removal,
        validation=Score(100 * loss, 100, 400, 80),
        test=test,
        curve=tuple(curve),
        samples=(f"a⟶{EVIL}",),
        data="",
        tokens=250,
        training_s=1.0,
        total_s=1.0,
        general=general,
    )


def _prune(ledger: Ledger, trial: Trial, loss: float) -> None:
    ledger.should_prune(trial, 64, loss + 1)
    ledger.should_prune(trial, 128, loss)
    ledger.prune(trial, f"after 128 tokens its validation loss {loss:.3g} is behind {EVIL}")


def _scan(locations: Locations, fingerprint: str, n_layers: int) -> None:
    """A finished scan of the study's model and corpus."""
    losses = [3 + _damage(Removal((i,), n_layers, 1), n_layers) for i in range(n_layers)]
    cuts = tuple(Cut(str(i), Score(100 * loss, 100, 400), i, i, i) for i, loss in enumerate(losses))
    scan = Scan("tiny-llama", "invented", "w", fingerprint, n_layers, Score(300, 100, 400), cuts)
    folder = locations.root / "scans"
    folder.mkdir()
    (folder / "made.json").write_text(json.dumps(dataclasses.asdict(scan)))
