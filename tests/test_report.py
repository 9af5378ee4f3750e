"""The report: one safe, self-contained page that says what the study found."""

import dataclasses
import re
from pathlib import Path

import pytest
from listening import Listener
from lxml import html as parser
from studies import BASE, EVIL, fill, grid

from pressft import report, sweep
from pressft.design import Choices, Study
from pressft.status import Stores
from pressft.study import Ledger


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Stores:
    found = Stores(tmp_path_factory.mktemp("report"))
    fill(grid(40), found)
    return found


@pytest.fixture(scope="module")
def page(stores: Stores) -> str:
    return report.html("made", stores)


def test_the_finding_is_a_sentence_with_its_interval(page: str) -> None:
    tree = parser.fromstring(page)
    (finding,) = tree.xpath("//p[@class='finding']")
    assert re.match(
        r"Without layer 2 the model reaches, once trained, a test perplexity of \d+\.\d "
        r"\[\d+\.\d, \d+\.\d\], 1\.\d\d \[1\.\d\d, 1\.\d\d\] times that of the trained whole",
        finding.text_content(),
    )
    assert "40 of 40 trials done" in page
    assert "still running" not in page


def test_the_page_has_its_tables_and_charts(page: str) -> None:
    tree = parser.fromstring(page)
    captions = [node.text_content() for node in tree.xpath("//figcaption")]
    for words in ("by removed layer", "Training loss by tokens", "Validation loss by tokens"):
        assert any(words in caption for caption in captions), words
    for words in ("against rank", "against learning rate"):
        assert any(words in caption for caption in captions), words
    assert any("first (0)" in caption for caption in captions)  # too far above for its curves
    assert "Importance of the settings" in page
    assert len(tree.xpath("//figure//svg")) == len(captions)
    arms = [row.text_content() for row in tree.xpath("(//table)[1]//tbody/tr/th")]
    assert arms == ["none (whole)", "first (0)", "middle (2)", "last (3)"]
    assert "pressft sweep x.py" in page


def test_the_page_needs_nothing_from_elsewhere_and_text_stays_text(page: str) -> None:
    tree = parser.fromstring(page)
    assert not tree.xpath("//*[@src or @href]")
    assert "url(" not in page
    assert "import" not in re.sub(r"Importance|importance", "", page)
    assert not tree.xpath("//img | //*[@onerror]")
    assert len(tree.xpath("//script")) == 1
    assert "&lt;img src=x onerror=alert(1)&gt;" in page


def test_one_colour_and_one_mark_for_an_arm_throughout(page: str) -> None:
    tree = parser.fromstring(page)
    seen: dict[str, set[str]] = {}
    for mark in tree.xpath("//figure//*[@data-tip]"):
        label = re.split(r"[:,]", mark.get("data-tip"))[0]
        seen.setdefault(label, set()).add(mark.getparent().get("class").split()[0])
    assert {len(classes) for classes in seen.values()} == {1}
    assert len({next(iter(classes)) for classes in seen.values()}) == len(seen) == 4


def test_a_running_study_says_so(tmp_path: Path) -> None:
    stores = Stores(tmp_path)
    fill(grid(8), stores, leave=3)
    assert "5 of 8 trials done, still running" in report.html("made", stores)


def test_the_page_of_40_runs_stays_small(page: str) -> None:
    assert len(page.encode()) < 500_000


@pytest.mark.slow
def test_the_page_of_400_runs_stays_small(tmp_path: Path) -> None:
    stores = Stores(tmp_path)
    fill(grid(400), stores)
    assert len(report.html("made", stores).encode()) < 2_000_000


def test_a_real_study_has_its_report_in_mlflow(tmp_path: Path) -> None:
    lines = [f"{EVIL} note {i} of the harbour, {i * i} boats, {i} ferries" for i in range(60)]
    (tmp_path / "text.txt").write_text("\n\n".join(lines))
    (tmp_path / "p.txt").write_text(f"{EVIL}\n")
    study = Study(
        "real",
        dataclasses.replace(BASE, corpus=str(tmp_path / "text.txt")),
        {"remove": Choices("none", "last")},
        prompts=str(tmp_path / "p.txt"),
    )
    sweep.run(study, Listener(), Stores(tmp_path / "mlruns"))
    (path,) = (tmp_path / "mlruns" / "artifacts" / "real").rglob("report.html")
    page = path.read_text()
    assert "2 of 2 trials done" in page
    tree = parser.fromstring(page)
    assert not tree.xpath("//img")
    assert EVIL in tree.xpath("//div[contains(@class, 'texts')]//tbody/tr/th")[0].text_content()
    assert "characters" in tree.xpath("//h2[.='The corpus']/following::table[1]")[0].text_content()
    assert "tokens/s" in page


def test_a_trial_killed_before_it_noted_anything_is_no_trouble(tmp_path: Path) -> None:
    stores = Stores(tmp_path)
    ledger = Ledger(grid(8), stores.storage, {"weights": "w", "corpus": "c"})
    assert ledger.take() is not None
    ledger = Ledger(grid(8), stores.storage, {"weights": "w", "corpus": "c"})
    assert [row.number for row in ledger.recover()] == [0]
    fill(grid(8), stores)
    assert "8 of 8 trials done" in report.html("made", stores)
