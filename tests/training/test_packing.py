"""Packing keeps every token in order; the order of blocks is drawn alike for all arms."""

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pressft.errors import DataError
from pressft.model import tiny, tokens
from pressft.model.tokens import Document, Separators
from pressft.training import packing

documents = st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=30), min_size=1, max_size=9)


@given(documents, st.integers(2, 16), st.booleans())
def test_rows_begin_as_scoring_does_and_hold_every_text_once(
    texts: list[list[int]], length: int, begins: bool
) -> None:
    between = Separators(101 if begins else 100, 100)
    made = tuple(Document(tuple(text), 1, 1) for text in texts)
    n_least = len(made) + sum(map(len, texts)) + 1  # a token each between them, one in front
    if n_least < length:
        made = (*made, Document((0,) * length, 1, 1))
    rows = packing.pack(made, length, between).tolist()
    told = Counter(token for row in rows for token in row if token < 100)
    whole = Counter(token for document in made for token in document.ids)
    assert told <= whole
    assert whole.total() - told.total() < length  # the tail, at most
    starts = {(between.before, *document.ids)[:length] for document in made}
    begun = [tuple(row) for row in rows if row[0] == 101]
    assert bool(begun) == begins
    assert all(any(row[: len(start)] == start for start in starts) for row in begun)


def test_the_ends_that_rows_cut_off_are_the_last_rows() -> None:
    made = [Document(ids, 1, 1) for ids in ((1, 2, 3, 4, 5), (6,), (7, 8, 9), (10, 11))]
    rows = packing.pack(made, 4, Separators(100, 100)).tolist()
    assert rows == [[100, 1, 2, 3], [100, 6, 100, 7], [100, 10, 11, 100], [4, 5, 100, 8]]


def test_a_token_that_the_model_wants_in_front_is_put_in_front() -> None:
    made = [Document((5, 6), 2, 1), Document((7,), 1, 1), Document((8,), 1, 1)]
    assert packing.pack(made, 7, Separators(1, 2)).tolist() == [[1, 5, 6, 2, 1, 7, 2]]
    assert packing.pack(made, 5, Separators(1, 2)).tolist() == [[1, 5, 6, 2, 1], [1, 7, 2, 1, 8]]


def test_too_little_text_for_a_row_is_refused() -> None:
    with pytest.raises(DataError, match="1 training documents hold 4 tokens, less than one block"):
        packing.pack([Document((5, 6), 2, 1)], 7, Separators(1, 1))


def test_separators_are_read_off_the_tokenizer() -> None:
    plain = tiny.tokenizer()
    assert tokens.separators(plain) == Separators(256, 256)
    assert not tokens.separators(plain).begins


@given(st.integers(1, 20), st.integers(1, 60), st.integers(0, 3))
def test_every_epoch_sees_every_block_once(n_blocks: int, n_wanted: int, seed: int) -> None:
    drawn = packing.order(n_blocks, n_wanted, seed).tolist()
    assert len(drawn) == n_wanted
    for start in range(0, n_wanted, n_blocks):
        epoch = drawn[start : start + n_blocks]
        assert len(set(epoch)) == len(epoch)
        assert set(epoch) <= set(range(n_blocks))


def test_law_7_the_order_ignores_the_global_random_state() -> None:
    torch.manual_seed(1)
    first = packing.order(50, 120, 0)
    torch.manual_seed(2)
    assert torch.equal(first, packing.order(50, 120, 0))
    assert not torch.equal(first, packing.order(50, 120, 1))


def test_documents_know_their_bytes_and_empty_ones_are_left_out() -> None:
    made = tokens.tokenize(["Ünder", "", "a"], tiny.tokenizer())
    assert [document.bytes for document in made] == [6, 1]
    assert [len(document.ids) for document in made] == [6, 1]


def test_many_texts_are_tokenised_in_parts_but_in_their_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    texts = [f"text {i}" * (i % 3) for i in range(20)]
    at_once = tokens.tokenize(texts, tiny.tokenizer())
    monkeypatch.setattr(tokens, "AT_ONCE", 3)
    assert tokens.tokenize(iter(texts), tiny.tokenizer()) == at_once
    assert len(at_once) == 13


def test_what_is_taken_are_the_packed_rows_in_their_order() -> None:
    packed = torch.arange(12, dtype=torch.int32).view(6, 2)
    rows = packing.taken(packed, 9, 1).rows
    assert rows.dtype == torch.int64
    assert torch.equal(rows, packed[packing.order(6, 9, 1)])
