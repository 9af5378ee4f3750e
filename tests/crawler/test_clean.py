"""What is kept of a release, measured on labelled releases of our own and on what chance brings."""

import re
from collections import Counter
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from releases import Release, releases

from crawler.extract import noise, sentences
from crawler.extract.clean import clean, normalise
from crawler.extract.mask import mask

RELEASES = releases()
ANY = st.lists(
    st.one_of(
        st.text(max_size=80),
        st.sampled_from([p for release in RELEASES for p in release.paragraphs]),
    ),
    max_size=12,
)


def each_sentence(paragraphs: tuple[str, ...]) -> list[str]:
    return list(chain.from_iterable(map(sentences.split, paragraphs)))


def test_every_dropped_paragraph_has_a_reason() -> None:
    given = ["A  Title ", "One\u00a0two.", " ", "Zero\u200bwidth", "one two.", "A title", "e\u0301"]
    cleaned = clean(given, ("A title",))
    assert cleaned.paragraphs == ("One two.", "Zerowidth", "A title", "\u00e9")
    assert Counter(drop.reason for drop in cleaned.drops) == {"title": 1, "empty": 1, "repeated": 1}
    assert cleaned.text == "One two.\n\nZerowidth\n\nA title\n\n\u00e9"


def test_labelled_releases_lose_their_noise_and_at_most_a_hundredth_of_their_sentences() -> None:
    assert len(RELEASES) >= 40
    n_true = n_lost = n_noise = n_left = 0
    for release in RELEASES:
        cleaned = clean(release.paragraphs, (release.title,))
        kept = set(each_sentence(cleaned.paragraphs))
        true, noise_there = each_sentence(release.true), each_sentence(release.noise)
        n_true, n_lost = n_true + len(true), n_lost + len({*true} - kept)
        n_noise, n_left = n_noise + len(noise_there), n_left + len({*noise_there} & kept)
        assert not [raw for raw in release.hidden if raw in cleaned.text], release.title
    measured = f"{n_lost} of {n_true} true sentences lost, {n_left} of {n_noise} of noise left"
    assert n_true >= 200
    assert n_lost <= 0.01 * n_true, measured
    assert n_left <= 0.02 * n_noise, measured


@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.title)
def test_nothing_but_noise_is_noise(release: Release) -> None:
    assert not clean(release.true).drops
    assert "@" not in clean(release.paragraphs).text


@pytest.mark.parametrize(
    ("sentence", "reason"),
    [
        ("Fuel consumption fell to 5.4 l/100 km, and CO2 emissions fell with it.", ""),
        ("Fuel consumption combined: 5.4 l/100 km; CO2 emissions combined: 123 g/km", noise.FUEL),
        ("The X9 (fuel consumption combined: 6.1 l/100 km) is built by hand in Oslo.", ""),
        ("Der Kraftstoffverbrauch liegt nun bei 4,9 Litern auf 100 km.", ""),
        ("Stromverbrauch in kWh/100 km: 17,1 (kombiniert)", noise.FUEL),
        ("He said that images of the storm had moved the whole town.", ""),
        ("Bildmaterial steht unter www.werk.example zum Download bereit.", noise.MEDIA),
        ("Visitors may call [phone] until noon.", ""),
        ("For further information please contact the press office.", noise.CONTACT),
        ("More information at www.werk.example.", noise.LINKS),
        ("By Land or Sea", ""),
        ("By Una Reid", noise.AUTHOR),
        ("- ends -", noise.MEDIA),
        ("This release contains forward-looking statements.", noise.LEGAL),
    ],
)
def test_a_sentence_that_merely_holds_a_figure_stays(sentence: str, reason: str) -> None:
    assert noise.reason_of(sentence) == reason


@pytest.mark.parametrize(
    "head", ["About the study", "Über die Zukunft der Mobilität", "About time"]
)
def test_not_every_heading_with_about_is_of_a_company(head: str) -> None:
    rest = ["It ran for three years.", "Nobody had counted before.", "Now they do."]
    assert clean([*rest, head, "Die Zukunft kam spät und zu Fuß."]).drops == ()


def test_a_portrait_ends_at_the_next_heading() -> None:
    text = ["A bridge was built.", "It holds.", "About Zenith plc", "Zenith plc builds bridges."]
    text += ["It was founded in 1921.", "The next bridge", "Work begins in May beside the mill."]
    cleaned = clean(text)
    assert cleaned.paragraphs == (*text[:2], *text[5:])
    assert [drop.reason for drop in cleaned.drops] == [noise.ABOUT] * 3


TELEPHONES = """\
+49 89 382-12345|+49 (0)89 382 12345|(089) 382 12345|089/382-12345|0 89 / 12 34 56|0800 123 4567
1-800-555-0199|(555) 555-0199|+1.555.555.0199|0049 89 123456|T: 089 12345|Tel.: 12345-0|555-0123
Tel. 0211 / 4567-89|Phone: 555 0123|020 7946 0958|+44 20 7946 0958 ext. 12|01 23 45 67 89
03-1234-5678|0171 1234567|01711234567|M +49 171 1234567|Fax: +49-89-1234-5679|1-800-FLOWERS
call 7946 0958|+49.89.1234567|phone +1 (212) 555-0147|Fon 040 / 12 34 - 56 78|(+49) 89 1234567
+49 89 / 1234 \u2013 0|(0 89) 12 34 56|Tel: (0)30 1234567|T +1 555 010 9988|Telefon 09131 7-12345"""
FIGURES = """\
in 2024|2019-2024|1,234,567 cars|1.234.567 Euro|1 234 567 units|0 to 100 km/h in 4.5 s|24/7|3-0
EUR 1,500-2,000|12.03.2024|01/02/2024|01.02.2024|2024-01-02|08:00-17:00|X5 M60i|737-800|50-60 Hz
€ 45,900|5.4 l/100 km|118-145 g/km|ISO 9001:2015|EN 60601-1-2|iPhone 15 256 GB|06/2023 to 12/2024
+12 000 000 euros|+ 15.3 percent|1,234,567|WKN 519000|ISIN DE0005190003|ISBN 978-3-16-148410-0
serial 4711-0815-123|mobile 5000 units|0 280 158 501|200-300-400|in 07-08 2024|500 000 000"""


@pytest.mark.parametrize("number", re.split(r"[|\n]", TELEPHONES))
def test_telephone_numbers_are_masked(number: str) -> None:
    masked = mask(f"Reach us: {number} now")
    assert "[phone]" in masked
    assert not re.search(r"\d", masked)


@pytest.mark.parametrize("figure", re.split(r"[|\n]", FIGURES))
def test_years_prices_ranges_and_results_are_not(figure: str) -> None:
    assert mask(f"We saw {figure} then.") == f"We saw {figure} then."


@given(st.emails(), st.text(max_size=20), st.text(max_size=20))
def test_no_email_survives(email: str, before: str, after: str) -> None:
    masked = mask(normalise(f"{before} {email} {after}"))
    assert email not in masked
    assert mask(masked) == masked


@given(ANY)
@settings(max_examples=200)
def test_nothing_is_lost_uncounted_and_cleaning_twice_changes_nothing(texts: list[str]) -> None:
    cleaned = clean(texts)
    assert clean(cleaned.paragraphs).paragraphs == cleaned.paragraphs
    assert all(text == normalise(text) and text for text in cleaned.paragraphs)
    assert all(drop.reason for drop in cleaned.drops)
    assert len(cleaned.paragraphs) + len(cleaned.drops) >= len(texts)
    cleaned.text.encode()


WORDS = st.sampled_from(["the", "river", "moved", "slowly", "past", "a", "town", "where", "nobody"])


@given(st.lists(st.lists(WORDS, min_size=6, max_size=20), unique_by=tuple, max_size=8))
def test_a_text_without_noise_is_unchanged(written: list[list[str]]) -> None:
    texts = [f"{' '.join(words).capitalize()}." for words in written]
    assert clean(texts).paragraphs == tuple(texts)


@given(st.lists(st.sampled_from(["One.", 'He said "go."', "Am 3. Mai.", "Dr. No ran!", "etc. x"])))
def test_joined_sentences_are_the_paragraph_again(parts: list[str]) -> None:
    text = " ".join(parts)
    assert " ".join(sentences.split(text)) == text
