import functools
import itertools

import hypothesis
import hypothesis.strategies as st
import keras
import numpy as np
import pytest
from keras import ops
from layer_contract import as_numpy

import keras_transformer as kt
from keras_transformer.backend import compiled
from keras_transformer.decoding import BeamSearch, GreedySearch, Rules, Sampling
from keras_transformer.decoding import loop as loop_module
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
        self.vocabulary_size = self.num_source_pieces = self.table.shape[1]

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


WORDS = (4, 5, 6)
WIDE = tiny_model(vocabulary_size=40)
OTHERS = (1, *range(7, 40))  # banned, so that a beam of 40 holds all that three words can spell in three places
RULES = {
    "no rule": {"banned": OTHERS},
    "all rules": {
        "banned": (*OTHERS, (4, 5), (6, 6, 4)),
        "min_length": 1,
        "no_repeat_ngram": 2,
        "repetition_penalty": 1.5,
        "coverage_penalty": 0.3,
    },
    "other numbers": {"banned": OTHERS, "no_repeat_ngram": 1, "repetition_penalty": 0.7, "length_ratio": (0, 3)},
}


@functools.cache
def forced_tables(row):
    """Of WIDE, uncached: logits after each two words, (9, 3, V), and what each place attends to, (9, 3, S)."""
    prefixes = np.array([(BOS, *rest) for rest in itertools.product(WORDS, repeat=2)], dtype="int32")
    source = np.repeat(SOURCE[row][None], len(prefixes), 0)
    forced = compiled(WIDE.with_scores, WIDE)
    logits, scores = forced(*(ops.convert_to_tensor(x) for x in (source, prefixes)))
    return prefixes[:, 1:].tolist(), as_numpy(logits), as_numpy(scores["cross"][-1]).mean(axis=1)


def all_translations(row, rules):
    """Every translation of SOURCE[row] of up to three tokens by the rules as their docstring words them, {tokens: score}."""
    phrases = [(phrase,) if isinstance(phrase, int) else phrase for phrase in rules.get("banned", ())]
    n, found = rules.get("no_repeat_ngram", 0), {}
    for words, logits, attention in zip(*forced_tables(row), strict=True):
        score = 0.0
        for place in range(3):
            said = words[:place]
            row_logits = logits[place].astype("float64")
            for token in set(said):
                penalty = rules.get("repetition_penalty", 1.0)
                row_logits[token] *= 1 / penalty if row_logits[token] > 0 else penalty
            log_probabilities = log_softmax(row_logits)
            for token in (*WORDS, EOS):
                tokens = [*said, token]
                ngrams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)] if n and token != EOS else []
                if (
                    any(tuple(tokens[-len(phrase) :]) == phrase for phrase in phrases)
                    or (token == EOS and place < rules.get("min_length", 0))
                    or len(set(ngrams)) < len(ngrams)
                ):
                    continue
                if token == EOS or place == 2:
                    total = score + log_probabilities[token]
                    attended = attention[: place + 1].sum(axis=0)[SOURCE[row] != PAD]
                    found[tuple(tokens)] = (
                        total,
                        rules.get("coverage_penalty", 0) * np.log(attended.clip(max=1)).sum(),
                    )
                elif token == words[place]:
                    following = score + log_probabilities[token]
            if place < 2:
                tokens = words[: place + 1]
                ngrams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)] if n else []
                if any(tuple(tokens[-len(p) :]) == p for p in phrases) or len(set(ngrams)) < len(ngrams):
                    break  # no translation goes on from here
                score = following
    return found


def check_exhaustively(rules, length_penalty, normalization):
    search = BeamSearch(WIDE, 40, length_penalty, 3, normalization=normalization, rules=Rules(**rules))
    ids, scores = search(SOURCE)
    for row, (found, found_scores) in enumerate(zip(ids, scores, strict=True)):
        expected = {}
        for tokens, (total, coverage) in all_translations(row, rules).items():
            length = (5 + len(tokens)) / 6 if normalization == "gnmt" else len(tokens)
            expected[tokens] = total / length**length_penalty + coverage
        found = [tuple(tokens_of(hypothesis)) for hypothesis in found if hypothesis[0] != PAD]
        assert set(found) == set(expected) and len(found) == len(expected)
        np.testing.assert_allclose(found_scores[: len(found)], [expected[tokens] for tokens in found], atol=2e-5)
        np.testing.assert_allclose(found_scores[: len(found)], sorted(expected.values(), reverse=True), atol=2e-5)
        assert (found_scores[len(found) :] < -1e8).all()
    return len(expected)


@pytest.mark.parametrize(("rules", "normalization"), [("no rule", "gnmt"), ("all rules", "average")])
def test_a_wide_beam_equals_exhaustive_search(rules, normalization):
    count = check_exhaustively(RULES[rules], 0.8, normalization)
    assert count == 40 if rules == "no rule" else 5 < count < 40  # 1 + 3 + 9 ended by eos, 27 cut off


@pytest.mark.deep
@hypothesis.settings(max_examples=25, deadline=None, derandomize=True)
@hypothesis.given(
    rules=st.fixed_dictionaries(
        {
            "banned": st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(tuple), max_size=3).map(
                lambda phrases: (*OTHERS, *phrases)
            ),
            "min_length": st.integers(0, 2),
            "no_repeat_ngram": st.integers(0, 3),
            "repetition_penalty": st.floats(0.5, 2),
            "coverage_penalty": st.floats(0, 1),
        }
    ),
    length_penalty=st.floats(0, 2),
    normalization=st.sampled_from(["gnmt", "average"]),
)
def test_any_rules_equal_exhaustive_search(rules, length_penalty, normalization):
    hypothesis.assume(any((word,) not in rules["banned"] for word in WORDS))
    check_exhaustively(rules, length_penalty, normalization)


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


@pytest.mark.parametrize(("width", "length_penalty"), [(2, 0.0), (4, 1.0)])
def test_the_early_stop_finds_the_same_best(width, length_penalty):
    """And the batch shrinks and the cache grows meanwhile, which changes nothing either."""
    model = TableModel(tied_table(seed=3))
    generator = np.random.default_rng(width)
    source = generator.integers(4, 8, (24, 4), dtype="int32")
    source[np.arange(4) > generator.integers(1, 4, 24)[:, None]] = PAD
    ids, scores = BeamSearch(model, width, length_penalty)(source)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("_ROOM", 4), ("_SHRINK", 2), ("_SMALLEST", 4)):
            patch.setattr(loop_module, name, value)
        best_ids, best_scores = BeamSearch(model, width, length_penalty, n_best=1)(source)
    np.testing.assert_array_equal(best_ids, ids[:, :1])
    np.testing.assert_array_equal(best_scores, scores[:, :1])


def test_a_batch_that_shrinks_and_a_cache_that_grows_change_nothing(monkeypatch):
    source = np.random.default_rng(0).integers(4, 7, (8, 6), dtype="int32")
    source[np.arange(8) > 3, 2:] = PAD  # half of the limits are less than half of the others
    expected = BeamSearch(MODEL, 2)(source)
    for name, value in (("_ROOM", 3), ("_SHRINK", 2), ("_SMALLEST", 2)):
        monkeypatch.setattr(loop_module, name, value)
    found = BeamSearch(MODEL, 2)(source)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-5)


def test_a_prefix_is_kept_and_gone_on_from():
    prefix = np.array([[5, 6], [4, PAD], [PAD, PAD]])
    ids, scores = BeamSearch(MODEL, 2, 0.0, max_length=4)(SOURCE, prefix)
    assert ids[0, :, :2].tolist() == [[5, 6]] * 2 and ids[1, :, 0].tolist() == [4] * 2
    free = BeamSearch(MODEL, 2, 0.0, max_length=4)
    free_ids, _ = free(SOURCE)
    np.testing.assert_array_equal(ids[2], free_ids[2])
    np.testing.assert_array_equal(free(SOURCE, prefix[:, :0])[0], free_ids)  # none at all
    target = np.pad(ids[:, 0, :-1], ((0, 0), (1, 0)), constant_values=BOS)
    table = log_softmax(uncached(MODEL, SOURCE, target))
    for row in range(3):
        tokens = tokens_of(ids[row, 0])
        np.testing.assert_allclose(scores[row, 0], table[row, range(len(tokens)), tokens].sum(), atol=1e-5)
    for wrong, message in (
        ([[5]], "prefix must be of shape (3, P)"),
        ([[9], [5], [5]], "prefix contain the id 9 at row 0, column 0. Expected ids from 0 to 6"),
        ([[5.0], [5.0], [5.0]], "prefix must be integers"),
        ([[5], [BOS], [5]], "prefix must hold ids without bos and eos, and pad behind them alone"),
        ([[5, PAD, 5]] * 3, "prefix must hold ids without bos and eos, and pad behind them alone"),
        ([[5, 5, 5, 5]] * 3, "The prefix for source rows [0] has 4 ids, and a translation may have 4"),
    ):
        with pytest.raises(ValueError) as error:
            BeamSearch(MODEL, 2, max_length=4)(SOURCE, np.array(wrong))
        assert message in str(error.value)


class ChangingTable(TableModel):
    """A TableModel whose table is a weight, so that one compiled search serves all cases."""

    def __init__(self, rows, vocabulary_size):
        super().__init__(np.zeros((rows, vocabulary_size)))
        self.weight = keras.Variable(self.table)
        self.variables = [self.weight]

    def decode_step(self, tokens, cache, step, source_mask):
        history = self.next_history(cache["history"], ops.reshape(tokens, ops.shape(cache["history"])))
        rows = ops.reshape(history, (-1,)) % len(self.table)
        return ops.take(ops.convert_to_tensor(self.weight), rows, axis=0), {"history": history}


CHANGING = ChangingTable(2, 7)
SEARCHES = {
    "greedy": GreedySearch(CHANGING),
    "beam": BeamSearch(CHANGING, 3),
    "sampling": Sampling(CHANGING, samples=3, seed=1),
}
PLAIN = [0.0, 0, 0, -1, 0.5, 0.25, -2]
NAN, INF = np.nan, np.inf
TWO = [[4, 3, PAD], [5, 4, 3]]  # their first steps read rows of the table that differ
FIRST = [TableModel.next_history(sum(row), BOS) % 2 for row in TWO]


def one_row(entry, value):
    """A table in which only the row that the second source reads first has ``value``."""
    table = np.array([PLAIN, PLAIN])
    table[FIRST[1], entry] = value
    return table


# name: (row or rows of the table, sources, which rows the error names or None)
CASES = {
    "all logits are NaN": ([NAN] * 7, TWO, [0, 1]),
    "one logit is NaN": ([*PLAIN[:6], NAN], TWO, [0, 1]),
    "one logit is infinite": ([*PLAIN[:6], INF], TWO, [0, 1]),
    "all logits are -inf": ([-INF] * 7, TWO, [0, 1]),
    "one sentence's logits are NaN": (one_row(slice(None), NAN), TWO, [1]),
    "a logit of pad is NaN": ([NAN, *PLAIN[1:]], TWO, [0, 1]),
    "some logits are -inf": ([*PLAIN[:5], -INF, -INF], TWO, None),
    "logits are huge": ([0, 0, 0, -1e30, 1e30, 0, 0], TWO, None),
    "no eos": ([0, 0, 0, -1e6, 1, 0, 0], TWO, None),
    "eos at once": ([0, -90, 0, 90, -90, -90, -90], TWO, None),
    "pad and bos are likeliest": ([9, 0, 9, 0, 0, 0, 0], TWO, None),
    "ties": ([0] * 7, TWO, None),
    "a source that is empty": (PLAIN, [[PAD, PAD, PAD], [5, 4, 3]], None),
    "a source of eos alone": (PLAIN, [[3, PAD, PAD], [5, 4, 3]], None),
}


@pytest.mark.counts(
    "decoding: bad logits, no end, ties, empty sources", 1, "an error that names the rows, or whole translations"
)
@pytest.mark.parametrize("kind", SEARCHES)
@pytest.mark.parametrize("case", CASES)
def test_decode_cases(case, kind):
    """14 cases for each of 3 kinds of search: a named error, or translations that are whole."""
    assert FIRST[0] != FIRST[1]
    table, sources, broken = CASES[case]
    CHANGING.weight.assign(np.broadcast_to(np.array(table, "float32"), (2, 7)))
    search, sources = SEARCHES[kind], np.array(sources)
    if broken is not None:
        with pytest.raises(ValueError, match="not finite for source rows") as error:
            search(sources)
        if case != "one sentence's logits are NaN":
            assert f"rows {broken}" in str(error.value)
        else:
            told = str(error.value)
            assert f"rows {broken}" in told or "rows [0, 1]" in told  # 0 may come by that row later
        return
    ids, scores = search(sources)
    limits = 2 * (sources != PAD).sum(axis=1) + 10
    if case == "logits are huge":  # one token has all the probability: a beam finds no second translation
        ids, scores = ids[:, :1], scores[:, :1]
    assert np.isfinite(scores).all() and (scores > -1e6).all()
    for rows, limit in zip(ids, limits, strict=True):
        for row in rows:
            tokens = tokens_of(row)
            assert PAD not in tokens and BOS not in tokens and EOS not in tokens[:-1]
            assert tokens[-1] == EOS or len(tokens) == limit
            if case == "no eos":
                assert len(tokens) == limit
            if case == "eos at once" and kind != "beam":
                assert tokens == [EOS]
            if case == "some logits are -inf":
                assert not {5, 6} & set(tokens)
    if case == "eos at once":
        assert tokens_of(ids[0, 0]) == [EOS]
    if case == "ties" and kind == "greedy":
        assert set(tokens_of(ids[0, 0])) == {1}


def test_a_batch_without_sentences():
    for search in SEARCHES.values():
        ids, scores = search(np.zeros((0, 3), dtype="int32"))
        assert ids.shape == (0, search.beam_size, 16) and scores.shape == (0, search.beam_size)


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
        ({"max_length": 0}, "max_length must be an integer from 1"),
        ({"length_penalty": -0.1}, "length_penalty must be a number from 0"),
        ({"length_penalty": float("nan")}, "length_penalty must be a number from 0"),
        ({"length_penalty": float("inf")}, "length_penalty must be a number from 0"),
        ({"normalization": "mean"}, 'normalization must be "gnmt" or "average"'),
        ({"rules": {}}, "rules must be a decoding.Rules"),
        ({"rules": Rules(banned=(7,))}, "banned holds id 7; the vocabulary ends at 6"),
        ({"beam_size": 0}, "beam_size must be an integer from 1"),
        ({"beam_size": 8}, "beam_size must not be larger than the vocabulary of 7"),
        ({"beam_size": 2, "n_best": 3}, "n_best must not be larger than beam_size=2"),
        ({"max_length": 5, "rules": Rules(min_length=6)}, "max_length must not be less than the rules' min_length=6"),
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


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([[7, 3]], "source contain the id 7 at row 0, column 0. Expected ids from 0 to 6"),
        ([[-1, 3]], "source contain the id -1"),
        ([[5.7, 3.0]], "source must be integers"),
        ([5, 3], r"source must have two axes, sentences and positions, one at least. Received: shape \(2,\)"),
        ([[], []], r"source must have two axes, sentences and positions, one at least. Received: shape \(2, 0\)"),
    ],
)
def test_sources_that_cannot_be(source, message):
    with pytest.raises(ValueError, match=message):
        GreedySearch(tiny_model())(np.array(source))
