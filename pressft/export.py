"""Taking the best trial of a study away: adapter with its cut, and one plain dense checkpoint.

The adapter is merged into the dequantised base, the very weights it was trained on: into the
original weights would be another model. The checkpoint is read back from disk with plain
transformers and must give the logits and the test perplexity promised before anything is named
done (law 3).
"""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from pressft._assets import Progress
from pressft.corpus.load import load_corpus
from pressft.errors import DataError, PressftError, RefusedError, UsageError
from pressft.evaluation import perplexity
from pressft.model import adapter, files, surgery
from pressft.model.base import Base, load_model
from pressft.model.tokens import separators, tokenize
from pressft.report import finding as arms
from pressft.report import status, tables
from pressft.report.finding import Arm, Done, Finding
from pressft.score import Score, total
from pressft.spec import WHOLE, TrialSpec
from pressft.study.locations import Locations
from pressft.study.reader import Stored
from pressft.study.results import Store

LOGIT_TOLERANCE = 1e-3  # of the largest logit: merging adds in another order
LOSS_TOLERANCE = 0.01  # nats per token, of the test split: a GPU scored in bf16, the file is fp32
CONVERTER = "convert_hf_to_gguf.py"  # llama.cpp's; the gguf package has none


@dataclass(frozen=True, slots=True)
class Exported:
    """Receipt: which trial went where, and how far the file is from the promise."""

    folder: Path
    arm: str
    trial: int
    logit_difference: float  # largest, as a share of the largest logit
    perplexity: float  # of the file, on the test split


def export(
    study: str, arm: str | None, folder: Path, locations: Locations, progress: Progress
) -> Exported:
    """Write the best trial of an arm, or of all cut arms, to a new `folder`.

    Raises:
        UsageError: no such study or arm, or no finished trial in it.
        RefusedError: the folder holds something, weights or corpus are others than the study's,
            or the file does not keep the promise.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RefusedError(f"{folder} exists and holds something: give a new folder")
    seen = status.look(study, locations)
    found, finding, best = seen.found, seen.finding, _best(study, arm, seen.trials)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".export-") as temporary:
        part = Path(temporary) / "part"
        receipt = _write(found, best, part, Store(locations.root), progress)
        row = next(row for row in finding.arms if row.arm == receipt.arm)
        spec = next(t.spec for t in found.trials if t.number == best.number)
        (part / "README.md").write_text(card(study, spec, row, finding, found, receipt))
        if folder.is_dir():
            folder.rmdir()
        part.replace(folder)
    return replace(receipt, folder=folder)


def to_gguf(folder: Path) -> str:
    """Convert the exported checkpoint with llama.cpp's converter; a line on how that went."""
    program = shutil.which(CONVERTER)
    if program is None:
        return f"no GGUF written: {CONVERTER} of llama.cpp is not on the PATH"
    target = folder / "model.gguf"
    command = [program, str(folder / "model"), "--outfile", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        return f"no GGUF written: {CONVERTER} ended with code {done.returncode}: {last}"
    return f"{target} written"


def _best(study: str, arm: str | None, by_arm: Mapping[str, Sequence[Done]]) -> Done:
    if arm is not None and arm not in by_arm:
        known = ", ".join(by_arm) or "none yet"
        raise UsageError(f"study {study} has no finished trial of arm {arm!r}; finished: {known}")
    names = [arm] if arm else [name for name in by_arm if name != WHOLE] or list(by_arm)
    chosen = [arms.choose(by_arm[name]) for name in names]
    firsts = [trials[0] for trials in chosen if trials]
    if not firsts:
        raise UsageError(f"study {study} has no finished trial yet: pressft sweep goes on with it")
    return min(firsts, key=lambda trial: trial.loss)


def _write(found: Stored, best: Done, folder: Path, store: Store, progress: Progress) -> Exported:
    """Adapter and checkpoint, and the checks of the checkpoint."""
    trial = next(t for t in found.trials if t.number == best.number)
    spec = trial.spec
    corpus = load_corpus(spec.corpus)
    base = load_model(spec.model, spec.quantization, progress, on_cpu=True)
    for name, seen, wanted in (
        ("weights", base.identity, found.weights),
        ("corpus", corpus.fingerprint, found.corpus.split("+")[0]),
    ):
        if seen != wanted:
            raise RefusedError(f"the {name} of the study were {wanted[:16]}, now {seen[:16]}")
    source = store.adapter(best.result.cell)
    if source is None:
        raise DataError(f"the adapter of trial {best.number} is gone: sweep again to train it")
    shutil.copytree(source, folder / "adapter")
    texts = [article.text for article in corpus.splits.test]
    documents = tokenize(texts, base.tokenizer)
    before = separators(base.tokenizer).before
    ids = torch.tensor([[before, *documents[0].ids[: spec.window - 1]]])
    promised = _merge(base, best, source, ids, folder / "model")
    base.tokenizer.save_pretrained(folder / "model")
    progress("reading the checkpoint back", 0, 1)
    loaded, problems = AutoModelForCausalLM.from_pretrained(
        folder / "model", output_loading_info=True, dtype=torch.float32
    )
    apart = float((_logits(loaded, ids) - promised).abs().max() / promised.abs().max())
    score = total(perplexity.score(loaded, documents, before, spec.window))
    progress("reading the checkpoint back", 1, 1)
    _check(problems["missing_keys"], apart, score, best.result.test_score)
    promise = {"input_ids": ids[0].tolist(), "last_logits": promised[0, -1].tolist()}
    (folder / "promise.json").write_text(json.dumps(promise) + "\n")
    return Exported(folder, trial.arm, best.number, apart, score.perplexity)


def _merge(base: Base, best: Done, source: Path, ids: Tensor, folder: Path) -> Tensor:
    """Logits of the trained model, whose merged form is written to `folder`."""
    removal = best.result.removal
    put_back = surgery.dense(base.model, removal)
    wrapped = adapter.load(base.model, removal, base.identity, source)
    promised = _logits(wrapped, ids)
    merged: PreTrainedModel = wrapped.merge_and_unload()
    put_back()
    merged.save_pretrained(folder)
    return promised


@torch.inference_mode()
def _logits(model: nn.Module, ids: Tensor) -> Tensor:
    return model(input_ids=ids, use_cache=False).logits.float()  # type: ignore[no-any-return]


def _check(missing: Sequence[str], apart: float, score: Score, promised: Score) -> None:
    """Refuse a checkpoint that is not the model it was made of."""
    if missing:
        raise PressftError(f"the checkpoint lacks {sorted(missing)[0]}: please report this")
    if apart > LOGIT_TOLERANCE or abs(score.loss - promised.loss) > LOSS_TOLERANCE:
        raise RefusedError(
            f"the checkpoint is another model: logits {apart:.1e} apart, test perplexity "
            f"{score.perplexity:.4f} instead of {promised.perplexity:.4f}"
        )


def card(
    study: str, spec: TrialSpec, row: Arm, finding: Finding, found: Stored, receipt: Exported
) -> str:
    """The model card, Markdown with a YAML header as the Hugging Face hub reads it."""
    licence = files.licence(spec.model)
    origin = files.ORIGINS.get(spec.model, spec.model)
    parts = ", ".join(map(str, row.parts)) or "nothing"
    halves = [part for part in row.parts if isinstance(part, str)]
    note = (
        "\nA half layer has no form of its own in a checkpoint: its output matrix is zero here, "
        "so its parameters are still in the file.\n"
        if halves
        else ""
    )
    return f"""---
library_name: transformers
base_model: {origin}
---

# {spec.model} without {parts}

A language model with parts removed (0-based indices: {parts}) and healed by QLoRA on a newsroom's
articles, merged into one plain checkpoint in `model/`. `adapter/` holds the LoRA adapter and
`removal.json`, the cut without which the adapter is wrong.
{note}
- base: {spec.model}, weights {found.weights}, {spec.quantization}; licence of the base: {licence}
- corpus: {spec.corpus}, fingerprint {found.corpus}
- training: rank {spec.rank}, learning rate {spec.learning_rate:g}, seed {spec.seed},
  {spec.trained_tokens:,} tokens; trial {receipt.trial} of the study {study}, the best of its arm
  by validation
- this file, read back from disk: test perplexity {tables.number(receipt.perplexity)}
- parameters: {row.parameters:,}, {row.saved:,} fewer than the whole model

## All arms of the study

{tables.markdown(finding)}
## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained("model")
tokenizer = AutoTokenizer.from_pretrained("model")
```

Texts were read with the end-of-text token in front. The training text may be under copyright: pass
the model on only if its owner agrees.
"""
