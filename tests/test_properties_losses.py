"""Loss and metrics against NumPy in float64, over shapes, padding, smoothing and weights; split into batches anyhow."""

import numpy as np
from hypothesis import strategies as st
from layer_contract import as_numpy
from properties import forall, where_nothing_is_compiled

import keras_transformer as kt
from keras_transformer.losses import projected_token_statistics, token_statistics

D = 4
SHAPES = where_nothing_is_compiled(  # B, T, V
    st.one_of(st.just((1, 1, 2)), st.tuples(st.integers(1, 5), st.integers(1, 8), st.integers(2, 40))), fixed=(3, 5, 7)
)


def expected_statistics(logits, labels, smoothing, weights):
    """Sums of loss, negative log-likelihood, correct labels and tokens, from their definitions."""
    logs = logits - logits.max(-1, keepdims=True)
    logs = logs - np.log(np.exp(logs).sum(-1, keepdims=True))
    likelihood = -np.take_along_axis(logs, labels[..., None], -1)[..., 0]
    loss = (1 - smoothing) * likelihood - smoothing * logs.mean(-1)
    weights = weights * (labels != 0)
    return [float((weights * x).sum()) for x in (loss, likelihood, logits.argmax(-1) == labels, np.ones(labels.shape))]


@forall(
    few=20,
    many=400,
    shape=SHAPES,
    seed=st.integers(0, 2**32 - 1),
    smoothing=st.sampled_from([0.0, 0.1, 0.9]),
    padding=st.sampled_from([0.0, 0.5, 1.0]),
    weighted=st.booleans(),
    size=st.sampled_from([0.01, 1.0, 30.0]),
    chunk_size=st.sampled_from([None, 3]),
)
def test_both_routines_agree_with_numpy(shape, seed, smoothing, padding, weighted, size, chunk_size):
    """From logits, and from hidden states and a table in chunks."""
    generator = np.random.default_rng(seed)
    rows, length, vocabulary_size = shape
    labels = generator.integers(1, vocabulary_size, (rows, length), dtype="int32")
    labels[generator.random(labels.shape) < padding] = 0
    weights = generator.random((rows, length)).astype("float32") if weighted else None
    hidden = generator.normal(size=(rows, length, D)).astype("float32")
    table = (size * generator.normal(size=(vocabulary_size, D))).astype("float32")
    logits = (hidden.astype("float64") @ table.T.astype("float64")).astype("float32")
    expected = expected_statistics(logits.astype("float64"), labels, smoothing, 1.0 if weights is None else weights)
    options = {"label_smoothing": smoothing, "sample_weight": weights}
    tolerance = 2e-5 * max(abs(expected[0]), size, 1.0)
    found = token_statistics(logits, labels, **options)
    np.testing.assert_allclose([float(as_numpy(x)) for x in found], expected, rtol=0, atol=tolerance)
    found = projected_token_statistics(hidden, table, labels, chunk_size=chunk_size, **options)
    np.testing.assert_allclose([float(as_numpy(x)) for x in found], expected, rtol=0, atol=tolerance)


@forall(
    few=6, many=100, seed=st.integers(0, 2**32 - 1), batches=st.integers(1, 4), padding=st.sampled_from([0.0, 0.5, 0.9])
)
def test_metrics_do_not_depend_on_the_batches(seed, batches, padding):
    """Perplexity and accuracy of all tokens, however these are dealt out to batches of two rows."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(1, 7, (2 * batches, 5), dtype="int32")
    labels[generator.random(labels.shape) < padding] = 0
    labels[0, 0] = 1  # a real token at least
    logits = generator.normal(size=(*labels.shape, 7)).astype("float32")
    accuracy, perplexity = kt.TokenAccuracy(), kt.Perplexity()
    for batch in range(batches):
        rows = slice(2 * batch, 2 * batch + 2)
        for metric in (accuracy, perplexity):
            metric.update_state(labels[rows], logits[rows])
    _, likelihood, correct, tokens = expected_statistics(logits.astype("float64"), labels, 0.0, 1.0)
    np.testing.assert_allclose(float(as_numpy(accuracy.result())), correct / tokens, rtol=1e-5)
    np.testing.assert_allclose(float(as_numpy(perplexity.result())), np.exp(likelihood / tokens), rtol=1e-5)
