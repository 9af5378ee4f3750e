"""Tiny real models and a cache folder of the tests' own."""

import os

# tiny models: a second thread costs more than it brings, and two busy processes would spin
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported: no test asks the hub

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # heavy: the process that only hands out the tests does without
    import torch
    from transformers import PreTrainedModel

    from pressft.model.base import Base


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRESSFT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _ready_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """MLflow takes six seconds to set up a store: the first one is kept, and copied later."""
    from pressft.tracking import client

    kept = tmp_path_factory.mktemp("store")
    set_up = client._set_up

    def copy(root: Path) -> None:
        if not (kept / client.STORE).is_file():
            set_up(kept)
        shutil.copy(kept / client.STORE, root / client.STORE)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "_set_up", copy)
        yield


@pytest.fixture(scope="session", autouse=True)
def _few_words() -> Iterator[None]:
    """Models say little where the tests do not ask what they say: it is most of a tiny study."""
    from pressft import trial
    from pressft.evaluation import answers, cost

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cost, "NEW_TOKENS", 4)
        patch.setattr(cost, "ROUNDS", 1)
        patch.setattr(answers, "NEW_TOKENS", 8)
        patch.setattr(trial, "SAMPLE_TOKENS", 8)
        yield


@pytest.fixture(params=["tiny-llama", "tiny-qwen3"])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def model(family: str) -> "PreTrainedModel":
    from pressft.model import tiny

    return tiny.model(family)


@pytest.fixture(scope="session")
def load() -> "Callable[..., Base]":
    """Loads a base model; the same one is shared by all who ask for it."""
    from pressft.model import base

    loaded: dict[tuple[str, str, bool], Base] = {}

    def get(name: str, quantization: str = "nf4", *, unpack: bool = True) -> "Base":
        key = (name, quantization, unpack)
        if key not in loaded:
            loaded[key] = base.load_model(name, quantization, lambda *_: None, unpack=unpack)
        return loaded[key]

    return get


@pytest.fixture
def ids() -> "torch.Tensor":
    """Two rows of 24 token ids."""
    import torch

    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 24), generator=generator)


@pytest.fixture
def project() -> Path:
    return Path(__file__).resolve().parent.parent
