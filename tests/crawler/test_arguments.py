"""Arguments, good and bad."""

from datetime import date
from pathlib import Path

import pytest

from crawler import arguments
from crawler.arguments import Arguments, Source
from pressft.errors import UsageError

GOOD = {"feed": "https://press.example/rss", "corpus": "corpora/x"}


def test_every_argument_is_read() -> None:
    given = {
        "feed": "bmw, https://press.example:8080/rss",
        "corpus": "corpora/x",
        "since": "2024-02-29",
        "limit": "12",
        "dry_run": "1",
    }
    bmw = [Source(url, "bmw") for url in arguments.presets()["bmw"].feeds]
    sources = (*bmw, Source("https://press.example:8080/rss", "press.example"))
    assert arguments.parse(given) == Arguments(
        sources, Path("corpora/x"), date(2024, 2, 29), limit=12, dry_run=True
    )
    assert len({source.url for source in bmw}) == 13
    assert all("/global/rss2" in source.url for source in bmw)


def test_a_preset_is_data() -> None:
    names = {"apple", "bmw", "bosch", "mercedes-benz", "porsche", "siemens", "volkswagen"}
    assert set(arguments.presets()) >= names
    for name, preset in arguments.presets().items():
        assert preset.title
        assert arguments.parse(GOOD | {"feed": name}).sources == tuple(
            Source(url, name) for url in preset.feeds
        )
        assert all(url.startswith("https://") for url in preset.feeds)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"feed": ""}, "no feed"),
        ({"feed": " , "}, "no feed"),
        ({"feed": "bmv"}, "unknown newsroom 'bmv'"),
        ({"feed": "file:///etc/passwd"}, "cannot be crawled"),
        ({"feed": "ftp://press.example/rss"}, "cannot be crawled"),
        ({"feed": "http:///rss"}, "cannot be crawled"),
        ({"feed": "http://[::1"}, "cannot be crawled"),
        ({"feed": "http://press.example:http/"}, "cannot be crawled"),
        ({"corpus": ""}, "no corpus"),
        ({"corpus": "README"}, "is a file"),
        ({"corpus": "other"}, "holds other files"),
        ({"since": "yesterday"}, "YYYY-MM-DD"),
        ({"since": "2023-02-29"}, "YYYY-MM-DD"),
        ({"limit": "0"}, "at least 1"),
        ({"limit": "-3"}, "at least 1"),
        ({"limit": "many"}, "at least 1"),
        ({"dry_run": "perhaps"}, "write 1 or 0"),
        ({"depth": "3"}, "unknown argument -a depth"),
    ],
)
def test_a_bad_argument_is_refused_with_what_would_work(
    changes: dict[str, str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("README").touch()
    Path("other").mkdir()
    Path("other/thesis.doc").touch()
    with pytest.raises(UsageError) as caught:
        arguments.parse(GOOD | changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
