"""LoRA adapters on a cut base: put on, saved with the cut they belong to, taken off again.

The low-rank update is PEFT's (Hu et al. 2021, arXiv:2106.09685), on every linear layer but the
output head (Dettmers et al. 2023).
"""

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pressft.errors import DataError, RefusedError
from pressft.model.base import Base, load_model
from pressft.model.fused import linear as lora
from pressft.model.surgery import remove
from pressft.spec import Part, Removal

RECEIPT = "removal.json"  # beside an adapter: its cut and its base
LORA_SCALE = 2  # alpha / rank: fixed, or sweeping the rank would sweep the step size too


def size(model: PreTrainedModel, rank: int) -> int:
    """Bytes of an adapter of `rank` on the whole model."""
    heads = {id(model.get_output_embeddings())}
    linear = [m for m in model.modules() if hasattr(m, "in_features") and id(m) not in heads]
    return sum(4 * rank * (module.in_features + module.out_features) for module in linear)


@contextmanager
def attached(model: PreTrainedModel, rank: int, seed: int) -> Iterator[PeftModel]:
    """A trainable LoRA adapter of `rank` around `model`; taken off again afterwards (law 2).

    Its start depends on `seed` alone and leaves the global random state untouched.
    """
    config = LoraConfig(
        r=rank,
        lora_alpha=LORA_SCALE * rank,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )

    def start() -> PeftModel:
        with torch.random.fork_rng(), _by_old_name():
            torch.manual_seed(seed)
            return get_peft_model(model, config)

    with _for_a_while(model, start) as wrapped:
        yield wrapped


@contextmanager
def loaded(
    model: PreTrainedModel, removal: Removal, identity: str, folder: Path
) -> Iterator[PeftModel]:
    """`load` for the length of a `with` block; taken off again afterwards (law 2)."""
    with _for_a_while(model, lambda: load(model, removal, identity, folder)) as wrapped:
        yield wrapped


@contextmanager
def _for_a_while(model: PreTrainedModel, start: Callable[[], PeftModel]) -> Iterator[PeftModel]:
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    training = model.training
    wrapped = start()
    lora.fuse(wrapped)
    try:
        yield wrapped
    finally:
        wrapped.unload()  # delete_adapter would leave its wrappers behind
        model.train(training)
        model.__dict__.pop("peft_config", None)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(flags[name])
            parameter.grad = None


def save(wrapped: PeftModel, removal: Removal, base: Base, folder: Path) -> None:
    """Write adapter, its config and `removal.json`: the cut without which the adapter is wrong."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = get_peft_model_state_dict(wrapped)
    save_file({k: v.contiguous() for k, v in weights.items()}, folder / "adapter_model.safetensors")
    config = wrapped.peft_config["default"]
    config.base_model_name_or_path = base.name
    config.inference_mode = True
    config.save_pretrained(str(folder))
    receipt = asdict(removal) | {
        "parts": removal.parts,
        "kept": removal.kept,
        "base": base.name,
        "base_identity": base.identity,
        "quantization": base.quantization,
    }
    (folder / RECEIPT).write_text(json.dumps(receipt, indent=2) + "\n")


def load_adapter(folder: str | Path) -> tuple[PeftModel, PreTrainedTokenizerBase]:
    """The model of an adapter that a trial or an export wrote, and its tokenizer: the base it was
    trained on is loaded and cut as it was, and the adapter put on.

    Raises:
        DataError: no `removal.json` in the folder, so no cut is known.
        RefusedError: the weights under the base's name are others now.
        UsageError, MissingError: the base cannot be found.
    """
    path = Path(folder) / RECEIPT
    if not path.is_file():
        raise DataError(
            f"{folder} holds no {RECEIPT}: give the folder adapter/ that `pressft export` writes"
        )
    receipt = json.loads(path.read_text())
    if lacking := {"base", "base_identity", "parts", "scales", "quantization"} - receipt.keys():
        raise DataError(
            f"{path} lacks {', '.join(sorted(lacking))}: it is of an earlier version, or was "
            "changed; export the study again"
        )
    base = load_model(receipt["base"], receipt["quantization"])
    if base.identity != receipt["base_identity"]:
        raise RefusedError(
            f"adapter {folder}: trained on {base.name} {receipt['base_identity']}; the weights of "
            f"that name are {base.identity} now"
        )
    removal = remove(base.model, receipt["parts"], receipt["scales"])
    return load(base.model, removal, base.identity, Path(folder)), base.tokenizer


def load(model: PreTrainedModel, removal: Removal, identity: str, folder: Path) -> PeftModel:
    """Put a saved adapter on `model`, cut as `removal` says.

    Raises:
        RefusedError: it was trained on another base or another cut; PEFT itself would load it with
            a mere warning, shifted by a layer.
    """
    receipt = json.loads((folder / RECEIPT).read_text())
    theirs = receipt["base_identity"], receipt["parts"], receipt["scales"]
    ours = identity, list(removal.parts), list(removal.scales)
    if theirs != ours:
        raise RefusedError(
            f"adapter {folder}: trained on {receipt['base']} ({_named(*theirs)}); this model is "
            f"{_named(*ours)}"
        )
    with _by_old_name():
        return PeftModel.from_pretrained(model, str(folder), torch_device=str(model.device))


def _named(identity: str, parts: Sequence[Part], scales: Sequence[float]) -> str:
    """A cut model in words."""
    scaled = f", scaled by {scales}" if scales else ""
    return f"{identity} without layers {parts}{scaled}"


@contextmanager
def _by_old_name() -> Iterator[None]:
    """Silences a warning: peft 0.21 calls transformers 5 by a deprecated name."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        yield
