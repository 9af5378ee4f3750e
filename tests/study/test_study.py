"""Studies are data: which cells they ask for, and what makes two of them differ."""

from pathlib import Path

import pytest

from pressft.errors import UsageError
from pressft.spec import TrialSpec
from pressft.study.study import Choices, Range, Study, difference, load

BASE = TrialSpec(model="tiny-llama", corpus="invented")
ARMS = Choices("first", "none", "last")


def test_a_grid_is_the_product_with_arms_advancing_together() -> None:
    study = Study("s", BASE, {"remove": ARMS, "rank": Choices(4, 8)}, seeds=(0, 1))
    grid = study.grid()
    assert len(grid) == study.n_trials == 3 * 2 * 2
    assert [params["remove"] for params in grid[:3]] == ["none", "first", "last"]
    assert len({tuple(sorted(params.items())) for params in grid}) == 12
    for arm in study.arms():
        mine = [{k: v for k, v in p.items() if k != "remove"} for p in grid if p["remove"] == arm]
        assert mine == [{"rank": r, "seed": s} for r in (4, 8) for s in (0, 1)]


def test_arms_put_the_whole_model_first() -> None:
    assert Study("s", BASE, {"remove": ARMS}).arms() == ("none", "first", "last")
    assert Study("s", BASE, {}).arms() == ("none",)
    assert Study("s", BASE, {"remove": Choices("none", 5)}).arms() == ("none", "5")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "a b"}, "study name 'a b'"),
        ({"space": {"ranks": Choices(4)}}, "study field 'ranks': choose from .*rank"),
        ({"space": {"window": Choices(64)}}, "study field 'window'"),
        ({"space": {"rank": Range(4, 8)}}, "grids and `remove` take Choices"),
        ({"space": {"remove": Range(0, 8)}, "design": "per-arm"}, "take Choices"),
        ({"space": {"remove": Choices("none", "midle")}}, "remove 'midle': choose none"),
        ({"design": "random"}, "choose grid or per-arm"),
        ({"trials": 0}, "at least one trial"),
        ({"seeds": (0, 0)}, "distinct seeds"),
    ],
)
def test_a_study_that_cannot_be_run_is_refused_by_name(
    settings: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        Study(**{"name": "s", "base": BASE, "space": {}, **settings})  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [Choices, lambda: Choices(1, 1), lambda: Range(2, 1)])
def test_an_empty_space_is_refused(make: object) -> None:
    with pytest.raises(UsageError):
        make()  # type: ignore[operator]


def test_the_best_of_a_scan_stand_for_as_many_arms() -> None:
    study = Study("s", BASE, {"remove": Choices("last", "best-of-scan(3)", "none")})
    assert study.scanned == 3
    assert study.n_trials == len(study.arms()) == 5
    found = study.with_scan(["3", "14", "7", "9"])
    assert found.arms() == ("none", "last", "3", "14", "7")
    assert found.scanned == 0
    assert Study("s", BASE, {"remove": ARMS}).scanned == 0
    twice = Study("s", BASE, {"remove": Choices("none", 14, "best-of-scan(2)")})
    assert twice.with_scan(["3", "14"]).arms() == ("none", "14", "3")
    with pytest.raises(UsageError, match="remove 'best-of-scan"):
        Study("s", BASE, {"remove": Choices("none", "best-of-scan(0)")})


def test_prompts_and_questions_lie_beside_the_experiment(tmp_path: Path) -> None:
    lines = ["from pressft.study.study import Study", "from pressft.spec import TrialSpec"]
    lines.append('STUDY = Study("s", TrialSpec(), {}, prompts="p.txt")')
    (tmp_path / "s.py").write_text("\n".join(lines))
    study = load(tmp_path / "s.py")
    assert (study.prompts, study.questions) == (str(tmp_path / "p.txt"), "")
    assert study.definition() == Study("s", TrialSpec(), {}).definition()


def test_a_difference_names_the_fields_with_both_values() -> None:
    old = Study("s", BASE, {"rank": Choices(4, 8)}).definition()
    new = Study("s", TrialSpec(model="tiny-llama", corpus="x"), {"rank": Choices(4, 16)})
    assert difference(old, old) == []
    assert difference(old, new.definition()) == [
        'base.corpus: "invented" -> "x"',
        "space.rank: [4, 8] -> [4, 16]",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such experiment file"),
        ("STUDY = 1", "defines no STUDY"),
        ("x =", "does not run: SyntaxError"),
        ("import nowhere_at_all", "does not run: ModuleNotFoundError"),
        ("from pressft.study.study import Choices\nChoices()", "give at least one value"),
    ],
)
def test_an_experiment_that_is_none_is_refused(
    tmp_path: Path, text: str | None, message: str
) -> None:
    file = tmp_path / "study.py"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UsageError, match=message):
        load(file)


def test_every_experiment_of_the_project_loads_with_its_question(project: Path) -> None:
    files = list((project / "experiments").glob("*.py"))
    assert {"which_layer", "demo", "smoke"} <= {file.stem for file in files}
    for file in files:
        study = load(file)
        assert study.question.startswith("Question:")
        assert study.name == file.stem.replace("_", "-")
        assert "none" in study.arms()
