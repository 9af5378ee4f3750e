"""The ledger as a state machine: whatever workers do in whatever order, each cell is done once."""

import dataclasses
import random
import shutil
import tempfile
from collections import Counter
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pressft.spec import TrialSpec
from pressft.study.ledger import Ledger
from pressft.study.study import Choices, Range, Study
from pressft.study.trials import Trial

BASE = TrialSpec(model="tiny-llama", corpus="invented")
IDENTITY = {"weights": "w", "corpus": "c"}
ARMS = Choices("none", "last")
GRID = Study("s", BASE, {"remove": ARMS, "rank": Choices(2, 4)}, seeds=(0, 1))
PER_ARM = Study(
    "s",
    BASE,
    {"remove": ARMS, "rank": Choices(2, 4), "learning_rate": Range(1e-5, 1e-2, log=True)},
    design="per-arm",
    trials=3,
    seeds=(0, 1),
)


class Workers(RuleBasedStateMachine):
    """Workers of one start, that finish, fail, diverge, are stopped, die; and new starts."""

    study = GRID

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.url = f"sqlite:///{self.folder / 'optuna.db'}"
        self.random = random.Random(0)
        self.open: list[tuple[Ledger, Trial]] = []
        self.done: Counter[str] = Counter()
        self.diverged: Counter[str] = Counter()
        self.start()

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    @rule()
    def start(self) -> None:
        """A new command: all that was open died with the one before."""
        self.open = []
        self.ledger = Ledger(self.study, self.url, IDENTITY)
        self.ledger.recover()

    @precondition(lambda self: len(self.open) < 4)
    @rule()
    def take(self) -> None:
        ledger = self.ledger
        if trial := ledger.take():
            cell = repr(trial.spec)
            assert cell not in {repr(other.spec) for _, other in self.open}
            assert not self.done[cell]
            assert not self.diverged[cell]
            self.open.append((ledger, trial))

    @precondition(lambda self: self.open)
    @rule(how=st.sampled_from(["complete", "complete", "fail", "diverge", "stop"]), data=st.data())
    def leave(self, how: str, data: st.DataObject) -> None:
        place = data.draw(st.integers(0, len(self.open) - 1))
        ledger, trial = self.open.pop(place)
        if how == "complete":
            self.come_to_an_end(ledger, trial)
        else:
            final = how == "diverge"
            ledger.fail(trial, how, again=not final, interrupted=how == "stop")
            self.diverged[repr(trial.spec)] += final

    @invariant()
    def each_cell_is_done_once_and_no_more_than_asked(self) -> None:
        assert all(n == 1 for n in self.done.values())
        assert sum(self.done.values()) + len(self.open) <= self.study.n_trials
        running = [row for row in self.ledger.trials() if row.state == "running"]
        assert len(running) == len(self.open)

    @rule()
    def finish(self) -> None:
        """With nothing more going wrong, all that can be done is done."""
        for ledger, trial in self.open:
            self.come_to_an_end(ledger, trial)
        self.start()
        while trial := self.ledger.take():
            self.come_to_an_end(self.ledger, trial)
        self.nothing_is_left()

    def come_to_an_end(self, ledger: Ledger, trial: Trial) -> None:
        """Of its training, or at a rung of it."""
        loss = self.random.random()
        ledger.record_loss(trial, ledger.next_rung(trial) or trial.spec.trained_tokens, loss)
        if ledger.next_rung(trial):
            ledger.pause(trial)
        else:
            assert ledger.complete(trial, loss)
            self.done[repr(trial.spec)] += 1

    def nothing_is_left(self) -> None:
        over = sum(self.done.values()) + sum(self.diverged.values())
        assert over == self.study.n_trials
        assert self.ledger.n_open() == 0


class PerArmWorkers(Workers):
    """The same with samplers of their own."""

    study = PER_ARM

    def nothing_is_left(self) -> None:
        """Each arm has its draws; its best is repeated where a draw came to an end."""
        rows = [r for r in self.ledger.trials() if r.is_done or r.attrs.get("final")]
        for arm in self.study.arms():
            drawn = [r for r in rows if r.arm == arm and r.params["seed"] == 0]
            again = [r for r in rows if r.arm == arm and r.params["seed"] == 1]
            assert len(drawn) == self.study.trials
            assert bool(again) == any(row.is_done for row in drawn)


class HalvingWorkers(Workers):
    """The same with trials that are paused at rungs."""

    study = dataclasses.replace(GRID, pruning="halving")

    def nothing_is_left(self) -> None:
        """All of the second seed were trained whole; of the first, no arm more than one."""
        rows = [row for row in self.ledger.trials() if row.is_done or row.attrs.get("final")]
        assert len(rows) == self.study.n_trials
        assert self.ledger.n_open() == 0
        first = Counter(
            row.arm for row in rows if row.state == "complete" and not row.params["seed"]
        )
        assert all(n == 1 for n in first.values())
        assert not [row for row in self.ledger.trials() if row.is_paused]


FEW = settings(
    max_examples=4,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TestGrid = Workers.TestCase
TestGrid.settings = FEW
TestPerArm = PerArmWorkers.TestCase
TestPerArm.settings = FEW
TestHalving = HalvingWorkers.TestCase
TestHalving.settings = FEW
