"""A whole study against what people would use: ours, `hyperparameter_search`, a plain script.

All of them ask the same: of these arms and learning rates, equal tokens of text each, which cut is
the best, and how good is it? They are processes of their own, in turn, timed from start to end.

- `pressft`: a study that draws the rates within each arm and halves arms and rates (`--pruning`),
  scored as always: untrained, on validation while it trains, and the trials that came through on
  the test split.
- `search`: `transformers.Trainer.hyperparameter_search(backend="optuna")` over the same grid, a
  fresh model for every trial, as its documentation has it: loaded in 4 bit, cut, LoRA put on;
  texts padded to `max_length`, evaluated on the validation split at the end of a trial.
- `script`: the same in a loop, without Optuna.

Theirs train until they have seen as many tokens of text (padding not counted) as ours, in batches
of about as many tokens, so that both make as many steps. The decision is the best cut by what each
contender itself minimises on validation text; how good it is, is told by the test split, which
nobody chose by, scored in our way: theirs beside the clock.

    python benchmarks/study.py --model smollm2-135m --corpus wikipedia --tokens 16384 --batch 4 \
        --block 256 --rates 4 --against search
"""

import argparse
import gc
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import optuna
import torch
from overhead import Silent, Stopwatch
from peft import LoraConfig, get_peft_model
from step import quiet
from torch import nn
from torch.utils.data import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    DataCollatorForLanguageModeling,
    PrinterCallback,
    Trainer,
    TrainingArguments,
)

from pressft import sweep
from pressft.corpus.load import load_corpus
from pressft.evaluation import perplexity
from pressft.model import files
from pressft.model.tokens import separators, tokenize
from pressft.report import status
from pressft.score import total
from pressft.spec import TrialSpec, resolve
from pressft.study.locations import Locations
from pressft.study.study import Choices, Pruning, Study

GPU = torch.cuda.is_available()
DTYPE = torch.bfloat16 if GPU else torch.float32
ARMS = ("none", "first", "middle", "last")
RATES = (5e-5, 2e-4, 1e-3, 4e-3, 5e-4, 2e-3)
Run = Callable[[TrialSpec, tuple[float, ...]], "Told"]
CONTENDERS = ("pressft", "search", "script")


@dataclass
class Told:
    """What a contender did: seconds in training and scoring, tokens of text trained on, positions
    computed for them; its own loss of each cell, and ours of the test split, in nats per token."""

    work_s: float
    tokens: int
    positions: int
    own: dict[str, float]
    ours: dict[str, float]
    beside_s: float = 0.0  # what only this comparison needs

    @property
    def best(self) -> str:
        """The best cell of a cut model."""
        cut = {cell: loss for cell, loss in self.own.items() if not cell.startswith("none")}
        return min(cut, key=lambda cell: cut[cell])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="tiny-llama")
    parser.add_argument("--corpus", default="invented")
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--block", type=int, default=64)
    parser.add_argument("--rates", type=int, default=2, help="learning rates, at most 6")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--pruning", default="halving-arms", choices=get_args(Pruning))
    parser.add_argument("--against", nargs="*", default=["search", "script"], choices=CONTENDERS)
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    spec = TrialSpec(
        model=asked.model, corpus=asked.corpus, tokens=asked.tokens, batch=asked.batch,
        block=asked.block, window=2 * asked.block, validation_tokens=max(64, asked.tokens // 32),
    )  # fmt: skip
    rates = RATES[: asked.rates]
    if asked.contender:
        mine: Run = partial(ours, pruning=asked.pruning)
        run = {"pressft": mine, "search": search, "script": script}[asked.contender]
        sys.stdout.write(json.dumps(asdict(run(spec, rates))))
        return
    found: dict[str, list[tuple[float, Told]]] = {n: [] for n in ("pressft", *asked.against)}
    for turn in range(asked.rounds):
        for name in list(found)[:: -1 if turn % 2 else 1]:
            found[name].append(measured(name))
    report(found, len(ARMS) * len(rates))


def measured(name: str) -> tuple[float, Told]:
    """Seconds of a contender from start to end, without what only this comparison needs."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, __file__, *sys.argv[1:], "--contender", name],
        check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    seconds = time.perf_counter() - began
    told = Told(**json.loads(done.stdout))
    return seconds - told.beside_s, told


def report(found: dict[str, list[tuple[float, Told]]], n_cells: int) -> None:
    """A line a contender: medians, and what it found in its first round."""
    ours_s = statistics.median(seconds for seconds, _ in found["pressft"])
    best = found["pressft"][0][1]
    for name, rounds in found.items():
        seconds = statistics.median(seconds for seconds, _ in rounds)
        outside = statistics.median(seconds - told.work_s for seconds, told in rounds)
        told = rounds[0][1]
        own, apart = told.ours[told.best], told.ours[told.best] / best.ours[best.best] - 1
        print(
            f"{name}: {n_cells} cells in {seconds:.0f} s, ratio {seconds / ours_s:.2f}; outside "
            f"training and scoring {outside:.0f} s; {told.tokens:,} tokens of text trained on in "
            f"{told.positions:,} positions; best cut {told.best}, "
            f"test loss {own:.4f} ({apart:+.2%})"
        )


def ours(spec: TrialSpec, rates: tuple[float, ...], *, pruning: Pruning) -> Told:
    """A study of ours."""
    study = Study(
        "against", spec, {"remove": Choices(*ARMS), "learning_rate": Choices(*rates)},
        design="per-arm", trials=len(rates), pruning=pruning,
    )  # fmt: skip
    watch = Stopwatch()
    gc.disable()  # as the command line starts: what is loaded is no garbage later
    with tempfile.TemporaryDirectory() as name:
        locations = Locations(Path(name) / "mlruns")
        with watch.at_work():
            sweep.run_sweep(study, Silent(), locations)
        rows = status.find(study.name, locations).trials
    tokens = sum(r.tokens if r.state == "pruned" else spec.trained_tokens for r in rows)
    done = {
        cell(row.arm, float(row.params["learning_rate"])): row
        for row in rows
        if row.state == "complete"
    }
    own = {name: row.value or math.inf for name, row in done.items()}
    tested = {name: float(row.attrs["test_loss"]) for name, row in done.items()}
    return Told(watch.seconds, tokens, tokens, own, tested)


def cell(arm: str, rate: float) -> str:
    """Its name."""
    return f"{arm} at {rate:g}"


class Padded(Dataset[dict[str, Any]]):
    """Texts as rows of `max_length`: cut off or filled up."""

    def __init__(self, texts: list[str], tokenizer: Any, length: int) -> None:  # noqa: ANN401
        """All at once."""
        self.trials = tokenizer(texts, truncation=True, padding="max_length", max_length=length)

    def __len__(self) -> int:
        """Of texts."""
        return len(self.trials["input_ids"])

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Ids and mask."""
        return {name: self.trials[name][index] for name in ("input_ids", "attention_mask")}

    @property
    def tokens(self) -> float:
        """Of text, on average in a row."""
        return sum(map(sum, self.trials["attention_mask"])) / len(self)


class Peer:
    """What `search` and `script` share: data, fresh models, a Trainer, our scores beside it."""

    def __init__(self, spec: TrialSpec) -> None:
        """Read and pad the texts."""
        self.spec, self.watch = spec, Stopwatch()
        self.folder = files.folder(spec.model, quiet)
        self.scratch = tempfile.TemporaryDirectory()
        self.tokenizer = AutoTokenizer.from_pretrained(self.folder)
        self.tokenizer.pad_token = self.tokenizer.eos_token
        splits = load_corpus(spec.corpus).splits
        self.train, self.validation = (
            Padded([article.text for article in part], self.tokenizer, spec.block)
            for part in (splits.train, splits.validation)
        )
        self.test = tokenize([a.text for a in splits.test], self.tokenizer)
        self.told = Told(0.0, 0, 0, {}, {})

    def model(self, arm: str) -> nn.Module:
        """A fresh one: loaded in 4 bit, cut, with its adapter."""
        model = AutoModelForCausalLM.from_pretrained(
            self.folder,
            dtype=DTYPE,
            device_map={"": 0} if GPU else None,
            quantization_config=BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=DTYPE,
            ),
        )
        removed = resolve(arm, model.config.num_hidden_layers)
        kept = [layer for i, layer in enumerate(model.model.layers) if i not in removed]
        for i, layer in enumerate(kept):
            layer.self_attn.layer_idx = i
        model.model.layers = nn.ModuleList(kept)
        model.config.num_hidden_layers = len(kept)
        for parameter in model.parameters():
            parameter.requires_grad = False
        rank = self.spec.rank
        lora = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear")
        adapted: nn.Module = get_peft_model(model, lora)
        return adapted

    def arguments(self, rate: float) -> TrainingArguments:
        """As ours, a batch a pass, and as many steps as show about as many tokens of text."""
        rows = max(1, round(self.spec.batch * self.spec.block / self.train.tokens))
        steps = max(1, round(self.spec.tokens / self.train.tokens / rows))
        return TrainingArguments(
            output_dir=self.scratch.name, max_steps=steps, learning_rate=rate,
            use_cpu=not GPU, bf16=GPU,
            per_device_train_batch_size=rows, per_device_eval_batch_size=rows,
            lr_scheduler_type="cosine", warmup_steps=math.ceil(steps / 10), weight_decay=0.0,
            logging_steps=1, save_strategy="no", report_to="none", disable_tqdm=True,
        )  # fmt: skip

    def trainer(self, rate: float, **options: Any) -> Trainer:  # noqa: ANN401
        """Of one model, or of many by `model_init`; what it computes is counted."""
        trainer = Trainer(
            args=self.arguments(rate),
            train_dataset=self.train,
            eval_dataset=self.validation,
            data_collator=DataCollatorForLanguageModeling(self.tokenizer, mlm=False),
            **options,
        )
        trainer.remove_callback(PrinterCallback)
        step = trainer.training_step

        def counted(model: nn.Module, inputs: dict[str, torch.Tensor], *rest: Any) -> Any:  # noqa: ANN401
            self.told.positions += inputs["input_ids"].numel()
            self.told.tokens += int(inputs["attention_mask"].sum())
            return step(model, inputs, *rest)

        trainer.training_step = self.watch.around(counted)
        trainer.evaluate = self.watch.around(trainer.evaluate)
        return trainer

    def note(self, name: str, loss: float, model: nn.Module) -> None:
        """Its loss of a cell, and ours of the test split, beside the clock."""
        self.told.own[name] = loss
        began = time.perf_counter()
        before = separators(self.tokenizer).before
        scored = perplexity.score(model, self.test, before, self.spec.window)
        self.told.ours[name] = total(scored).loss
        self.told.beside_s += time.perf_counter() - began

    def done(self) -> Told:
        """What it did."""
        self.told.work_s = self.watch.seconds
        return self.told


def search(spec: TrialSpec, rates: tuple[float, ...]) -> Told:
    """The search that transformers comes with."""
    peer = Peer(spec)
    at: dict[str, Any] = {"arm": "none", "rate": rates[0]}

    def fresh(trial: optuna.Trial | None) -> nn.Module:
        at["arm"] = trial.suggest_categorical("arm", ARMS) if trial else "none"
        return peer.model(at["arm"])

    def space(trial: optuna.Trial) -> dict[str, Any]:
        at["rate"] = trial.suggest_categorical("learning_rate", rates)
        return {"learning_rate": at["rate"]}

    def objective(metrics: dict[str, float]) -> float:
        loss = metrics["eval_loss"]
        peer.note(cell(at["arm"], at["rate"]), loss, trainer.model)
        return loss

    trainer = peer.trainer(rates[0], model_init=fresh)
    sampler = optuna.samplers.GridSampler({"arm": ARMS, "learning_rate": rates}, seed=0)
    trainer.hyperparameter_search(
        hp_space=space, compute_objective=objective, direction="minimize", backend="optuna",
        n_trials=len(ARMS) * len(rates), sampler=sampler,
    )  # fmt: skip
    return peer.done()


def script(spec: TrialSpec, rates: tuple[float, ...]) -> Told:
    """The loop that people write."""
    peer = Peer(spec)
    for rate in rates:
        for arm in ARMS:
            trainer = peer.trainer(rate, model=peer.model(arm))
            trainer.train()
            peer.note(cell(arm, rate), trainer.evaluate()["eval_loss"], trainer.model)
    return peer.done()


if __name__ == "__main__":
    main()
