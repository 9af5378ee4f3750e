"""The database of a crawl: what goes in comes out, whatever happens in between."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from crawler.feeds import Entry
from crawler.items import FetchedPage, FoundEntries, UnusablePage
from crawler.store import Store, remove
from pressft.errors import MissingError

MOMENT = datetime(2024, 2, 29, 12, tzinfo=UTC)


def entry(name: str, published: datetime | None = MOMENT) -> Entry:
    url = f"https://press.example/{name}"
    return Entry(url, f"Title <{name}>", published, ("a", "b"), "<p>s</p>", name)


def found(one: Entry) -> FoundEntries:
    return FoundEntries("press.example", (one,))


def page(name: str) -> FetchedPage:
    body = "<p>Grüße</p>".encode("latin-1") * 99
    return FetchedPage(entry(name), "press.example", MOMENT, body, "latin-1", '"tag"', "yesterday")


def test_a_page_comes_back_as_it_went_after_reopening(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for name in "abc":
        store.found(found(entry(name, None)))
    store.found(found(entry("a")))  # a feed may learn more before the page is fetched
    store.save(page("a"))
    store.found(found(entry("a", None)))  # and no longer after
    store.set_unusable(UnusablePage(entry("b"), "failed", "HTTP 500"))
    store.close()
    store = Store(tmp_path)
    assert list(store.pages(but=set())) == [page("a")]
    assert list(store.pages(but={page("a").id})) == []
    assert page("a").html.startswith("<p>Grüße</p>")
    wanted = [name for name in "abcd" if store.wants(entry(name).url)]
    assert wanted == ["b", "c", "d"]
    store.set_unusable(UnusablePage(entry("a"), "dropped", "no text"))
    assert not store.wants(entry("a").url)
    assert not store.is_worth_keeping()
    store.close()
    remove(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_an_error_of_the_machine(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MissingError, match="choose a writable folder"):
        Store(tmp_path / "file" / "corpus")
    (tmp_path / "crawl.db").write_bytes(b"not a database, but long enough to be read as one" * 99)
    with pytest.raises(MissingError, match="cannot be written"):
        Store(tmp_path)
