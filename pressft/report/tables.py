"""A study's finding as tables of text, for terminal, Markdown and CSV alike."""

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass

from pressft._text import plain
from pressft.report.finding import Arm, Estimate, Finding
from pressft.score import Score, distinct_2, total
from pressft.spec import WHOLE
from pressft.study.results import Answers


@dataclass(frozen=True, slots=True)
class Table:
    """Cells of text under their header; the first column names the row."""

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """As a Markdown table under its caption."""
        lines = [self.header, ("---", *["---:"] * (len(self.header) - 1)), *self.rows]
        rows = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return f"{plain(self.caption)}\n\n{rows}"


def of(finding: Finding, *, wide: bool = False) -> list[Table]:
    """The tables that the finding has data for: scores, forgetting, answers, costs; a `wide` first
    one has more columns."""
    arms = finding.arms
    tables = [scores(arms, wide=wide)]
    if any(arm.general for arm in arms):
        tables.append(forgetting(arms))
    if any(arm.answers for arm in arms):
        tables.append(answers_by_arm(arms))
    if any(arm.cost for arm in arms):
        tables.append(costs(arms))
    return tables


def lines(finding: Finding) -> list[str]:
    """The lines below the tables: the whole model, and what the tables do not show."""
    whole = next((arm for arm in finding.arms if arm.arm == WHOLE), None)
    found = []
    if whole:
        found.append(
            f"whole model, untrained: test perplexity {number(whole.untrained.perplexity)}"
        )
    if whole and whole.trained:
        score = whole.trained.score
        found.append(f"whole model, trained:   test perplexity {number(score.perplexity)}")
    return [*found, *remarks(finding)]


def remarks(finding: Finding) -> list[str]:
    """What the tables do not show: which arms may be as good as the best one, and how well a scan
    predicted the ranking."""
    found = []
    if (
        finding.best
        and sum(arm.trained is not None for arm in finding.arms if arm.arm != WHOLE) > 1
    ):
        rest = f"not shown to be worse: {', '.join(finding.tied)}"
        found.append(
            f"best arm by validation: {finding.best.arm}; on the test split, corrected for the "
            f"number of arms, {rest if finding.tied else 'all others are shown to be worse'}"
        )
    if finding.foretold:
        ranks = ", ".join(
            f"{name.replace('_', ' ')} {_estimate(estimate, '{:.2f}'.format)}"
            for name, estimate in finding.foretold.items()
        )
        found.append(
            f"rank correlation of the untrained scan with the trained perplexity, over "
            f"{finding.n_ranked} layers: {ranks}"
        )
    return found


def markdown(finding: Finding) -> str:
    """All tables and lines as Markdown."""
    text = [*(table.markdown() for table in of(finding, wide=True)), *lines(finding)]
    return "\n\n".join(text) + "\n"


def as_csv(finding: Finding) -> str:
    """One line an arm, unrounded."""
    out = io.StringIO()
    rows = [flattened(arm.as_json()) for arm in finding.arms]
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def number(perplexity: float) -> str:
    """A perplexity for people: 39.7, 222, 43,189."""
    return f"{perplexity:,.1f}" if perplexity < 100 else f"{perplexity:,.0f}"


def interval(estimate: Estimate) -> str:
    """Both ends, of a perplexity: [34.1, 44.6]."""
    return f"[{_bound(estimate.interval.low)}, {_bound(estimate.interval.high)}]"


def scores(arms: tuple[Arm, ...], *, wide: bool = False) -> Table:
    """Test perplexity of each arm, untrained and trained, and what the removal saves."""
    header = ("arm", "trials", *(("best trial",) if wide else ()), "untrained", "trained")
    more = ("parameters", "tokens/s") if wide else ()
    return Table(
        "Perplexity on the test split, with 95% intervals over its documents.",
        (*header, "x whole", "share healed", "parameters saved", *more),
        tuple(
            (
                arm.label,
                f"{arm.trials} ({arm.ended_early} early)" if arm.ended_early else str(arm.trials),
                *((str(arm.trained.number) if arm.trained else "-",) if wide else ()),
                number(arm.untrained.perplexity),
                _estimate(arm.trained.perplexity, _bound) if arm.trained else "-",
                _compared(arm.trained.ratio if arm.trained else None),
                f"{arm.trained.recovery:.0%}"
                if arm.trained and arm.trained.recovery is not None
                else "-",
                _saved(arm),
                *((short(arm.parameters), _speed(arm)) if wide else ()),
            )
            for arm in arms
        ),
    )


def forgetting(arms: tuple[Arm, ...]) -> Table:
    """Perplexity of each arm on the general-domain text."""
    return Table(
        "Perplexity on general-domain text: what fine-tuning made the model forget.",
        ("arm", "untrained", "trained", "x whole untrained"),
        tuple(
            (
                arm.label,
                _perplexity(arm.general),
                _perplexity(arm.trained.general if arm.trained else None),
                _compared(arm.trained.forgetting if arm.trained else None),
            )
            for arm in arms
        ),
    )


def answers_by_arm(arms: tuple[Arm, ...]) -> Table:
    """Answers and repetition of each arm, untrained and trained."""
    return Table(
        "Answers: perplexity of the tokens of right answers. Repetition: share of distinct word "
        "pairs (distinct-2) in greedy continuations.",
        ("arm", "answers untrained", "trained", "distinct-2 untrained", "trained"),
        tuple(
            (
                arm.label,
                *(_right(answers) for answers in _both(arm)),
                *(_distinct(answers) for answers in _both(arm)),
            )
            for arm in arms
        ),
    )


def costs(arms: tuple[Arm, ...]) -> Table:
    """Size, memory and speed of each arm."""
    machine = next(arm.cost.machine for arm in arms if arm.cost)
    return Table(
        f"Inference cost, measured on {machine}.",
        ("arm", "parameters", "checkpoint", "peak memory", "tokens/s"),
        tuple(
            (
                arm.label,
                short(arm.parameters),
                *(
                    (
                        f"{arm.cost.checkpoint_bytes / 1e6:,.0f} MB",
                        f"{arm.cost.peak_bytes / 1e6:,.0f} MB",
                        _speed(arm),
                    )
                    if arm.cost
                    else ("-", "-", "-")
                ),
            )
            for arm in arms
        ),
    )


def _both(arm: Arm) -> tuple[Answers | None, Answers | None]:
    return arm.answers, arm.trained.answers if arm.trained else None


def _right(answers: Answers | None) -> str:
    return number(total(answers.scores).perplexity) if answers and answers.scores else "-"


def _distinct(answers: Answers | None) -> str:
    return f"{distinct_2(answers.greedy):.2f}" if answers and answers.greedy else "-"


def _perplexity(score: Score | None) -> str:
    return number(score.perplexity) if score else "-"


def _compared(ratio: Estimate | None) -> str:
    """Perplexity over another, and whether a difference is shown."""
    if ratio is None:
        return "-"
    text = _estimate(ratio, _times)
    return f"{text} (no difference shown)" if 1 in ratio.interval else text


def _estimate(estimate: Estimate, form: Callable[[float], str]) -> str:
    """A number with its interval: `38.9 [34.1, 44.6]`."""
    value = number(estimate.value) if form is _bound else form(estimate.value)
    return f"{value} [{form(estimate.interval.low)}, {form(estimate.interval.high)}]"


def _bound(perplexity: float) -> str:
    """An end of an interval: a large one needs no five digits."""
    return number(perplexity) if perplexity < 10_000 else f"{perplexity / 1000:,.3g}k"


def _times(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio < 10 else number(ratio)


def _saved(arm: Arm) -> str:
    share = arm.saved / (arm.saved + arm.parameters)
    return f"{short(arm.saved)} ({share:.1%})" if arm.saved else "-"


def _speed(arm: Arm) -> str:
    return f"{arm.cost.tokens_per_second:.1f}" if arm.cost else "-"


def short(n: int) -> str:
    """A count of parameters for people: 37,024 or 3.54M."""
    return f"{n / 1e6:,.2f}M" if n >= 1e6 else f"{n:,}"


def flattened(row: dict[str, object], prefix: str = "") -> dict[str, object]:
    """Nested entries beside the others, `cost_peak_bytes`; lists as words."""
    flat: dict[str, object] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            flat |= flattened(value, f"{prefix}{name}_")
        else:
            words = " ".join(map(str, value)) if isinstance(value, list) else value
            flat[f"{prefix}{name}"] = words
    return flat
