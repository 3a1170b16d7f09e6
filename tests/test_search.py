import functools
import itertools

import numpy as np
import pytest
from keras import ops
from layer_contract import as_numpy

import keras_transformer as kt
from keras_transformer.backend import compiled
from keras_transformer.decoding import BeamSearch, GreedySearch
from keras_transformer.layers import padding_mask

PAD, BOS, EOS = 0, 2, 3
SOURCE = np.array([[5, 6, 4, 6, 3], [4, 3, 0, 0, 0], [6, 5, 5, 3, 0]], dtype="int32")


def tiny_model(vocabulary_size=7, **kwargs):
    return kt.Transformer(vocabulary_size, **{"d_model": 8, "num_heads": 2, "num_layers": 1, "seed": 1} | kwargs)


MODEL = tiny_model()


class TableModel:
    """Stands in for a Transformer: the logits are a row of ``table``, chosen by the source and all tokens so far.

    The cache holds a number made of the history, so that a cache that is not reordered with its hypotheses shows.
    """

    pad_id, bos_id, eos_id = PAD, BOS, EOS
    variables = ()

    def __init__(self, table):
        self.table = np.asarray(table, dtype="float32")
        self.vocabulary_size = self.table.shape[1]

    def encode(self, source, source_mask):
        return ops.sum(source, axis=1, keepdims=True)  # (B, 1)

    def init_cache(self, encoder_output, beam_size, max_length):
        return {"history": ops.repeat(encoder_output, beam_size, axis=1)}  # (B, W)

    def decode_step(self, tokens, cache, step, source_mask):
        history = self.next_history(cache["history"], ops.reshape(tokens, ops.shape(cache["history"])))
        rows = ops.reshape(history, (-1,)) % len(self.table)
        return ops.take(ops.convert_to_tensor(self.table), rows, axis=0), {"history": history}

    def reorder_cache(self, cache, parents):
        return {"history": ops.take_along_axis(cache["history"], parents, axis=1)}

    def grow_cache(self, cache, max_length):
        return cache

    @staticmethod
    def next_history(history, token):
        return (history * 31 + token * 7 + 1) % 9973


def tied_table(rows=101, seed=0):
    """Logits that are their own log-probabilities, all integers: sums are exact, and many are equal.

    One entry is 0 and the others at most -20, so that the sum of exponentials rounds to 1 in float32.
    """
    generator = np.random.default_rng(seed)
    return generator.permuted(np.tile([0, -20, -20, -20, -21, -21, -22, -40], (rows, 1)), axis=1)


def plain_beam_search(model, source, width, length_penalty):
    """The search of one sentence as BeamSearch's docstring words it, in lists; [(score, tokens)], best first."""
    limit = 2 * int(np.sum(source != PAD)) + 10
    alive, finished = [(0.0, [], int(source.sum()))], []
    for length in range(1, limit + 1):
        extensions = []
        for beam, (score, tokens, history) in enumerate(alive):
            history = model.next_history(history, tokens[-1] if tokens else BOS)
            for token, logit in enumerate(model.table[history % len(model.table)].tolist()):
                if token not in (PAD, BOS):
                    extensions.append((-(score + logit), token, beam, [*tokens, token], history))
        best = sorted(extensions)[: 2 * width]
        alive = []
        for rank, (cost, token, _, tokens, history) in enumerate(best):
            if token != EOS and length < limit:
                alive.append((-cost, tokens, history))
            elif rank < width:
                finished.append((-cost / ((5 + length) / 6) ** length_penalty, tokens))
        alive = alive[:width]
        finished = sorted(finished, key=lambda hypothesis: -hypothesis[0])[:width]  # stable: the earlier stays ahead
        if len(finished) == width:
            break
    return finished


def uncached(model, source, target):
    """Logits of the model as trained, in one compiled call."""
    source, target = (ops.convert_to_tensor(x, dtype="int32") for x in (source, target))
    return as_numpy(
        compiled(lambda *ids: model(dict(zip(("source", "target"), ids, strict=True))), model)(source, target)
    )


def tokens_of(row):
    return row[: int((row != PAD).sum())].tolist()


def log_softmax(logits):
    logits = logits.astype("float64")
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


@functools.cache
def all_sequences(row, length):
    """Every translation of SOURCE[row] of up to ``length`` tokens, {tokens: log-probability}, by uncached MODEL."""
    model, source = MODEL, SOURCE[row]
    entries = [token for token in range(model.vocabulary_size) if token not in (PAD, BOS, EOS)]
    prefixes = np.array([(BOS, *rest) for rest in itertools.product(entries, repeat=length - 1)])
    tables = log_softmax(uncached(model, np.repeat(source[None], len(prefixes), 0), prefixes))  # (N, length, V)
    sequences = {}
    for prefix, table in zip(prefixes[:, 1:].tolist(), tables, strict=True):
        for end in range(length):
            score = sum(table[position, token] for position, token in enumerate(prefix[:end]))
            for last in [EOS] if end < length - 1 else [EOS, *entries]:
                sequences[(*prefix[:end], last)] = score + table[end, last]
    return sequences


@pytest.mark.parametrize("length_penalty", [0.0, 2.0])
def test_a_wide_beam_equals_exhaustive_search(length_penalty):
    search = BeamSearch(MODEL, beam_size=85, length_penalty=length_penalty, max_length=3)
    ids, scores = search(SOURCE)
    assert ids.shape == (3, 85, 3) and ids.dtype == "int32" and scores.dtype == "float32"
    for row, (found, found_scores) in enumerate(zip(ids, scores, strict=True)):
        expected = {
            tokens: score / ((5 + len(tokens)) / 6) ** length_penalty for tokens, score in all_sequences(row, 3).items()
        }
        assert len(expected) == 85  # 1 + 4 + 16 ended by eos, 64 cut off: the beam holds them all
        found = [tuple(tokens_of(row)) for row in found]
        assert set(found) == set(expected)
        np.testing.assert_allclose(found_scores, [expected[tokens] for tokens in found], atol=1e-5)
        np.testing.assert_allclose(found_scores, sorted(expected.values(), reverse=True), atol=1e-5)
        assert found[0] == max(expected, key=expected.get)


def test_the_length_penalty_changes_the_ranking():
    """A coin decides at each step whether to end: each token costs log 2, and a high exponent makes length pay."""
    logits = np.full((1, 6), -50.0)
    logits[:, [4, EOS]] = 0
    for length_penalty, length in ((0.0, 1), (5.0, 2)):
        ids, scores = BeamSearch(TableModel(logits), 2, length_penalty)(np.array([[5, 3]]))
        assert len(tokens_of(ids[0, 0])) == length
        np.testing.assert_allclose(scores[0, 0], -length * np.log(2) / ((5 + length) / 6) ** length_penalty, rtol=1e-5)


@pytest.mark.parametrize("length_penalty", [0.6])
def test_greedy_equals_beam_one_and_the_argmax_of_the_uncached_model(length_penalty):
    ids, scores = GreedySearch(MODEL, length_penalty)(SOURCE)
    beam_ids, beam_scores = BeamSearch(MODEL, 1, length_penalty)(SOURCE)
    np.testing.assert_array_equal(ids, beam_ids)
    np.testing.assert_allclose(scores, beam_scores, rtol=1e-6)
    target = np.pad(ids[:, 0, :-1], ((0, 0), (1, 0)), constant_values=BOS)
    table = log_softmax(uncached(MODEL, SOURCE, target))  # (B, L, V)
    table[..., [PAD, BOS]] = -np.inf
    for row, found, score in zip(table, ids[:, 0], scores[:, 0], strict=True):
        tokens = tokens_of(found)
        assert tokens == row.argmax(-1)[: len(tokens)].tolist()
        assert tokens[-1] == EOS or len(tokens) in (20, 14, 18)  # the limits of the three
        total = row.max(-1)[: len(tokens)].sum()
        # up to 20 float32 sums of numbers near 1
        np.testing.assert_allclose(score, total / ((5 + len(tokens)) / 6) ** length_penalty, rtol=1e-5)


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_cached_decoding_equals_uncached_at_every_step(norm):
    model = tiny_model(vocabulary_size=20, norm=norm, num_layers=2)
    generator = np.random.default_rng(0)
    source = generator.integers(4, 20, (2, 6))
    source[1, 3:] = PAD
    target = generator.integers(4, 20, (4, 9))  # two hypotheses a sentence
    target[:, 0] = BOS
    expected = uncached(model, np.repeat(source, 2, 0), target)
    source, target = (ops.convert_to_tensor(x, dtype="int32") for x in (source, target))
    mask = padding_mask(source)
    cache = compiled(lambda ids: model.init_cache(model.encode(ids, mask), 2, 9), model)(source)
    decode_step = compiled(lambda *arguments: model.decode_step(*arguments, mask), model)
    for step in range(9):
        logits, cache = decode_step(target[:, step], cache, ops.convert_to_tensor(step, dtype="int32"))
        np.testing.assert_allclose(as_numpy(logits), expected[:, step], atol=1e-5)


@pytest.mark.parametrize("width", [1, 2, 5])
@pytest.mark.parametrize("length_penalty", [0.0, 0.6])
def test_beam_search_equals_its_wording_ties_included(width, length_penalty):
    model = TableModel(tied_table())
    search = BeamSearch(model, width, length_penalty)
    generator = np.random.default_rng(width)
    ended = 0
    source = generator.integers(4, 8, (12, 4), dtype="int32")
    source[np.arange(4) > generator.integers(1, 4, 12)[:, None]] = PAD
    ids, scores = search(source)
    for row, found, found_scores in zip(source, ids, scores, strict=True):
        expected = plain_beam_search(model, row, width, length_penalty)
        assert [tokens_of(hypothesis) for hypothesis in found] == [tokens for _, tokens in expected]
        np.testing.assert_allclose(found_scores, [score for score, _ in expected], rtol=1e-6)
        ended += sum(tokens[-1] == EOS for _, tokens in expected)
    assert ended > 6  # the case is not one of limits alone


def test_ties_break_by_token_and_then_by_hypothesis():
    """All tokens equally likely: of two tokens and two hypotheses, (4, 4) and (5, 4) come before (4, 5)."""
    logits = np.full((1, 7), -1e4)
    logits[:, [4, 5, 6]] = 0
    ids, scores = BeamSearch(TableModel(logits), 3, 0.0, max_length=2)(np.array([[5, 3]]))
    assert ids[0].tolist() == [[4, 4], [5, 4], [6, 4]]
    np.testing.assert_allclose(scores[0], [2 * np.log(1 / 3)] * 3, rtol=1e-6)
    ids, _ = GreedySearch(TableModel(logits), max_length=2)(np.array([[5, 3]]))
    assert ids[0].tolist() == [[4, 4]]


def test_eos_at_the_first_step():
    logits = np.full((1, 6), -30.0)
    logits[:, EOS] = 0
    logits[:, 4] = -25
    source = np.array([[5, 3], [4, 3]])
    for search in (GreedySearch(TableModel(logits)), BeamSearch(TableModel(logits), 1)):
        ids, scores = search(source)
        assert ids.tolist() == [[[EOS] + [PAD] * 13]] * 2
        np.testing.assert_allclose(scores, 0.0, atol=1e-6)
    ids, scores = BeamSearch(TableModel(logits), 2, length_penalty=0.0)(source)
    assert [tokens_of(row) for row in ids[0]] == [[EOS], [4, EOS]]
    np.testing.assert_allclose(scores[0], [0.0, -25.0], atol=1e-6)


def test_finished_hypotheses_are_frozen():
    """A longer sentence in the batch keeps the loop going; what has ended gets no token and no score."""
    table = np.full((2, 6), -30.0)  # sentences of an even sum take row 0 or 1 by their history
    model = TableModel(table)
    ends, goes_on = np.array([[4, 3, 0]]), np.array([[5, 4, 3]])
    rows = [model.next_history(int(x.sum()), BOS) % 2 for x in (ends, goes_on)]
    assert rows[0] != rows[1]
    model.table[rows[0], EOS] = 0  # ends at once
    model.table[rows[1], 4] = 0
    for search in (GreedySearch(model, 0.6), BeamSearch(model, 2, 0.6)):
        together, scores = search(np.concatenate([ends, goes_on]))
        alone, alone_scores = search(ends)
        assert len(tokens_of(together[1, 0])) > len(tokens_of(together[0, 0])) == 1
        for one, other in zip(together[0], alone[0], strict=True):
            assert tokens_of(one) == tokens_of(other)
            assert EOS not in tokens_of(one)[:-1]
        np.testing.assert_array_equal(scores[0], alone_scores[0])


@pytest.mark.parametrize("search", [GreedySearch(MODEL), BeamSearch(MODEL, 3)])
def test_neighbours_and_padding_change_nothing(search):
    ids, scores = search(SOURCE)
    wide_ids, wide_scores = search(np.pad(SOURCE, ((0, 2), (0, 4)), constant_values=PAD)[:3])
    np.testing.assert_array_equal(ids, wide_ids[..., : ids.shape[-1]])
    assert (wide_ids[..., ids.shape[-1] :] == PAD).all()
    np.testing.assert_allclose(scores, wide_scores, rtol=1e-5)
    alone, alone_scores = search(SOURCE[1:2, :2])  # the shortest: most padding to leave out
    assert [tokens_of(x) for x in alone[0]] == [tokens_of(x) for x in ids[1]]
    np.testing.assert_allclose(alone_scores[0], scores[1], rtol=1e-5)


@pytest.mark.parametrize("width", [1, 3])
def test_each_sentence_has_its_own_limit(width):
    logits = np.full((1, 7), -30.0)
    logits[:, 4] = 0
    logits[:, EOS] = -1e6
    model = TableModel(logits)
    source = np.array([[5, 3, 0, 0], [4, 4, 4, 3]])
    for search in [BeamSearch(model, width)] + [GreedySearch(model)] * (width == 1):
        ids, _ = search(source)
        assert ids.shape == (2, width, 18)
        assert [len(tokens_of(row)) for row in ids[:, 0]] == [14, 18]
        assert not (ids == EOS).any()  # each ended at its limit
    ids, _ = BeamSearch(model, width, max_length=5)(source)
    assert ids.shape == (2, width, 5) and [len(tokens_of(row)) for row in ids[:, 0]] == [5, 5]


def test_pad_and_bos_are_never_produced():
    """They are the likeliest by far here, and would come first without the ban."""
    logits = np.array([[9.0, 0, 9, -1, 0.5, 0.25]])
    for search in (GreedySearch(TableModel(logits)), BeamSearch(TableModel(logits), 4)):
        ids, scores = search(np.array([[5, 3]]))
        for row in ids[0]:
            tokens = tokens_of(row)
            assert BOS not in tokens and PAD not in tokens
            assert len(tokens) == 14 or tokens[-1] == EOS
        assert (scores > -1e6).all()


@pytest.mark.parametrize("make", [GreedySearch, BeamSearch])
@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_named(make, number):
    model = tiny_model()
    search = make(model)
    search(SOURCE)
    weights = model.get_weights()
    weights[0][5] = number  # token 5, which only rows 0 and 2 hold; but the logits of all
    model.set_weights(weights)
    with pytest.raises(ValueError, match=r"not finite for source rows \[0, 1, 2\]"):
        search(SOURCE)


@pytest.mark.parametrize("make", [GreedySearch, BeamSearch])
def test_only_the_rows_that_are_not_finite_are_named(make):
    model = TableModel(np.zeros((2, 6)))
    sources = np.array([[4, 3, 0], [5, 4, 3]])
    rows = [model.next_history(int(x.sum()), BOS) % 2 for x in sources]
    assert rows[0] != rows[1]
    model.table[rows[1], 5] = np.nan
    with pytest.raises(ValueError, match=r"source rows \[1\]"):
        make(model, max_length=1)(sources)


def test_weights_that_change_after_compilation_are_used():
    model = tiny_model()
    search = GreedySearch(model)
    before, _ = search(SOURCE)
    model.set_weights([w[::-1] for w in model.get_weights()])
    after, _ = search(SOURCE)
    assert not np.array_equal(before, after)
    np.testing.assert_array_equal(after, GreedySearch(model)(SOURCE)[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_length": 0}, "max_length must be a whole number"),
        ({"length_penalty": -0.1}, "length_penalty must not be negative"),
        ({"beam_size": 0}, "beam_size must be an integer from 1"),
    ],
)
def test_impossible_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        BeamSearch(MODEL, **arguments)
    if "beam_size" not in arguments:
        with pytest.raises(ValueError, match=message):
            GreedySearch(MODEL, **arguments)


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_searches_in_float32(dtype):
    model = tiny_model(dtype=dtype)
    ids, scores = BeamSearch(model, 2, max_length=4)(SOURCE)
    assert scores.dtype == "float32" and np.isfinite(scores).all()
    target = np.pad(ids[:, 0, :-1], ((0, 0), (1, 0)), constant_values=BOS)
    logits = uncached(model, SOURCE, target)
    for table, found, score in zip(log_softmax(logits), ids[:, 0], scores[:, 0], strict=True):
        tokens = tokens_of(found)
        total = table[np.arange(len(tokens)), tokens].sum()
        # bfloat16 carries 8 bits: cached and uncached products round differently by about 2 ** -8 of a logit
        np.testing.assert_allclose(score, total / ((5 + len(tokens)) / 6) ** 0.6, atol=0.05)
