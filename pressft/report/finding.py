"""The finding of a study: one row an arm, the best trial chosen by validation (law 6).

Pure arithmetic on results; where they come from is left to `status`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from pressft.report import stats
from pressft.report.stats import Interval
from pressft.score import Score, distinct_2, exp, recovery, spearman, total
from pressft.spec import WHOLE, Part
from pressft.study.results import Answers, Cost, TrialResult, Untrained
from pressft.study.scans import CRITERIA, Scan

MIN_RANKED = 4  # layers, or a rank correlation says nothing


@dataclass(frozen=True, eq=False)
class Done:
    """A finished trial: its number, what it tried (all params but the seed), its validation loss;
    its result is read when asked for, as of ten thousand trials only a few are."""

    number: int
    config: str
    loss: float
    read: Callable[[], TrialResult]

    @cached_property
    def result(self) -> TrialResult:
        """All that it scored."""
        return self.read()


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its 95% interval."""

    value: float
    interval: Interval

    def as_json(self) -> dict[str, float | None]:
        """Value and ends; None where they are infinite."""
        ends = {"low": self.interval.low, "high": self.interval.high}
        return {name: finite(value) for name, value in ({"value": self.value} | ends).items()}


@dataclass(frozen=True, slots=True)
class Trained:
    """The best configuration of an arm by validation, over its seeds together; its `number` is
    that of the first seed's trial. Scores are of the test split and of the general text.

    `ratio` is the perplexity over that of the trained whole model, `forgetting` that of the general
    text over the untrained whole model's, both paired by document; `recovery` as in `scores`.
    """

    number: int
    validation: float  # mean loss, nats per token
    score: Score
    runs: tuple[tuple[Score, ...], ...]  # one a seed
    perplexity: Estimate
    ratio: Estimate | None
    recovery: float | None
    general: Score | None
    forgetting: Estimate | None
    answers: Answers | None


@dataclass(frozen=True, slots=True)
class Arm:
    """One row: an arm before training and, where a trial is done, after."""

    arm: str
    parts: tuple[Part, ...]
    trials: int  # complete
    ended_early: int  # by pruning, beside them
    untrained: Score
    general: Score | None  # of the general text, untrained
    parameters: int  # of the cut model
    saved: int  # parameters that the cut took away
    cost: Cost | None
    answers: Answers | None  # untrained
    trained: Trained | None

    @property
    def label(self) -> str:
        """Arm for people: the removed layers beside the name."""
        if not self.parts:
            return "none (whole)"
        parts = ",".join(map(str, self.parts))
        return self.arm if self.arm == parts else f"{self.arm} ({parts})"

    def as_json(self) -> dict[str, Any]:
        """The row for `--json`; perplexities of the test split."""
        after = self.trained
        return {
            "arm": self.arm,
            "layers": list(self.parts),
            "trials": self.trials,
            "ended_early": self.ended_early,
            "best_trial": after.number if after else None,
            "perplexity_untrained": finite(self.untrained.perplexity),
            "perplexity_trained": finite(after.score.perplexity) if after else None,
            "perplexity_interval": _pair(after.perplexity.interval) if after else None,
            "bits_per_byte": after.score.bits_per_byte if after else None,
            "word_perplexity": finite(after.score.word_perplexity) if after else None,
            "ratio_to_whole": finite(after.ratio.value) if after and after.ratio else None,
            "ratio_interval": _pair(after.ratio.interval) if after and after.ratio else None,
            "recovery": after.recovery if after else None,
            "general_untrained": finite(self.general.perplexity) if self.general else None,
            "general_trained": finite(after.general.perplexity)
            if after and after.general
            else None,
            "parameters": self.parameters,
            "parameters_saved": self.saved,
            "cost": asdict(self.cost) if self.cost else None,
            "answers_untrained": _summed_up(self.answers),
            "answers_trained": _summed_up(after.answers) if after else None,
        }


@dataclass(frozen=True, slots=True)
class Finding:
    """What a study found: its arms, the whole model first; which cuts are not shown to be worse
    than the best one; how well a scan foretold the healed order."""

    arms: tuple[Arm, ...]
    tied: tuple[str, ...]
    foretold: Mapping[str, Estimate]  # criterion: rank correlation with the healed loss
    n_ranked: int  # layers in that correlation

    @property
    def best(self) -> Arm | None:
        """The cut with the lowest validation loss, if any is done."""
        return best(self.arms)

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "arms": [arm.as_json() for arm in self.arms],
            "best": self.best.arm if self.best else None,
            "not_shown_worse": list(self.tied),
            "rank_correlation": {name: e.as_json() for name, e in self.foretold.items()},
        }


def finding(
    untrained: Mapping[str, tuple[Untrained, Cost | None, Answers | None]],
    trials: Mapping[str, Sequence[Done]],
    answers_by_arm: Mapping[str, Answers | None],
    scan: Scan | None,
    ended_early: Mapping[str, int],
) -> Finding:
    """What is known of each arm, in the order of `untrained`.

    Args:
        untrained: of each arm the scores, cost and answers of its cut base.
        trials: the finished trials of each arm.
        readings: of each arm's best trial.
        scan: of the same model and corpus.
        ended_early: how many trials of each arm were.
    """
    chosen = {arm: choose(done) for arm, done in trials.items()}
    whole = untrained[WHOLE][0] if WHOLE in untrained else None
    reference = chosen.get(WHOLE, ())
    rows = tuple(
        Arm(
            arm=arm,
            parts=cut.removal.parts,
            trials=len(trials.get(arm, ())),
            ended_early=ended_early.get(arm, 0),
            untrained=total(cut.test),
            general=total(cut.general) if cut.general else None,
            parameters=cut.parameters,
            saved=cut.removal.parameters,
            cost=cost,
            answers=answers,
            trained=_trained(arm, cut, chosen[arm], whole, reference, answers_by_arm.get(arm))
            if chosen.get(arm)
            else None,
        )
        for arm, (cut, cost, answers) in untrained.items()
    )
    foretold, n = _foretold(rows, scan)
    return Finding(rows, _tied(rows), foretold, n)


def best(rows: Sequence[Arm]) -> Arm | None:
    """The cut arm with the lowest validation loss."""
    done = [(row.trained.validation, i, row) for i, row in enumerate(_cut(rows)) if row.trained]
    return min(done, default=(0.0, 0, None))[2]


def choose(done: Sequence[Done]) -> tuple[Done, ...]:
    """The trials, one a seed, of the best configuration by validation loss, never by test.

    Of the configurations with the most seeds, the one with the lowest mean loss; the earlier one
    of equals. Empty where none has a finite loss.
    """
    configs: dict[str, list[Done]] = {}
    for trial in done:
        if math.isfinite(trial.loss):
            configs.setdefault(trial.config, []).append(trial)
    ranked = sorted(
        configs.values(), key=lambda trials: (-len(trials), _validation(trials), trials[0].number)
    )
    return tuple(ranked[0]) if ranked else ()


def tested(trials: Sequence[Done]) -> Score:
    """Score of the test split, over all these trials together."""
    return total(score for trial in trials for score in trial.result.test)


def _validation(trials: Sequence[Done]) -> float:
    return math.fsum(trial.loss for trial in trials) / len(trials)


def _trained(
    arm: str,
    cut: Untrained,
    done: Sequence[Done],
    whole: Untrained | None,
    reference: Sequence[Done],
    answers: Answers | None,
) -> Trained:
    score, runs = tested(done), tuple(trial.result.test for trial in done)
    general = [trial.result.general for trial in done if trial.result.general]
    compared = arm != WHOLE and bool(reference)
    theirs = tested(reference) if compared else score
    return Trained(
        number=done[0].number,
        validation=_validation(done),
        score=score,
        runs=runs,
        perplexity=Estimate(score.perplexity, stats.perplexity(runs)),
        ratio=_ratio(runs, [trial.result.test for trial in reference]) if compared else None,
        recovery=recovery(total(cut.test).loss, score.loss, theirs.loss) if compared else None,
        general=total(score for run in general for score in run) if general else None,
        forgetting=_ratio(general, [whole.general]) if general and whole else None,
        answers=answers,
    )


def _ratio(runs: stats.Runs, reference: stats.Runs) -> Estimate:
    """Perplexity over that of the reference, over all runs of both."""
    ours, theirs = (total(score for run in side for score in run) for side in (runs, reference))
    return Estimate(exp(ours.loss - theirs.loss), stats.ratio(runs, reference))


def _tied(rows: Sequence[Arm]) -> tuple[str, ...]:
    """The cuts that are not shown to be worse than the best one, corrected for their number.

    The best was chosen by validation; whether it is only lucky is asked of the test split.
    """
    first = best(rows)
    others = [row for row in _cut(rows) if row.trained and row is not first]
    if first is None or first.trained is None:
        return ()
    return tuple(
        row.arm
        for row in others
        if row.trained
        and stats.ratio(row.trained.runs, first.trained.runs, comparisons=len(others)).low <= 1
    )


def _foretold(rows: Sequence[Arm], scan: Scan | None) -> tuple[dict[str, Estimate], int]:
    """Rank correlation of what a scan says of single layers with their healed loss."""
    healed = {str(row.parts[0]): row.trained.score.loss for row in single(rows) if row.trained}
    cuts = [cut for cut in (scan.kind("layers") if scan else ()) if cut.remove in healed]
    if len(cuts) < MIN_RANKED:
        return {}, 0
    losses = [healed[cut.remove] for cut in cuts]
    said = {"perplexity": [cut.score.loss for cut in cuts]} | {
        name: [getattr(cut, name) for cut in cuts] for name in CRITERIA
    }
    return {
        name: Estimate(spearman(values, losses), stats.rank_correlation(values, losses))
        for name, values in said.items()
    }, len(cuts)


def _cut(rows: Sequence[Arm]) -> list[Arm]:
    return [row for row in rows if row.arm != WHOLE]


def single(rows: Sequence[Arm]) -> list[Arm]:
    """The arms that remove one whole layer."""
    return [row for row in rows if len(row.parts) == 1 and isinstance(row.parts[0], int)]


def _summed_up(answers: Answers | None) -> dict[str, float] | None:
    """What answers come to: mean loss of the right answers, repetition of its texts."""
    if answers is None:
        return None
    loss = {"loss": total(answers.scores).loss} if answers.scores else {}
    texts = {"greedy": answers.greedy, "sampled": answers.sampled}
    return loss | {f"distinct_2_{name}": distinct_2(t) for name, t in texts.items() if t}


def _pair(interval: Interval) -> list[float | None]:
    return [finite(interval.low), finite(interval.high)]


def finite(value: float) -> float | None:
    """None for what JSON cannot hold."""
    return value if math.isfinite(value) else None
