"""Which language a text is in."""

import pytest

from crawler.extract.language import language_of

ENGLISH = (
    "The bridge by the mill is open again, and people walk to work across it every morning, while "
    "the boats wait below until the tide has turned and the keeper lifts his hand."
)
GERMAN = (
    "Die Brücke an der Mühle ist wieder offen, und jeden Morgen gehen die Menschen über sie zur "
    "Arbeit, während die Boote unten warten, bis die Flut kommt und der Wärter die Hand hebt."
)


@pytest.mark.parametrize(
    ("text", "declared", "language"),
    [
        (GERMAN, "", "de"),
        (ENGLISH, "", "en"),
        (GERMAN, "en", "de"),
        (ENGLISH, "de", "en"),
        (ENGLISH, "en", "en"),
        ("Neue Brücke", "en", "en"),  # too short to doubt a page
        ("iPhone X2", "", ""),
        ("1234 5678", "", ""),
        ("", "fr", "fr"),
    ],
)
def test_the_detector_decides_alone_or_when_it_is_sure(
    text: str, declared: str, language: str
) -> None:
    assert language_of(text, declared) == language


def test_languages_that_the_detector_confuses_stay_as_declared() -> None:
    norwegian = "Broen ved møllen er åpen igjen, og hver morgen går folk over den til arbeidet " * 3
    assert language_of(norwegian, "nb") == "nb"
