"""A scan of all layers in one pass, against cutting and scoring each layer by itself.

Both in one run, their order alternated, on the same text; prints the ratio of the medians and the
largest difference between their perplexities. With L layers the arithmetic bound is
(L(L-1)/2 + L + (L+1)H) / ((L+1)(L+H) - L), H layers being the cost of the output head.

    python benchmarks/scan.py --model smollm2-135m --corpus corpora/demo --tokens 700 --rounds 3
"""

import argparse
import statistics
import time
from collections.abc import Callable

from pressft.corpus.load import load_corpus
from pressft.evaluation import layer_scan, perplexity
from pressft.model import surgery
from pressft.model.base import load_model
from pressft.model.tokens import separators, tokenize, up_to
from pressft.score import total


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="tiny-llama")
    parser.add_argument("--corpus", default="invented")
    parser.add_argument("--tokens", type=int, default=700)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    base = load_model(asked.model, "nf4", lambda *_: None)
    texts = [article.text for article in load_corpus(asked.corpus).splits.validation]
    documents = up_to(tokenize(texts, base.tokenizer), asked.tokens)
    before = separators(base.tokenizer).before
    cuts = layer_scan.parts_of(base.n_layers, halves=False, block=0)

    def at_once() -> list[float]:
        whole, found = layer_scan.scan(base.model, documents, before, 512, cuts)
        return [whole.perplexity, *(cut.score.perplexity for cut in found)]

    def one_by_one() -> list[float]:
        found = [total(perplexity.score(base.model, documents, before, 512)).perplexity]
        for cut in cuts:
            with surgery.removed(base.model, cut):
                found.append(total(perplexity.score(base.model, documents, before, 512)).perplexity)
        return found

    seconds: dict[Callable[[], list[float]], list[float]] = {at_once: [], one_by_one: []}
    results: dict[Callable[[], list[float]], list[float]] = {}
    for turn in range(asked.rounds):
        for way in (at_once, one_by_one) if turn % 2 else (one_by_one, at_once):
            started = time.perf_counter()
            results[way] = way()
            seconds[way].append(time.perf_counter() - started)
    ours, theirs = statistics.median(seconds[at_once]), statistics.median(seconds[one_by_one])
    pairs = zip(results[at_once], results[one_by_one], strict=True)
    apart = max(abs(a / b - 1) for a, b in pairs)
    n_tokens = sum(len(document.ids) for document in documents)
    print(f"{base.name}, {base.n_layers} layers, {n_tokens} tokens, {asked.rounds} rounds")
    print(f"one pass {ours:.2f} s, one by one {theirs:.2f} s, ratio {ours / theirs:.2f}")
    print(f"largest relative difference of a perplexity {apart:.1e}")


if __name__ == "__main__":
    main()
