import functools
import gzip
import itertools
import math
import os
import random
from collections import Counter
from pathlib import Path

import keras
import numpy as np
import psutil
import pytest

import keras_transformer as kt
from keras_transformer.text import Mixture

PAD, BOS, EOS = 0, 2, 3
WORDS = ["a", "dog", "cat", "runs", "sleeps", "in", "the", "green", "park", "on", "my", "sofa", "and", "eats", "fish"]
MULTI30K = Path(os.environ.get("KERAS_TRANSFORMER_MULTI30K") or Path(__file__).parents[2] / "shared/data/multi30k")


class Letters:
    """An id a character, so that a test can choose every length."""

    pad_id, vocabulary_size = PAD, 30

    def encode(self, texts, add_bos=False, add_eos=False):
        return [[BOS] * add_bos + [4 + ord(letter) - ord("a") for letter in text] + [EOS] * add_eos for text in texts]


def texts_of(lengths):
    """Texts whose rows take so many positions with Letters, eos counted."""
    return ["b" * (length - 1) for length in lengths]


def random_lengths(size, longest, seed=0):
    generator = np.random.default_rng(seed)
    source = generator.integers(2, longest + 1, size)
    return source, np.clip(source + generator.integers(-longest // 4, longest // 4 + 1, size), 2, longest)


def letter_batches(source_lengths, target_lengths, **kwargs):
    return kt.Batches(texts_of(source_lengths), texts_of(target_lengths), Letters(), **kwargs)


@pytest.fixture(scope="module")
def pairs():
    """300 pairs, no two alike, of very different lengths."""
    generator = np.random.default_rng(0)
    lengths = generator.geometric(0.15, 300)
    source = [" ".join([*generator.choice(WORDS, n), str(i)]) for i, n in enumerate(lengths)]
    target = [" ".join([*generator.choice(WORDS, n + i % 4), str(i)]) for i, n in enumerate(lengths)]
    return source, target


@pytest.fixture(scope="module")
def tokenizer(pairs):
    return kt.Tokenizer.train(pairs[0] + pairs[1], vocabulary_size=320)


def served(batches):
    return [batches[index] for index in range(len(batches))]


def unpadded(array):
    """Rows without their padding, which must stand at the end."""
    lengths = (array != PAD).sum(axis=1)
    assert all((row[:length] != PAD).all() for row, length in zip(array, lengths, strict=True))
    return [tuple(row[:length].tolist()) for row, length in zip(array, lengths, strict=True)]


def triples(batch):
    """(source, target, labels) of each row; ((), (), ()) for a row of padding."""
    inputs, labels = batch
    return list(zip(unpadded(inputs["source"]), unpadded(inputs["target"]), unpadded(labels), strict=True))


def real_triples(batches):
    return [triple for batch in served(batches) for triple in triples(batch) if triple != ((), (), ())]


def expected_triples(source, target, tokenizer):
    rows = [(tokenizer.encode(s), tokenizer.encode(t)) for s, t in zip(source, target, strict=True)]
    return [((*s, EOS), (BOS, *t), (*t, EOS)) for s, t in rows]


def same(one, other):
    def arrays(batch):
        return batch[0]["source"], batch[0]["target"], batch[1]

    return len(one) == len(other) and all(
        np.array_equal(x, y) for a, b in zip(one, other, strict=True) for x, y in zip(arrays(a), arrays(b), strict=True)
    )


def check_everything_but_the_order(batches, expected, batch_tokens, num_buckets):
    """Recounts all that a batch and the attributes promise, from what is served."""
    real, tokens, positions = [], 0, 0
    members = {}
    for inputs, labels in served(batches):
        shape = (*inputs["source"].shape, labels.shape[1])
        assert inputs["target"].shape == labels.shape == (shape[0], shape[2])
        assert {array.dtype for array in (*inputs.values(), labels)} == {np.dtype("int32")}
        assert shape[0] * max(shape[1:]) <= batch_tokens
        rows = triples((inputs, labels))
        members.setdefault(shape, []).append([row for row in rows if row != ((), (), ())])
        real += members[shape][-1]
        tokens += int((labels != PAD).sum())
        positions += inputs["source"].size + labels.size
    assert Counter(real) == Counter(expected)
    assert batches.num_pairs == len(expected) and batches.num_tokens == tokens
    share = 1 - sum(len(s) + len(t) for s, t, _ in expected) / positions
    assert batches.padding_share == pytest.approx(share, abs=1e-12)
    assert batches.shapes == sorted(members, key=lambda shape: (shape[1] + shape[2], shape))
    assert 1 <= len(members) <= num_buckets
    for (rows, source_length, target_length), parts in members.items():
        assert max(len(s) for part in parts for s, _, _ in part) == source_length
        assert max(len(t) for part in parts for _, t, _ in part) == target_length
        # rows of padding: fewer than there are batches, all of them in one batch
        assert sum(rows - len(part) for part in parts) < len(parts)
        assert sum(len(part) < rows for part in parts) <= 1


# What a batch holds


@pytest.mark.parametrize("batch_tokens", [100, 512, 4096])
@pytest.mark.parametrize("num_buckets", [1, 3, 8])
def test_every_pair_once_within_the_budget_and_all_counted(pairs, tokenizer, batch_tokens, num_buckets):
    source, target = pairs
    batches = kt.Batches(source, target, tokenizer, batch_tokens=batch_tokens, num_buckets=num_buckets)
    expected = [
        triple for triple in expected_triples(source, target, tokenizer) if max(map(len, triple)) <= batch_tokens
    ]
    assert len(expected) > 250
    for epoch in (0, 1):
        batches.set_epoch(epoch)
        check_everything_but_the_order(batches, expected, batch_tokens, num_buckets)


def test_one_pair_makes_one_row():
    (inputs, labels) = letter_batches([3], [4])[0]
    assert inputs["source"].tolist() == [[5, 5, EOS]]
    assert inputs["target"].tolist() == [[BOS, 5, 5, 5]]
    assert labels.tolist() == [[5, 5, 5, EOS]]


def test_the_padding_id_is_the_tokenizers():
    class Other(Letters):
        pad_id = 29

    batches = kt.Batches(
        texts_of([3, 2, 2]), texts_of([2, 4, 2]), Other(), num_buckets=1, batch_tokens=8, shuffle=False
    )
    assert [batch[0]["source"].tolist() for batch in served(batches)] == [
        [[5, 5, 3], [5, 3, 29]],
        [[5, 3, 29], [29] * 3],
    ]
    assert served(batches)[1][1].tolist() == [[5, 3, 29, 29], [29] * 4]


@pytest.mark.parametrize("budget", [7, 8, 15, 16, 17])
def test_the_longer_side_counts_to_the_last_position(budget):
    for lengths in (([4] * 5, [8] * 5), ([8] * 5, [4] * 5)):
        if budget < 8:
            with pytest.raises(ValueError, match="No pair"):
                letter_batches(*lengths, batch_tokens=budget)
        else:
            batches = letter_batches(*lengths, batch_tokens=budget)
            assert len(batches) == -(-5 // (budget // 8))
            assert batches.shapes[0][0] == budget // 8


def test_files_and_lists_give_the_same_batches(pairs, tokenizer, tmp_path):
    source, target = pairs
    (tmp_path / "a.en").write_text("\n".join(source))
    (tmp_path / "a.de.gz").write_bytes(gzip.compress("\n".join(target).encode()))
    files = kt.Batches(str(tmp_path / "a.en"), tmp_path / "a.de.gz", tokenizer, seed=4)
    assert same(served(files), served(kt.Batches(source, target, tokenizer, seed=4)))


# Shapes


def least_padded(source_lengths, target_lengths):
    """Positions with the best two shapes there are, by trying all of them."""
    counts = np.zeros((source_lengths.max() + 1, target_lengths.max() + 1), "int64")
    np.add.at(counts, (source_lengths, target_lengths), 1)
    fitting = counts.cumsum(0).cumsum(1)
    sizes = np.add.outer(np.arange(counts.shape[0]), np.arange(counts.shape[1]))
    return (fitting * sizes + (len(source_lengths) - fitting) * sizes[-1, -1]).min()


def positions_of_pairs(batches):
    return sum(
        (inputs["source"].shape[1] + labels.shape[1]) * int((labels[:, 0] != PAD).sum())
        for inputs, labels in served(batches)
    )


@pytest.mark.parametrize("seed", range(5))
def test_two_shapes_are_the_best_two(seed):
    lengths = random_lengths(80, 14, seed)
    batches = letter_batches(*lengths, num_buckets=2, batch_tokens=64)
    best = least_padded(*lengths)
    assert best < 80 * (lengths[0].max() + lengths[1].max())
    assert positions_of_pairs(batches) <= best


@pytest.mark.parametrize("seed", range(3))
def test_a_coarse_grid_of_long_lengths_is_nearly_as_good(seed):
    lengths = random_lengths(3000, 250, seed)
    batches = letter_batches(*lengths, num_buckets=2)
    assert positions_of_pairs(batches) <= 1.02 * least_padded(*lengths)
    assert batches.num_pairs == 3000


def test_three_shapes_are_mostly_the_best_three():
    """Adding shapes one by one, without moving the earlier ones, finds the best three for 3 of these 8 texts."""
    shapes = list(itertools.product(range(2, 9), repeat=2))
    found = 0
    for seed in range(8):
        source, target = random_lengths(60, 8, seed)
        full = source.max() + target.max()
        takes = [np.where((source <= s) & (target <= t), s + t, full) for s, t in shapes]
        best = min(np.minimum(a, b).sum() for a, b in itertools.combinations(takes, 2))
        positions = positions_of_pairs(letter_batches(source, target, num_buckets=3))
        assert positions <= 1.02 * best
        found += positions <= best
    assert found >= 6


def test_more_shapes_pad_less():
    lengths = random_lengths(3000, 60)
    shares = [letter_batches(*lengths, num_buckets=number).padding_share for number in (1, 2, 4, 8, 16)]
    assert shares == sorted(shares, reverse=True)
    assert shares[3] < 0.4 * shares[0]


def test_no_more_shapes_than_lengths():
    assert letter_batches([3] * 4, [5] * 4, num_buckets=8).shapes == [(4, 3, 5)]
    assert letter_batches([3, 3, 9], [5, 5, 2], num_buckets=8).shapes == [(2, 3, 5), (1, 9, 2)]


# Order


def test_order_is_a_function_of_seed_and_epoch_alone(pairs, tokenizer):
    def new(seed, epoch):
        batches = kt.Batches(*pairs, tokenizer, seed=seed, batch_tokens=512)
        batches.set_epoch(epoch)
        return served(batches)

    random.seed(1), np.random.seed(1)
    first = new(7, 3)
    random.seed(2), np.random.seed(2)
    states = random.getstate(), np.random.get_state()[1].tolist()
    assert same(new(7, 3), first)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states
    others = [new(7, 4), new(8, 3), new(3, 7), new(2**63 - 1, 3), new(2**63 - 2, 3)]
    for one, other in itertools.combinations([first, *others], 2):
        assert not same(one, other)
        # not only other places for the same batches: the pairs meet others
        assert {frozenset(triples(batch)) for batch in one} != {frozenset(triples(batch)) for batch in other}


def test_order_stays_what_it_was():
    """A run that goes on under another release, or another NumPy, meets the order it would have met."""
    texts = list("abcdefghijkl")
    batches = kt.Batches(texts, texts, Letters(), batch_tokens=8, seed=11)
    orders = []
    for epoch in range(2):
        batches.set_epoch(epoch)
        orders.append("".join(chr(row[0] - 4 + ord("a")) for row, _, _ in real_triples(batches)))
    assert orders == ["ifajdcgbklhe", "ghecdfkblaji"]


def test_set_epoch_goes_anywhere_and_back(pairs, tokenizer):
    batches = kt.Batches(*pairs, tokenizer, batch_tokens=512)
    assert batches.epoch == 0
    orders = {}
    for epoch in (0, 5, 2, 5, 0, 2):
        batches.set_epoch(epoch)
        assert batches.epoch == epoch
        assert same(orders.setdefault(epoch, served(batches)), served(batches))
    assert not same(orders[5], orders[2]) and not same(orders[0], orders[2])


def test_large_and_small_batches_are_mixed():
    lengths = random_lengths(600, 40)
    batches = letter_batches(*lengths, batch_tokens=400)
    sizes = [inputs["source"].shape[1] for inputs, _ in served(batches)]
    changes = sum(a != b for a, b in itertools.pairwise(sizes))
    assert changes > len(batches.shapes) + len(sizes) // 4


def test_without_shuffle_the_order_is_that_of_the_text(pairs, tokenizer):
    source, target = pairs
    batches = kt.Batches(source, target, tokenizer, batch_tokens=512, shuffle=False, seed=1)
    first = served(batches)
    place = {triple: number for number, triple in enumerate(expected_triples(source, target, tokenizer))}
    by_shape = {}
    for inputs, labels in first:
        rows = [place[row] for row in triples((inputs, labels)) if row != ((), (), ())]
        by_shape.setdefault((inputs["source"].shape, labels.shape), []).extend(rows)
    # The two batches brought to the front are the first of their shapes, so that the text's order holds in each.
    assert all(rows == sorted(rows) for rows in by_shape.values())
    sizes = [inputs["source"].shape[1] + labels.shape[1] for inputs, labels in first[2:]]
    assert sizes == sorted(sizes)
    batches.set_epoch(6)
    assert same(served(batches), first)
    assert same(served(kt.Batches(source, target, tokenizer, batch_tokens=512, shuffle=False, seed=2)), first)


@pytest.mark.parametrize(
    "lengths",
    [
        ([9] * 20 + [3] * 20, [9] * 20 + [3] * 20),
        ([9] * 20 + [3] * 20, [5] * 40),
        ([5] * 40, [9] * 20 + [3] * 20),
        # No partner differs from (3, 3) in both.
        ([3] * 40 + [3] * 3 + [9] * 3, [3] * 40 + [9] * 3 + [3] * 3),
    ],
)
@pytest.mark.parametrize("shuffle", [True, False])
def test_first_two_batches_differ_in_each_length_that_differs_at_all(lengths, shuffle):
    varying = [len(set(side)) > 1 for side in lengths]
    starts = set()
    for seed in range(12):
        batches = letter_batches(*lengths, batch_tokens=18, seed=seed, shuffle=shuffle)
        shapes = [(inputs["source"].shape[1], labels.shape[1]) for inputs, labels in served(batches)]
        assert [shapes[0][side] != shapes[1][side] for side in (0, 1)] == varying
        assert len(batches) == sum(
            -(-number // (18 // max(shape))) for shape, number in Counter(zip(*lengths, strict=True)).items()
        )
        starts.add((shapes[0], shapes[1]))
    assert len(starts) == (2 if shuffle else 1)


def test_many_batches_of_one_shape_do_not_slow_the_start():
    """Looking for the first two among all pairs of 20,000 batches would take minutes."""
    lengths = [3] * 20000 + [3] + [9], [3] * 20000 + [9] + [3]
    batches = letter_batches(*lengths, batch_tokens=9, shuffle=False, num_buckets=4)
    starts = {(batches[place][0]["source"].shape[1], batches[place][1].shape[1]) for place in (0, 1)}
    assert starts == {(3, 9), (9, 3)}


# Epochs under fit


def test_an_epoch_served_whole_is_followed_by_the_next():
    batches = letter_batches(*random_lengths(60, 12), batch_tokens=64)
    batches.on_epoch_end()  # Keras calls it before the first epoch too
    assert batches.epoch == 0
    served(batches)  # looked at before the epoch begins, which counts for nothing
    batches.on_epoch_end()
    assert batches.epoch == 0
    served(batches)
    batches.on_epoch_begin()
    for index in range(len(batches) - 1):
        batches[index], batches[0]
    batches.on_epoch_end()
    assert batches.epoch == 0  # broken off
    for epoch in (1, 2):
        batches.on_epoch_begin()
        before = served(batches)
        batches.on_epoch_end()
        assert batches.epoch == epoch and not same(served(batches), before)
    again = letter_batches(*random_lengths(60, 12), batch_tokens=64)
    again.set_epoch(2)
    assert same(served(again), served(batches))


def test_a_plain_loop_gives_one_epoch_after_the_other():
    """What the state says comes next does come next, also after restore, and in the middle of a fit's epochs."""
    lengths = random_lengths(60, 12)
    whole, batches = (letter_batches(*lengths, batch_tokens=64) for _ in range(2))
    expected = []
    for epoch in range(4):
        whole.set_epoch(epoch)
        expected.append(served(whole))
    assert len(expected[0]) > 8
    for epoch in range(3):
        assert batches.state() == {"epoch": epoch, "position": 0} and same(list(batches), expected[epoch])
    assert batches.epoch == 3 and batches.state() == {"epoch": 3, "position": 0}
    batches.restore({"epoch": 0, "position": 6})
    assert same(list(batches), expected[0][6:]) and len(batches) == batches.full_length
    assert same(list(itertools.islice(batches, 4)), expected[1][:4])
    assert batches.state() == {"epoch": 1, "position": 4}
    batches.restore(batches.state())
    assert same(list(batches), expected[1][4:])
    next(iter(batches))  # looked at: an epoch that is broken off is begun anew
    assert batches.epoch == 2 and same(list(batches), expected[2])
    batches.set_epoch(0)
    batches.on_epoch_begin()
    assert same(served(batches), expected[0])
    batches.trained_on(len(batches))
    batches.on_epoch_end()
    assert same(list(batches), expected[1]) and batches.state() == {"epoch": 2, "position": 0}


def test_fit_meets_the_epochs_in_order_and_can_be_resumed():
    class Recorded(kt.Batches):
        def __getitem__(self, index):
            log.append((self.epoch, index))
            return super().__getitem__(index)

    target = keras.Input((None,), dtype="int32", name="target")
    source = keras.Input((None,), dtype="int32", name="source")
    outputs = keras.layers.Embedding(Letters.vocabulary_size, Letters.vocabulary_size)(target)
    model = keras.Model({"source": source, "target": target}, outputs)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=PAD))
    lengths = random_lengths(20, 6)
    batches = Recorded(texts_of(lengths[0]), texts_of(lengths[1]), Letters(), batch_tokens=30, num_buckets=1)
    assert len(batches) > 3
    for first, last in ((0, 2), (2, 3), (7, 8)):
        log = []
        if first == 7:
            batches.set_epoch(7)
        model.fit(batches, epochs=last - first, shuffle=False, verbose=0)
        assert batches.epoch == last
        # dict.fromkeys: Keras looks at the first batch to learn its shape
        assert list(dict.fromkeys(log)) == [(e, i) for e in range(first, last) for i in range(len(batches))]


def test_epochs_of_keras_may_be_shorter():
    """With steps_per_epoch Keras begins and ends its epochs in the middle of one of ours."""
    batches = letter_batches(*random_lengths(60, 12), batch_tokens=64)
    last = len(batches) - 1
    batches.on_epoch_begin()
    batches[0]
    batches.on_epoch_end()
    for index in range(1, last):
        batches[index]
    batches.on_epoch_begin()
    assert batches.epoch == 0
    batches[last]
    batches[0]  # TensorFlow reads ahead, before the end is told
    batches.on_epoch_end()
    assert batches.epoch == 1
    for index in range(1, last + 1):  # and goes on reading between two epochs
        batches[index]
    batches.on_epoch_begin()
    batches.on_epoch_end()
    assert batches.epoch == 2
    second = served(batches)
    batches.set_epoch(2)
    assert same(second, served(batches)) and batches.epoch == 2


def test_fit_with_steps_per_epoch_goes_through_all_epochs():
    class Recorded(kt.Batches):
        def __getitem__(self, index):
            log.append((self.epoch, index))
            return super().__getitem__(index)

    texts = texts_of([5] * 24)
    log = []
    batches = Recorded(texts, texts, Letters(), batch_tokens=20)
    assert len(batches) == 6
    model = kt.Transformer(Letters.vocabulary_size, d_model=4, num_heads=1, num_layers=1, d_ff=4)
    model.compile()
    model.fit(batches, epochs=6, steps_per_epoch=3, verbose=0)
    # dict.fromkeys: Keras looks at the first batch to learn its shape; [:18]: TensorFlow reads ahead
    assert list(dict.fromkeys(log))[:18] == [(epoch, index) for epoch in range(3) for index in range(6)]


# What is left out, and what is refused


def test_pairs_left_out_are_counted():
    source = [*texts_of([3, 9, 4, 5, 12, 7, 2]), "", "bb"]
    target = [*texts_of([4, 3, 10, 5, 4, 8, 30]), "bb", " "]
    lengths = np.array([[3, 9, 4, 5, 12, 7, 2], [4, 3, 10, 5, 4, 8, 30]]).max(axis=0)
    for max_length, batch_tokens in itertools.product((5, 8, 9, 10, 100), (5, 8, 9, 10, 100)):
        batches = kt.Batches(source, target, Letters(), max_length=max_length, batch_tokens=batch_tokens)
        assert batches.skipped == {
            "empty": 2,
            "max_length": (lengths > max_length).sum(),
            "batch_tokens": ((lengths <= max_length) & (lengths > batch_tokens)).sum(),
        }
        kept = lengths <= min(max_length, batch_tokens)
        assert batches.num_pairs == kept.sum() == len(real_triples(batches)) == 9 - sum(batches.skipped.values())


@pytest.mark.parametrize("limit", ["max_length", "batch_tokens"])
def test_no_pair_left_says_how_long_the_shortest_is(limit):
    with pytest.raises(ValueError) as error:
        letter_batches([9, 6], [4, 7], **{limit: 6})
    message = str(error.value)
    assert message.startswith("No pair of source and target is left: the shortest has 7 positions, allowed are ")
    assert f"{limit}=6" in message and message.endswith("Raise them.")
    assert letter_batches([9, 6], [4, 7], **{limit: 7}).num_pairs == 1


@pytest.mark.parametrize(
    ("name", "minimum"), [("batch_tokens", 1), ("max_length", 1), ("num_buckets", 1), ("seed", 0), ("epoch", 0)]
)
def test_impossible_arguments_are_refused(name, minimum):
    batches = letter_batches([3], [3])
    for wrong in (minimum - 1, 4.0, "4", None, True, 2**63):
        call = batches.set_epoch if name == "epoch" else functools.partial(letter_batches, [3], [3])
        with pytest.raises(ValueError) as error:
            call(**{name: wrong})
        assert str(error.value) == f"{name} must be an integer from {minimum} to 2**63 - 1. Received: {wrong!r}."


def test_numpy_integers_are_taken():
    batches = letter_batches([3, 4], [3, 4], batch_tokens=np.int32(16), num_buckets=np.int64(2), seed=np.uint8(3))
    plain = letter_batches([3, 4], [3, 4], batch_tokens=16, num_buckets=2, seed=3)
    assert same(served(batches), served(plain))


def test_texts_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match="source has 2 lines, target has 1. .* give files of equal length"):
        letter_batches([3, 4], [3])


@pytest.mark.parametrize("side", ["source", "target"])
def test_ids_outside_the_vocabulary_name_the_line(side):
    class Wrong(Letters):
        vocabulary_size = 10  # "f" is 9, "g" is 10

    texts = {"source": ["abc", "", "d", "f"], "target": ["abc", "d", "a", "f"]}
    kt.Batches(texts["source"], texts["target"], Wrong())
    texts[side] = ["abc", "d", "ag", "g"]
    with pytest.raises(ValueError) as error:
        kt.Batches(texts["source"], texts["target"], Wrong())
    place = 1 if side == "source" else 2  # after the target's bos
    assert f"the tokenizer's ids of {side}:3 contain the id 10 at position {place}. Expected ids from 0 to 9" in str(
        error.value
    )


# Position


def test_state_and_restore_from_each_of_fifty_positions(pairs, tokenizer):
    def new():
        return kt.Batches(*pairs, tokenizer, batch_tokens=150, seed=6)

    batches = new()
    assert len(batches) > 25
    expected, states = [], []
    for epoch in range(3):
        batches.set_epoch(epoch)
        for place in range(len(batches)):
            states.append(batches.state())
            expected.append(batches[place])
    assert states[0] == {"epoch": 0, "position": 0} and batches.state() == {"epoch": 3, "position": 0}
    for position in range(0, 75, 75 // 50):
        resumed = new()
        resumed.restore(states[position])
        assert resumed.state() == states[position]
        rest = served(resumed)
        assert len(rest) == len(resumed) == batches.full_length - states[position]["position"]
        assert same(rest, expected[position : position + len(rest)])
        resumed.restore(resumed.state())
        following = served(resumed)
        assert len(resumed) == batches.full_length
        assert same(following, expected[position + len(rest) :][: len(following)])


def test_what_is_no_state_is_refused():
    batches = letter_batches([3] * 40, [5] * 40, batch_tokens=20)
    for wrong in ({"epoch": 0}, {"epoch": 0, "position": 0, "seed": 1}, None, (0, 1)):
        with pytest.raises(ValueError, match="The state must be"):
            batches.restore(wrong)
    with pytest.raises(ValueError, match="position must be an integer from 0"):
        batches.restore({"epoch": 0, "position": -1})
    with pytest.raises(ValueError, match="lies beyond the end of an epoch of 10 batches"):
        batches.restore({"epoch": 0, "position": 11})
    batches.restore({"epoch": 1, "position": 10})
    assert batches.state() == {"epoch": 2, "position": 0} and len(batches) == 10
    with pytest.raises(IndexError):
        batches[10]


# Workers


@pytest.mark.parametrize("number", [1, 2, 4])
def test_the_number_of_workers_changes_nothing(pairs, tokenizer, number):
    expected, batches = [
        kt.Batches(*pairs, tokenizer, batch_tokens=256, seed=2, num_workers=workers) for workers in (0, number)
    ]
    try:
        for epoch in range(2):
            expected.set_epoch(epoch), batches.set_epoch(epoch)
            assert same(served(batches), served(expected))
        batches.restore({"epoch": 1, "position": 5})
        expected.restore({"epoch": 1, "position": 5})
        assert same(served(batches), served(expected))
        for place in (3, 0, 7, 6):  # jumps
            assert triples(batches[place]) == triples(expected[place])
    finally:
        batches.close()


@pytest.mark.counts("data workers that end or hang", 1, "an error in seconds, no process left")
@pytest.mark.parametrize("end", ["exit", "kill", "exception", "hang"])
def test_a_workers_end_ends_fit_and_the_state_goes_on(pairs, tokenizer, end, monkeypatch):
    """In Keras's own fit, whose workers would hang for ever."""
    import worker_jobs

    from keras_transformer.text import WorkerError
    from keras_transformer.text import batches as module

    started = []

    def faulty(layout, number):
        started.append(module_workers(worker_jobs.Lines(layout, end), number, timeout=5 if end == "hang" else 60))
        return started[-1]

    module_workers = module.Workers
    monkeypatch.setattr(module, "Workers", faulty)
    batches = kt.Batches(*pairs, tokenizer, batch_tokens=256, num_workers=2)
    model = kt.Transformer(tokenizer.vocabulary_size, d_model=4, num_heads=1, num_layers=1, d_ff=4)
    model.compile(run_eagerly=keras.backend.backend() != "jax")
    with pytest.raises(Exception) as error:
        model.fit(batches, verbose=0)
    assert "Data worker" in str(error.value)
    if keras.backend.backend() != "tensorflow":
        assert isinstance(error.value, WorkerError)
    assert not any(psutil.pid_exists(pid) for pid in started[0].pids)
    state = batches.state()
    assert state["epoch"] == 0 and state["position"] <= 4
    monkeypatch.setattr(module, "Workers", module_workers)
    try:
        batches.restore(state)
        assert triples(batches[0]) == triples(kt.Batches(*pairs, tokenizer, batch_tokens=256)[state["position"]])
    finally:
        batches.close()


def test_workers_outlive_a_reading_by_the_way(pairs, tokenizer):
    """Begun within, they are not thrown away; those that died within are not put back."""
    batches = kt.Batches(*pairs, tokenizer, batch_tokens=256, num_workers=1)
    try:
        with batches.aside():
            batches[0]
            begun = batches._prefetch.pids
        batches[0]
        assert batches._prefetch.pids == begun
        with batches.aside():
            batches.close()
        assert triples(batches[0]) == triples(kt.Batches(*pairs, tokenizer, batch_tokens=256)[0])
    finally:
        batches.close()


# Several devices and processes


@pytest.mark.parametrize("multiple", [1, 2, 8])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_processes_share_every_batch(pairs, tokenizer, multiple, count):
    parts = [
        kt.Batches(*pairs, tokenizer, batch_tokens=800, row_multiple=multiple, process=(index, count))
        for index in range(count)
    ]
    whole = kt.Batches(*pairs, tokenizer, batch_tokens=800, row_multiple=math.lcm(multiple, count))
    assert len({len(part) for part in parts}) == 1 and parts[0].shapes == whole.shapes
    assert all(rows % math.lcm(multiple, count) == 0 for rows, _, _ in whole.shapes)
    assert all(rows * max(lengths) <= 800 for rows, *lengths in whole.shapes)
    everything = Counter(triple for part in parts for triple in real_triples(part))
    assert everything == Counter(real_triples(whole)) and set(everything.values()) == {1}
    for place in range(0, len(whole), 5):
        shapes = {part[place][1].shape for part in parts}
        assert shapes == {(whole[place][1].shape[0] // count, whole[place][1].shape[1])}


def test_a_pair_that_fits_the_budget_alone_but_not_for_every_device_is_counted():
    lengths = [4] * 8 + [12]
    batches = letter_batches(lengths, lengths, batch_tokens=40, row_multiple=4)
    assert batches.skipped["batch_tokens"] == 1 and batches.num_pairs == 8


@pytest.mark.parametrize("wrong", [(0, 0), (2, 2), (-1, 2), (0,), [0, 1], 1])
def test_impossible_processes_are_refused(wrong):
    with pytest.raises(ValueError, match=r"process must be \(index, count\)"):
        letter_batches([3], [3], process=wrong)


# Mixtures


def test_a_mixture_repeats_the_small_corpus_and_loses_no_pair():
    small, large = ["a" * n for n in (1, 2, 3)], ["b" * n for n in range(1, 11)]
    mixture = Mixture([(small, small), (large, large)], weights=[7, 10])
    batches = kt.Batches(mixture, None, Letters(), batch_tokens=24, num_buckets=1, seed=4)
    assert batches.num_pairs == 17
    rounded_up = set()
    for epoch in range(4):
        batches.set_epoch(epoch)
        counts = Counter(row for row, _, _ in real_triples(batches))
        of_small = [counts[(*[4] * n, EOS)] for n in (1, 2, 3)]
        assert sorted(of_small) == [2, 2, 3]
        assert all(counts[(*[5] * n, EOS)] == 1 for n in range(1, 11))
        rounded_up.add(of_small.index(3))
    assert len(rounded_up) > 1
    assert batches.num_tokens == round(sum(range(2, 12)) + 7 / 3 * (2 + 3 + 4))


def test_mixtures_by_temperature():
    sizes = [10, 1000]
    assert Mixture([1, 2]).repeats(sizes) == [1, 1]
    repeats = Mixture([1, 2], temperature=1e9).repeats(sizes)
    assert repeats == pytest.approx([100, 1])
    assert Mixture([1, 2], temperature=2).repeats(sizes) == pytest.approx([10, 1])
    for wrong in ({"weights": [1]}, {"weights": [1, 0]}, {"temperature": 0.5}):
        with pytest.raises(ValueError):
            Mixture([1, 2], **wrong)
    with pytest.raises(ValueError, match="at least one corpus"):
        Mixture([])


# Subword sampling


def test_sampled_pieces_depend_on_seed_epoch_and_line_alone(pairs, tokenizer):
    def new(**kwargs):
        return kt.Batches(*pairs, tokenizer, batch_tokens=512, seed=3, sampling=0.1, **kwargs)

    batches, plain = new(), kt.Batches(*pairs, tokenizer, batch_tokens=512, seed=3)
    first = served(batches)
    assert not same(first, served(plain))
    assert [labels.shape for _, labels in first] == [labels.shape for _, labels in served(plain)]
    texts = sorted(text for _, labels in first for text in tokenizer.decode(labels) if text)
    assert texts == sorted(pairs[1])  # other pieces, the same texts
    resumed = new()
    resumed.restore({"epoch": 0, "position": 4})
    assert same(served(resumed), first[4:])
    workers = new(num_workers=2)
    try:
        assert same(served(workers), first)
    finally:
        workers.close()
    batches.set_epoch(1)
    second = {triple[2] for triple in real_triples(batches)}
    assert second != {triple[2] for batch in first for triple in triples(batch)}


def test_sampled_pieces_of_packed_lines_fit(pairs, tokenizer):
    batches = kt.Batches(*pairs, tokenizer, batch_tokens=512, packed_length=128, sampling=0.1)
    texts = [text for _, labels in served(batches) for row in labels for text in split_texts(row, tokenizer)]
    assert sorted(texts) == sorted(
        t for s, t in zip(*pairs, strict=True) if len(tokenizer.encode(t)) < 128 > len(tokenizer.encode(s))
    )


def split_texts(row, tokenizer):
    ends = np.flatnonzero(row == EOS)
    return [tokenizer.decode(part) for part in np.split(row, ends + 1)[: len(ends)]]


def test_a_tokenizer_that_cannot_sample_is_refused(pairs):
    tokenizer = kt.Tokenizer.train(pairs[0], vocabulary_size=300, model_type="bpe")
    with pytest.raises(ValueError, match="Only a unigram model knows several ways"):
        kt.Batches(*pairs, tokenizer, sampling=0.1)


# Real text


@pytest.mark.skipif(
    not (MULTI30K / "val.de.gz").is_file(), reason="no Multi30k; KERAS_TRANSFORMER_MULTI30K names its folder"
)
def test_multi30k_validation_text():
    files = [MULTI30K / "val.en.gz", MULTI30K / "val.de.gz"]
    source, target = (gzip.decompress(file.read_bytes()).decode().rstrip("\n").split("\n") for file in files)
    tokenizer = kt.Tokenizer.train(files, vocabulary_size=2000)
    assert tokenizer.vocabulary_size == 2000
    for texts in (source, target):
        share = np.mean([len(ids) for ids in tokenizer.encode(texts)]) / np.mean([len(text) for text in texts])
        assert share < 0.4  # pieces are longer than letters
    batches = kt.Batches(*files, tokenizer, batch_tokens=2048)
    assert batches.skipped == {"empty": 0, "max_length": 0, "batch_tokens": 0}
    check_everything_but_the_order(batches, expected_triples(source, target, tokenizer), 2048, 8)
    assert batches.padding_share < 0.25
    assert kt.Batches(*files, tokenizer, batch_tokens=2048, num_buckets=1).padding_share > 0.4
    # ids go there and back: the text itself, but for runs of spaces
    labels = [row for _, labels in served(batches) for row in labels]
    texts = Counter(text for text in tokenizer.decode(labels) if text)
    assert texts == Counter(" ".join(text.split()) for text in target)
