import importlib.util
import threading

import keras
import numpy as np
import pytest
from keras import ops
from layer_contract import as_numpy
from small_model import INPUTS, LABELS, SIZES, V, make_data, make_model

import keras_transformer as kt


def log_softmax(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def expected_logs(logits, labels, smoothing):
    """Loss, accuracy and perplexity a real token in float64, from a one-hot target distribution."""
    table = log_softmax(logits)
    real = labels != 0
    goal = (1 - smoothing) * np.eye(V)[labels] + smoothing / V
    likelihood = np.take_along_axis(table, labels[..., None], -1)[..., 0]
    return {
        "loss": -(goal * table).sum(-1)[real].mean(),
        "token_accuracy": (table.argmax(-1) == labels)[real].mean(),
        "perplexity": np.exp(-likelihood[real].mean()),
    }


# Training it


def test_compile_defaults_are_the_papers():
    model = make_model()
    model.compile()
    optimizer = model.optimizer
    assert isinstance(optimizer, keras.optimizers.Adam)
    assert (optimizer.beta_1, optimizer.beta_2, optimizer.epsilon) == (0.9, 0.98, 1e-9)
    assert optimizer.global_clipnorm == 1.0 and optimizer.clipnorm is None and not optimizer.weight_decay
    schedule = optimizer.get_config()["learning_rate"]["config"]
    assert schedule == {"d_model": 8, "warmup_steps": 4000, "scale": 1.0}
    assert isinstance(model.loss, kt.SmoothedCrossentropy) and model.loss.label_smoothing == 0.1
    model = kt.Transformer.from_preset("tiny", vocabulary_size=V, num_layers=1)
    model.compile()
    schedule = kt.WarmupInverseSqrt(**model.optimizer.get_config()["learning_rate"]["config"])
    np.testing.assert_allclose([schedule.peak, schedule.warmup_steps], [5e-3, 2000])


@pytest.mark.parametrize("tie_embeddings", ["all", None])
def test_fit_and_evaluate_report_what_numpy_computes(tie_embeddings):
    model = make_model(dropout=0.0, tie_embeddings=tie_embeddings, pad_id=0)
    model.compile(optimizer=keras.optimizers.SGD(0.0), loss=kt.SmoothedCrossentropy(0.2))
    expected = expected_logs(as_numpy(model(INPUTS)), LABELS, 0.2)
    history = model.fit(INPUTS, LABELS, batch_size=3, shuffle=False, verbose=0).history
    assert set(history) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(history[name][0], value, rtol=1e-5)
    inputs, labels = make_data(rows=20, seed=1)
    expected = expected_logs(as_numpy(model(inputs)), labels, 0.2)
    for batch_size in (1, 7, 64):
        logs = model.evaluate(inputs, labels, batch_size=batch_size, return_dict=True, verbose=0)
        for name, value in expected.items():
            np.testing.assert_allclose(logs[name], value, rtol=1e-5)


def test_sample_weight_weighs_tokens():
    model = make_model(dropout=0.0)
    model.compile(optimizer=keras.optimizers.SGD(0.0))
    weights = np.random.default_rng(0).uniform(0.1, 2, LABELS.shape).astype("float32")
    table = log_softmax(as_numpy(model(INPUTS)))
    likelihood = -np.take_along_axis(table, LABELS[..., None], -1)[..., 0]
    real = weights * (LABELS != 0)
    expected = (real * (0.9 * likelihood - 0.1 * table.mean(-1))).sum() / real.sum()
    logs = model.evaluate(INPUTS, LABELS, sample_weight=weights, batch_size=4, return_dict=True, verbose=0)
    np.testing.assert_allclose(logs["loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(logs["perplexity"], np.exp((real * likelihood).sum() / real.sum()), rtol=1e-5)


def test_dropout_acts_in_fit_alone():
    model = make_model(dropout=0.5)
    model.compile(optimizer=keras.optimizers.SGD(0.0))
    evaluated = [model.evaluate(INPUTS, LABELS, return_dict=True, verbose=0)["loss"] for _ in range(2)]
    fitted = [model.fit(INPUTS, LABELS, verbose=0).history["loss"][0] for _ in range(2)]
    assert evaluated[0] == evaluated[1] and len({*fitted, evaluated[0]}) == 3


def test_a_foreign_loss_takes_the_ordinary_path():
    model = make_model(dropout=0.0)
    model.compile(
        optimizer=keras.optimizers.SGD(0.1),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=0),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
    )
    table = log_softmax(as_numpy(model(INPUTS)))
    likelihood = -np.take_along_axis(table, LABELS[..., None], -1)[..., 0]
    history = model.fit(INPUTS, LABELS, batch_size=7, verbose=0, epochs=5).history
    assert set(history) == {"loss", "accuracy"}
    np.testing.assert_allclose(history["loss"][0], likelihood[LABELS != 0].mean(), rtol=1e-5)
    np.testing.assert_allclose(history["accuracy"][0], (table.argmax(-1) == LABELS).mean(), rtol=1e-5)
    assert history["loss"][-1] < history["loss"][0]


def test_a_foreign_metric_gets_logits():
    model = make_model(dropout=0.0)
    model.compile(optimizer=keras.optimizers.SGD(0.0), metrics=[keras.metrics.SparseCategoricalAccuracy(name="hits")])
    logits = as_numpy(model(INPUTS))
    logs = model.evaluate(INPUTS, LABELS, batch_size=7, return_dict=True, verbose=0)
    assert set(logs) == {"loss", "hits"}
    np.testing.assert_allclose(logs["hits"], (logits.argmax(-1) == LABELS).mean(), rtol=1e-5)
    np.testing.assert_allclose(logs["loss"], expected_logs(logits, LABELS, 0.1)["loss"], rtol=1e-5)


@pytest.mark.parametrize("clip", ["clipnorm", "global_clipnorm"])
def test_clipping_bounds_the_update(clip):
    """With SGD at rate 1 the update is the clipped gradient."""

    def updates(**arguments):
        model = make_model(dropout=0.0)
        # Large weights make large gradients.
        model.set_weights([w * 3 for w in model.get_weights()])
        model.compile(optimizer=keras.optimizers.SGD(1.0, **arguments))
        before = [as_numpy(w) for w in model.trainable_weights]
        model.fit(INPUTS, LABELS, batch_size=7, verbose=0)
        return [as_numpy(w) - b for w, b in zip(model.trainable_weights, before, strict=True)]

    raw = updates()
    limit = 0.5 * min(1.0, max(np.linalg.norm(x) for x in raw))
    clipped = updates(**{clip: limit})
    norms = np.array([np.linalg.norm(x) for x in raw])
    whole = np.sqrt((norms**2).sum())
    assert whole > limit * 1.5 and norms.max() > limit * 1.5  # there is something to clip
    factors = np.minimum(1, limit / norms) if clip == "clipnorm" else np.full(len(norms), limit / whole)
    for update, gradient, factor in zip(clipped, raw, factors, strict=True):
        np.testing.assert_allclose(update, gradient * factor, atol=1e-5, rtol=1e-4)
    clipped_norms = np.array([np.linalg.norm(x) for x in clipped])
    bounded = clipped_norms.max() if clip == "clipnorm" else np.sqrt((clipped_norms**2).sum())
    assert bounded <= limit * (1 + 1e-5)


def test_saving_keeps_the_optimizer_and_training_goes_on(tmp_path):
    model = make_model(dropout=0.0)
    model.compile()
    model.fit(INPUTS, LABELS, batch_size=4, epochs=2, shuffle=False, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert int(loaded.optimizer.iterations) == int(model.optimizer.iterations) == 4
    assert len(loaded.optimizer.variables) == len(model.optimizer.variables) > 2 * len(model.trainable_weights)
    for one, other in zip(loaded.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(as_numpy(one), as_numpy(other))
    histories = [x.fit(INPUTS, LABELS, batch_size=4, shuffle=False, verbose=0).history for x in (model, loaded)]
    assert set(histories[0]) == set(histories[1]) == {"loss", "token_accuracy", "perplexity"}
    for name, values in histories[0].items():
        np.testing.assert_allclose(histories[1][name], values, rtol=1e-5)
    for one, other in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert int(loaded.optimizer.iterations) == 6


class Unchanged(kt.SmoothedCrossentropy):
    """A subclass may do anything, so Keras's own step runs: the reference of the step on hidden states."""


class Doubled(kt.SmoothedCrossentropy):
    def __call__(self, y_true, y_pred, sample_weight=None):
        return 2.0 * super().__call__(y_true, y_pred, sample_weight)


@keras.saving.register_keras_serializable(package="test_trainer")
class Penalised(kt.Transformer):
    """Adds to its loss the mean square of what the encoder gives."""

    def encode(self, source, source_mask, training=None):
        x = super().encode(source, source_mask, training=training)
        self.add_loss(0.5 * ops.mean(x**2))
        return x


def one_batch(model, loss, **kwargs):
    """The loss reported for one batch, and the weights after it."""
    model.compile(optimizer=keras.optimizers.SGD(0.5), loss=loss, metrics=[], **kwargs)
    return model.train_on_batch(INPUTS, LABELS, return_dict=True)["loss"], [
        as_numpy(w) for w in model.trainable_weights
    ]


@pytest.mark.parametrize("kind", ["regularizer", "add_loss"])
def test_what_is_added_to_the_loss_is_reported_and_trained(kind):
    def make():
        model = (Penalised if kind == "add_loss" else kt.Transformer)(V, dropout=0.0, **SIZES)
        if kind == "regularizer":
            model.target_embedding.embeddings.regularizer = keras.regularizers.L2(0.1)
        return model

    plain, _ = one_batch(make_model(dropout=0.0), kt.SmoothedCrossentropy())
    loss, weights = one_batch(make(), kt.SmoothedCrossentropy())
    expected, expected_weights = one_batch(make(), Unchanged())
    assert loss > plain + 0.1
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    for one, other in zip(weights, expected_weights, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def evaluated(weights=None, **compiled):
    model = make_model(dropout=0.0)
    model.compile(optimizer=keras.optimizers.SGD(0.0), **compiled)
    return model.evaluate(INPUTS, LABELS, sample_weight=weights, batch_size=7, return_dict=True, verbose=0)


@pytest.mark.parametrize(
    "compiled",
    [{"loss": Doubled()}, {"loss": kt.SmoothedCrossentropy(), "loss_weights": [2.0]}],
    ids=["subclass", "weight"],
)
def test_a_loss_that_does_more_is_asked(compiled):
    np.testing.assert_allclose(evaluated(**compiled)["loss"], 2 * evaluated()["loss"], rtol=1e-5)


def test_weighted_metrics_are_weighted():
    weights = np.random.default_rng(0).uniform(0.1, 2, LABELS.shape).astype("float32")
    expected = evaluated(weights)
    logs = evaluated(weights, weighted_metrics=[kt.TokenAccuracy(), kt.Perplexity()])
    assert set(logs) == set(expected) == {"loss", "token_accuracy", "perplexity"}
    for name, value in expected.items():
        np.testing.assert_allclose(logs[name], value, rtol=1e-5)


def test_a_pad_id_of_its_own_is_kept():
    table = log_softmax(as_numpy(make_model()(INPUTS)))
    counted = LABELS != 5
    logs = evaluated(metrics=[kt.TokenAccuracy(pad_id=5)])
    np.testing.assert_allclose(logs["token_accuracy"], (table.argmax(-1) == LABELS)[counted].mean(), rtol=1e-5)
    np.testing.assert_allclose(logs["loss"], evaluated()["loss"], rtol=1e-5)
    likelihood = -np.take_along_axis(table, LABELS[..., None], -1)[..., 0]
    logs = evaluated(loss=kt.SmoothedCrossentropy(0.0, pad_id=5))
    np.testing.assert_allclose(logs["loss"], likelihood[counted].mean(), rtol=1e-5)


def test_metrics_by_name_and_in_a_dict_go_to_keras_as_they_are():
    hits = (as_numpy(make_model()(INPUTS)).argmax(-1) == LABELS).mean()
    np.testing.assert_allclose(evaluated(metrics=["accuracy"])["accuracy"], hits, rtol=1e-5)
    model = make_model()
    model.compile(metrics={"logits": "accuracy"})
    assert model.get_compile_config()["metrics"] == {"logits": "accuracy"}
    with pytest.raises(ValueError, match="metrics"):
        model.compile(metrics="accuracy")


OPTIONS = {
    "run_eagerly": {"run_eagerly": True},
    "steps_per_execution": {"steps_per_execution": 2},
    "jit_compile": {"jit_compile": True},
}


@pytest.mark.parametrize("option", OPTIONS)
def test_options_of_compile_change_no_number(option):
    if keras.backend.backend() == "torch" and option != "run_eagerly":
        pytest.skip("Keras on PyTorch refuses steps_per_execution, and torch.compile takes minutes")
    found = []
    for kwargs in ({}, OPTIONS[option]):
        model = make_model(dropout=0.0)
        model.compile(optimizer=keras.optimizers.SGD(0.5), **kwargs)
        history = model.fit(INPUTS, LABELS, batch_size=4, shuffle=False, epochs=2, verbose=0).history
        logs = model.evaluate(INPUTS, LABELS, batch_size=4, return_dict=True, verbose=0)
        found.append([*history["loss"], *history["perplexity"], *logs.values()])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4)


def test_one_seed_gives_one_training_with_dropout():
    histories = []
    for seed in (1, 1, 2):
        model = make_model(dropout=0.3, seed=seed)
        model.set_weights(make_model().get_weights())  # so that dropout alone can differ
        model.compile(optimizer=keras.optimizers.SGD(0.1))
        histories.append(model.fit(INPUTS, LABELS, batch_size=4, epochs=2, shuffle=False, verbose=0).history["loss"])
    assert histories[0] == histories[1]
    assert histories[0][0] != histories[2][0]


@pytest.mark.parametrize("shape", [(7,), (7, 1)])
@pytest.mark.parametrize("loss", [kt.SmoothedCrossentropy, Unchanged])
def test_a_weight_a_sentence_is_that_of_each_of_its_tokens(shape, loss):
    weights = np.random.default_rng(0).uniform(0.1, 2, 7).astype("float32")
    model = make_model(dropout=0.0)
    model.compile(optimizer=keras.optimizers.SGD(0.0), loss=loss())
    results = [
        model.evaluate(INPUTS, LABELS, sample_weight=x, batch_size=7, return_dict=True, verbose=0)
        for x in (weights.reshape(shape), np.repeat(weights[:, None], 6, axis=1))
    ]
    assert results[0] == pytest.approx(results[1], rel=1e-5)
    history = model.fit(INPUTS, LABELS, sample_weight=weights.reshape(shape), batch_size=7, verbose=0).history
    np.testing.assert_allclose(history["loss"][0], results[1]["loss"], rtol=1e-5)


def test_another_thread_gets_logits_while_a_step_is_under_way():
    model = make_model()
    model.compile()
    shapes = {}

    def call(who):
        shapes[who] = tuple(model(INPUTS).shape)

    with model._scoring.hidden_states():
        thread = threading.Thread(target=call, args=("other",))
        thread.start()
        thread.join()
        call("own")
    call("later")
    assert shapes == {"other": (7, 6, V), "own": (7, 6, 8), "later": (7, 6, V)}


# What fit takes


class Differing(keras.utils.PyDataset):
    """Batches of three shapes."""

    shapes = ((4, 6), (3, 5), (2, 8))

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return make_data(*self.shapes[index], seed=index)


def check_fit(dataset, counted=True):
    model = make_model(dropout=0.0)
    model.compile(optimizer=keras.optimizers.SGD(0.0))
    batches = [Differing()[index] for index in range(3)]
    totals = [expected_logs(as_numpy(model(inputs)), labels, 0.1)["loss"] for inputs, labels in batches]
    tokens = [(labels != 0).sum() for _, labels in batches]
    history = model.fit(dataset, epochs=2, shuffle=False, verbose=0).history
    np.testing.assert_allclose(history["loss"], [np.dot(totals, tokens) / sum(tokens)] * 2, rtol=1e-5)
    if counted:
        assert int(model.optimizer.iterations) == 6


def test_fit_takes_a_py_dataset_of_differing_shapes():
    check_fit(Differing())


@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None, reason="TensorFlow is not installed")
# Keras says so of every tf.data of unknown size.
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_fit_takes_tf_data_of_differing_shapes():
    import tensorflow as tf

    ids = tf.TensorSpec((None, None), "int32")
    dataset = tf.data.Dataset.from_generator(
        lambda: (Differing()[index] for index in range(3)),
        output_signature=({"source": ids, "target": ids}, ids),
    )
    check_fit(dataset.apply(tf.data.experimental.assert_cardinality(3)))
    # Of a dataset whose size is unknown, Keras on TensorFlow counts the attempt that finds the end as an iteration.
    check_fit(dataset, counted=keras.backend.backend() != "tensorflow")


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")
def test_fit_takes_a_torch_data_loader_of_differing_shapes():
    import torch

    batches = [
        ({name: torch.as_tensor(ids) for name, ids in inputs.items()}, torch.as_tensor(labels))
        for inputs, labels in (Differing()[index] for index in range(3))
    ]
    check_fit(torch.utils.data.DataLoader(batches, batch_size=None))


def test_evaluate_and_predict_leave_batches_in_their_epoch():
    texts = ["a dog runs", "two cats see a dog", "a cat"]
    tokenizer = kt.Tokenizer.train(texts, vocabulary_size=280)
    batches = kt.Batches(texts, texts, tokenizer, batch_tokens=64, num_buckets=1, seed=1)  # predict wants one shape
    model = kt.Transformer(tokenizer.vocabulary_size, **SIZES)
    model.compile()
    batches.set_epoch(3)
    model.evaluate(batches, verbose=0)
    assert batches.epoch == 3
    model.predict(batches, verbose=0)
    assert batches.epoch == 3


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_pure_16_bits_train(dtype):
    model = kt.Transformer(V, d_model=8, num_heads=2, num_layers=1, dropout=0.0, seed=1, dtype=dtype)
    model.compile(keras.optimizers.SGD(0.1))
    expected = kt.Transformer(V, d_model=8, num_heads=2, num_layers=1, dropout=0.0, seed=1)
    expected.compile(keras.optimizers.SGD(0.1))
    losses = [[x.train_on_batch(INPUTS, LABELS)[0] for _ in range(2)] for x in (model, expected)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=0.02)


def test_the_first_step_is_traced_once():
    """TensorFlow traces again where a step makes variables: the optimizer's are there before."""
    traced = []

    class Counted(kt.Transformer):
        def train_step(self, *args):
            traced.append(True)
            return super().train_step(*args)

    model = Counted(V, **SIZES)
    model.compile()
    model.train_on_batch(INPUTS, LABELS)
    assert len(traced) == 1


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="PyTorch runs the body of a step each time")
def test_no_step_is_traced_after_the_first_epoch():
    """Batches of two shapes and a validation of one: at most a trace a shape, all in the first epoch."""
    traces, seen = {"train": 0, "test": 0}, []

    class Counted(kt.Transformer):
        def train_step(self, *args):
            traces["train"] += 1
            return super().train_step(*args)

        def test_step(self, *args):
            traces["test"] += 1
            return super().test_step(*args)

    short = [{"source": INPUTS["source"], "target": INPUTS["target"]}, LABELS]
    long = [{key: np.pad(ids, ((0, 0), (0, 2))) for key, ids in short[0].items()}, np.pad(LABELS, ((0, 0), (0, 2)))]

    class TwoShapes(keras.utils.PyDataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            return tuple((short, long)[index % 2])

    model = Counted(V, **SIZES)
    model.compile()
    count = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(dict(traces)))
    model.fit(TwoShapes(), validation_data=tuple(short), epochs=3, verbose=0, callbacks=[count])
    assert 1 <= seen[0]["train"] <= 2 and seen[0]["test"] == 1
    assert seen[1] == seen[2] == seen[0]


def test_the_loss_is_one_metric():
    model = make_model()
    model.compile()
    assert model.metrics_names == ["loss", "token_accuracy", "perplexity"]
    loss, accuracy, perplexity = model.evaluate(INPUTS, LABELS, verbose=0)
    logs = model.evaluate(INPUTS, LABELS, verbose=0, return_dict=True)
    assert [loss, accuracy, perplexity] == pytest.approx([logs[name] for name in model.metrics_names])
    assert len(model.train_on_batch(INPUTS, LABELS)) == 3


class Doubled(kt.Transformer):
    def logits(self, hidden):
        return 2 * super().logits(hidden)


class Squashed(kt.Transformer):
    def call(self, inputs, training=None):
        return 3 * ops.tanh(super().call(inputs, training=training))


@pytest.mark.parametrize("kind", [Doubled, Squashed])
def test_a_subclass_with_other_logits_is_scored_by_them(kind):
    model = kind(V, **SIZES)
    model.compile()
    logs = model.evaluate(INPUTS, LABELS, batch_size=7, verbose=0, return_dict=True)
    expected = expected_logs(model.predict(INPUTS, verbose=0), LABELS, 0.1)
    assert logs == pytest.approx({name: expected[name] for name in logs}, rel=1e-4)


def test_a_train_step_of_ones_own_as_in_keras_guide():
    if keras.backend.backend() != "torch":
        pytest.skip("the guide has a step for each backend; PyTorch's is the shortest")

    class Own(kt.Transformer):
        def train_step(self, data):
            x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
            y_pred = self(x, training=True)
            loss = self.compute_loss(y=y, y_pred=y_pred)
            self.zero_grad()
            loss.backward()
            self.optimizer.apply([v.value.grad for v in self.trainable_weights], self.trainable_weights)
            for metric in self.metrics:
                if metric.name == "loss":
                    metric.update_state(loss)
                else:
                    metric.update_state(y, y_pred)
            return {metric.name: metric.result() for metric in self.metrics}

    own, plain = (kind(V, **SIZES, dropout=0.0) for kind in (Own, kt.Transformer))
    logs = []
    for model in (own, plain):
        model.compile(keras.optimizers.SGD(0.1))
        logs.append(model.train_on_batch(INPUTS, LABELS, return_dict=True))
    assert logs[0] == pytest.approx(logs[1], rel=1e-4)


def test_a_subclass_makes_layers_of_its_own_in_build():
    class Headed(kt.Transformer):
        def build(self, input_shape=None):
            self.head = keras.layers.Dense(V)
            self.head.build((None, None, V))
            super().build(input_shape)

        def call(self, inputs, training=None):
            return self.head(super().call(inputs, training=training))

    model = Headed(V, **SIZES, dropout=0.0)
    model.compile(keras.optimizers.SGD(0.1))
    before = as_numpy(model.head.kernel)
    logs = model.evaluate(INPUTS, LABELS, batch_size=7, verbose=0, return_dict=True)
    expected = expected_logs(model.predict(INPUTS, verbose=0), LABELS, 0.1)
    assert logs == pytest.approx({name: expected[name] for name in logs}, rel=1e-4)
    model.train_on_batch(INPUTS, LABELS)
    assert np.abs(as_numpy(model.head.kernel) - before).max() > 0


def results_in_chunks(chunk_size, dtype):
    """Loss and perplexity of three epochs with accumulation, and what ``evaluate`` says then."""
    model = make_model(dropout=0.0, dtype=dtype)
    optimizer = kt.AccumulateGradients(keras.optimizers.SGD(0.5, clipnorm=1.0), steps=2)
    model.compile(optimizer, kt.SmoothedCrossentropy(0.1, chunk_size=chunk_size))
    history = model.fit(INPUTS, LABELS, batch_size=4, epochs=3, shuffle=False, verbose=0).history
    assert history["loss"][0] - history["loss"][2] > 0.01  # it has trained
    return [*history["loss"], *history["perplexity"], *model.evaluate(INPUTS, LABELS, verbose=0)]


def test_the_size_of_the_losss_chunks_changes_no_number():
    np.testing.assert_allclose(results_in_chunks(5, "float32"), results_in_chunks(1000, "float32"), rtol=1e-5)


def test_chunks_change_little_in_16_bits():
    """Sums of bfloat16 differ in their third digit."""
    chunks, whole = (results_in_chunks(size, "mixed_bfloat16") for size in (5, 1000))
    np.testing.assert_allclose(chunks, whole, rtol=5e-3)


@pytest.mark.parametrize("chunk_size", [0, -3, 2.5])
def test_an_impossible_size_of_chunks_is_refused(chunk_size):
    with pytest.raises(
        ValueError, match=f"chunk_size must be an integer from 1, or None. Received: chunk_size={chunk_size}"
    ):
        kt.SmoothedCrossentropy(chunk_size=chunk_size)


def test_the_size_of_chunks_is_used_and_saved(monkeypatch):
    from keras_transformer import losses

    used, score = [], losses._score_in_chunks

    def noted(*args):
        used.append(args[5])
        return score(*args)

    monkeypatch.setattr(losses, "_score_in_chunks", noted)
    loss = kt.SmoothedCrossentropy.from_config(kt.SmoothedCrossentropy(chunk_size=5).get_config())
    model = make_model()
    model.compile(loss=loss, run_eagerly=keras.backend.backend() != "jax")
    model.train_on_batch(INPUTS, LABELS)
    assert set(used) == {5}
