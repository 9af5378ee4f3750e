"""The report: one safe, self-contained page that says what the study found."""

import dataclasses
import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from listening import Listener
from lxml import html as parser
from markdown_it import MarkdownIt
from studies import BASE, EVIL, fill, grid

from pressft import _text, sweep
from pressft.corpus import summary
from pressft.corpus.load import load_corpus
from pressft.report import figures, status, tables
from pressft.report import page as report
from pressft.report.drawing import COLOURS
from pressft.report.figures import Point
from pressft.study.ledger import Ledger
from pressft.study.locations import Locations
from pressft.study.study import Choices, Study


@pytest.fixture(scope="module")
def locations(tmp_path_factory: pytest.TempPathFactory) -> Locations:
    found = Locations(tmp_path_factory.mktemp("report"))
    fill(grid(40), found, rich=True)
    return found


@pytest.fixture(scope="module")
def page(locations: Locations) -> str:
    return report.html("made", locations)


def test_the_finding_is_a_sentence_with_its_interval(page: str) -> None:
    tree = parser.fromstring(page)
    (finding,) = tree.xpath("//p[@class='finding']")
    assert re.match(
        r"With layer 2 removed, the trained model reaches a test perplexity of \d+\.\d "
        r"\[\d+\.\d, \d+\.\d\], 1\.\d\d \[1\.\d\d, 1\.\d\d\] times that of the trained whole",
        finding.text_content(),
    )
    assert "40 of 40 trials done, 5 of them ended early" in page
    assert "still running" not in page


def test_the_page_has_its_tables_and_charts(page: str) -> None:
    tree = parser.fromstring(page)
    captions = [node.text_content() for node in tree.xpath("//figcaption")]
    for words in ("by removed layer", "Training loss over tokens", "Validation loss over tokens"):
        assert any(words in caption for caption in captions), words
    for words in ("against rank", "against learning rate"):
        assert any(words in caption for caption in captions), words
    assert any("first (0)" in caption for caption in captions)  # too far above for its curves
    for words in ("the number of parameters left", "the speed of generation"):
        assert any(words in caption for caption in captions), words
    assert "Importance of the settings" in page
    assert len(tree.xpath("//figure//svg")) == len(captions)
    assert [node.text for node in tree.xpath("//h2")] == [
        *("Results by arm", "Learning curves", "Removed layers", "Settings", "Trade-offs"),
        *("General-domain text", "Continuations", "Corpus", "Reproducibility"),
    ]
    header = [node.text for node in tree.xpath("(//table)[1]//thead//th")]
    assert header[:6] == ["arm", "trials", "best trial", "untrained", "trained", "x whole"]
    assert header[6:] == ["share healed", "parameters saved", "parameters", "tokens/s"]
    arms = [row.text_content() for row in tree.xpath("(//table)[1]//tbody/tr/th")]
    assert arms == ["none (whole)", "first (0)", "middle (2)", "last (3)"]
    assert "pressft sweep x.py" in page


def test_a_trial_that_ended_early_shows_how_far_it_came(page: str) -> None:
    tree = parser.fromstring(page)
    faint = {
        title: len(tree.xpath(f"//*[@aria-label='{title}']//*[contains(@class, 'faint')]"))
        for title in ("Training loss", "Validation loss")
    }
    assert faint["Validation loss"] > faint["Training loss"] > 0


def test_the_page_needs_nothing_from_elsewhere_and_text_stays_text(page: str) -> None:
    tree = parser.fromstring(page)
    assert not tree.xpath("//*[@src or @href][not(starts-with(@href, '#mark-'))]")
    assert "url(" not in page
    assert "import" not in re.sub(r"Importance|importance", "", page)
    assert not tree.xpath("//img | //*[@onerror]")
    assert len(tree.xpath("//script")) == 1
    said = tree.xpath("//p[@class='question'] | //div[contains(@class, 'texts')]//td")
    assert sum(EVIL in node.text_content() for node in said) > 4


def test_text_from_outside_stays_text_in_markdown(locations: Locations) -> None:
    found = tables.markdown(status.finding("made", locations))
    shown = MarkdownIt("commonmark", {"html": True}).enable("table").render(found)
    tree = parser.fromstring(shown)
    assert not tree.xpath("//img | //script | //a")
    assert EVIL in tree.text_content()
    assert len(tree.xpath("//table")) == 4


@given(st.text(min_size=1))
def test_plain_text_in_markdown_is_the_text(text: str) -> None:
    shown = MarkdownIt("commonmark", {"html": True}).renderInline(_text.plain(text))
    tags = set(re.findall(r"<\w+", shown))
    assert tags <= {"<br"}


def test_front_is_what_nothing_beats_in_both() -> None:
    def at(*places: tuple[float, float]) -> list[Point]:
        return [Point(x, y, "") for x, y in places]

    points = at((1, 9), (2, 5), (3, 6), (4, 4), (2, 7))
    assert figures.pareto(points, sign=1) == at((1, 9), (2, 5), (4, 4))
    assert figures.pareto(points, sign=-1) == at((4, 4))


def test_one_colour_and_one_mark_for_an_arm_throughout(page: str) -> None:
    tree = parser.fromstring(page)
    seen: dict[str, set[str]] = {}
    for title in tree.xpath("//figure//title"):
        label = re.split(r"[:,]", title.text)[0]
        group = title.xpath("ancestor::g[@class]")[-1]
        href = title.getparent().get("href")
        assert href in {"#mark-arrow", f"#mark-{group.get('class').split()[0]}"}
        seen.setdefault(label, set()).add(group.get("class").split()[0])
    assert {len(classes) for classes in seen.values()} == {1}
    assert len({next(iter(classes)) for classes in seen.values()}) == len(seen) == 4


def test_a_running_study_says_so(tmp_path: Path) -> None:
    locations = Locations(tmp_path)
    fill(grid(8), locations, leave=3)
    page = report.html("made", locations)
    assert "5 of 8 trials done, still running" in page
    assert "No counts of the corpus were kept with this study" in page


def test_the_corpus_is_shown_as_the_study_kept_it(page: str) -> None:
    (heading,) = parser.fromstring(page).xpath("//h2[.='Corpus']")
    (table,) = heading.xpath("following::table[1]")
    rows = [[cell.text_content() for cell in row] for row in table.xpath("./tbody/tr")]
    sizes = summary.summary(load_corpus("invented")).splits
    assert rows == [
        [name, *(f"{n:,}" for n in (size.articles, size.words, size.characters))]
        for name, size in sizes.items()
    ]


def test_colours_are_told_apart_by_colour_blind_readers() -> None:
    """CIE76 over 15 between all arms, as seen without each kind of cones (Machado et al. 2009,
    severity 1); 3 to 1 at least against the paper, as WCAG 1.4.11 asks of graphics."""
    for scheme in (0, 1):
        colours = {name: rgb(pair[scheme]) for name, pair in COLOURS.items()}
        arms = [colours[name] for name in ("a0", "a1", "a2", "a3", "a4", "a5", "a6", "other")]
        for colour in arms:
            high, low = sorted((colour @ LUMINANCE, colours["paper"] @ LUMINANCE), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= 3
        for seen in CONES.values():
            for one, other in itertools.combinations(arms, 2):
                assert np.linalg.norm(lab(seen @ one) - lab(seen @ other)) > 15


LUMINANCE = np.array([0.2126, 0.7152, 0.0722])
CONES = {
    "all": np.eye(3),
    "no red": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "no green": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "no blue": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}


def rgb(colour: str) -> np.ndarray:
    """Linear sRGB of #aabbcc."""
    parts = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def lab(colour: np.ndarray) -> np.ndarray:
    """CIE L*a*b* of linear sRGB, white of D65."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], LUMINANCE, [0.0193, 0.1192, 0.9505]])
    share = to_xyz @ colour.clip(0, 1) / np.array([0.9505, 1, 1.089])
    x, y, z = np.where(share > 0.008856, np.cbrt(share), 7.787 * share + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_the_page_of_40_runs_stays_small(page: str) -> None:
    assert len(page.encode()) < 500_000


@pytest.mark.slow
def test_the_page_of_400_runs_stays_small(tmp_path: Path) -> None:
    locations = Locations(tmp_path)
    fill(grid(400), locations)
    assert len(report.html("made", locations).encode()) < 2_000_000


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
    sweep.run_sweep(study, Listener(), Locations(tmp_path / "mlruns"))
    (path,) = (tmp_path / "mlruns" / "artifacts" / "real").rglob("report.html")
    page = path.read_text()
    assert "2 of 2 trials done" in page
    tree = parser.fromstring(page)
    assert not tree.xpath("//img")
    assert EVIL in tree.xpath("//div[contains(@class, 'texts')]//tbody/tr/th")[0].text_content()
    assert "characters" in tree.xpath("//h2[.='Corpus']/following::table[1]")[0].text_content()
    assert "tokens/s" in page


def test_a_trial_killed_before_it_noted_anything_is_no_trouble(tmp_path: Path) -> None:
    locations = Locations(tmp_path)
    ledger = Ledger(grid(8), locations.storage, {"weights": "w", "corpus": "c"})
    assert ledger.take() is not None
    ledger = Ledger(grid(8), locations.storage, {"weights": "w", "corpus": "c"})
    assert [row.number for row in ledger.recover()] == [0]
    fill(grid(8), locations)
    assert "8 of 8 trials done" in report.html("made", locations)
