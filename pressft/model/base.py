"""Base models, loaded in 4 bits. No code of a model's own is ever run.

Where their files come from is left to `files`, cutting to `surgery`, training to `training`.
"""

from dataclasses import dataclass
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

from pressft._assets import Progress
from pressft.errors import DataError
from pressft.model import files
from pressft.model.fused import norm
from pressft.spec import Quantization

SPARE = 4  # times as much memory as a base takes unpacked is to be free, or it stays packed
transformers.utils.logging.disable_progress_bar()


@dataclass(frozen=True, slots=True)
class Base:
    """A loaded base model, shared by all trials of a process, never changed for good.

    `identity` is a hash of config and weights, `quantization` how they were rounded when loaded.
    """

    name: str
    identity: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    tokenizer_identity: str
    quantization: Quantization

    @property
    def precision(self) -> str:
        """The type it computes in: bfloat16 on a GPU that has it, else float32."""
        return str(self.model.dtype).removeprefix("torch.")

    @property
    def computed(self) -> str:
        """Name of all that the results of a trial depend on: weights, tokenizer, numeric type."""
        return files.computed(self.identity, self.tokenizer_identity, self.precision)

    @property
    def n_layers(self) -> int:
        """Decoder layers of the whole model."""
        return int(self.model.config.get_text_config().num_hidden_layers)


def load_model(
    name: str = "auto",
    quantization: Quantization = "nf4",
    progress: Progress = lambda *_: None,
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
        UsageError, MissingError, DataError: as `files.folder`; a folder that transformers cannot
            load.
    """
    name = files.resolve(name)
    path = files.folder(name, progress)
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
    own = files.identity(path), files.tokenizer_identity(path)
    return Base(name, own[0], model, tokenizer, own[1], quantization)


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
