"""Each pitfall is caught in a model that has it, and none is found in models that have none."""

import dataclasses
import inspect

import keras
import numpy as np
import pytest
from click.testing import CliRunner
from keras import ops

import keras_transformer as kt
from keras_transformer import testing
from keras_transformer.cli import main
from keras_transformer.layers import causal_mask, padding_mask
from keras_transformer.losses import TokenStatistics, token_statistics
from keras_transformer.testing import CHECKS

V = 20
SIZES = {"vocabulary_size": V, "d_model": 8, "num_heads": 2, "num_layers": 1, "seed": 1}
SLOW = "learns ten pairs"  # compiles a training step
GOOD_BATCH = (
    {"source": np.array([[5, 6, 3, 0], [4, 7, 8, 3]]), "target": np.array([[2, 9, 0], [2, 5, 6]])},
    np.array([[9, 3, 0], [5, 6, 3]]),
)


class Mutant(kt.Transformer):
    """A Transformer whose subclasses have one bug each. ``sizes`` go beside those of all."""

    sizes = {}

    @classmethod
    def make(cls):
        return cls(**SIZES | {"dropout": 0.0} | cls.sizes)

    def decode(self, inputs, encoder_output, mask):
        return self.logits(self.decoder(self._embed(self.target_embedding, inputs["target"]), encoder_output, mask))


class WithoutCausalMask(Mutant):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        layer = self.decoder.layers[0]
        layer.call = lambda x, encoder_output, encoder_mask=None, **_: layer.run(
            x, layer.self_attention, lambda y: layer.cross_attention(y, encoder_output, attention_mask=encoder_mask)
        )


class WithoutSourcePositions(Mutant):
    def encode(self, source, source_mask, training=None):
        return self.encoder(self.source_embedding(source), attention_mask=source_mask)


class WithoutTargetPositions(Mutant):
    sizes = {"num_layers": 2}

    def call(self, inputs, training=None):
        mask = padding_mask(inputs["source"])
        x = self.target_embedding(inputs["target"])
        return self.logits(self.decoder(x, self.encode(inputs["source"], mask), mask))


class WithoutSource(Mutant):
    def encode(self, source, source_mask, training=None):
        return ops.zeros_like(super().encode(source, source_mask))


class Constant(Mutant):
    def logits(self, hidden):
        return super().logits(hidden) * 0.0


class WithoutEncoderMask(Mutant):
    def encode(self, source, source_mask, training=None):
        return super().encode(source, None)


class MaskOfTheFirstRow(Mutant):
    def encode(self, source, source_mask, training=None):
        return super().encode(source, ops.repeat(source_mask[:1], source.shape[0], axis=0))


class MasksRolledByARow(Mutant):
    def encode(self, source, source_mask, training=None):
        return super().encode(source, ops.roll(source_mask, 1, axis=0))


class FirstSentenceLeaks(Mutant):
    def encode(self, source, source_mask, training=None):
        x = super().encode(source, source_mask)
        return x + 0.3 * x[:1]


class NotANumberWithoutSource(Mutant):
    """As of a softmax over nothing but -inf."""

    def call(self, inputs, training=None):
        some = ops.any(ops.not_equal(inputs["source"], 0), axis=1)[:, None, None]
        return ops.where(some, super().call(inputs, training), float("nan"))


class WithoutCrossMask(Mutant):
    def call(self, inputs, training=None):
        return self.decode(inputs, self.encode(inputs["source"], padding_mask(inputs["source"])), None)


class NormalisesOverTheBatch(Mutant):
    def encode(self, source, source_mask, training=None):
        x = super().encode(source, source_mask)
        return x - ops.mean(x, axis=0, keepdims=True)


class PositionsByTheRow(Mutant):
    """As of an encoding (T, B, D) added to an input (B, T, D)."""

    def encode(self, source, source_mask, training=None):
        rows = ops.cast(ops.arange(source.shape[0]), "float32")  # every token of row i stands at position i
        x = self.source_embedding(source) + ops.sin(rows)[:, None, None]
        return self.encoder(x, attention_mask=source_mask)


class SourceMaskTooShort(Mutant):
    def call(self, inputs, training=None):
        length = inputs["source"].shape[1]
        mask = (ops.arange(length) < length - 1)[None, None, None]
        return self.decode(inputs, self.encode(inputs["source"], mask), mask)


class CausalWithoutEncoder(Mutant):
    """Where the encoder mixes all words this could not be told."""

    def call(self, inputs, training=None):
        encoded = self.source_embedding(inputs["source"])
        return self.decode(inputs, encoded, causal_mask(inputs["source"].shape[1]))


class AlwaysDrops(Mutant):
    sizes = {"dropout": 0.5}

    def _embed(self, *args, **kwargs):
        return super()._embed(*args, **kwargs | {"training": True})


class UnscaledAttention(Mutant):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        layer = self.decoder.layers[0].cross_attention
        plain = layer._weighted_sum
        layer._weighted_sum = lambda query, *rest, **options: plain(query * query.shape[-1] ** 0.5, *rest, **options)


class ScaledTwice(Mutant):
    """Once in the projection, once where it belongs."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        layer = self.encoder.layers[0].self_attention
        plain = layer.project
        layer.project = lambda x: [plain(x)[0] * 4**-0.5, *plain(x)[1:]]


class DeadValueBias(Mutant):
    """Of the fused bias of keys and values, no gradient reaches the half of the values."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        layer = self.decoder.layers[0].cross_attention
        split = layer.project_encoder

        def project_encoder(encoder_output):
            key, value = split(encoder_output)
            bias = ops.reshape(ops.convert_to_tensor(layer.key_value.bias)[8:], (1, 2, 1, 4))
            return [key, value - bias + ops.stop_gradient(bias)]

        layer.project_encoder = project_encoder


class AveragesOverAllPositions(Mutant):
    """In training; its loss function is right."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        loss = loss * ops.mean(ops.cast(ops.not_equal(y, 0), "float32"))
        self._scoring.metrics[0].reset_state()
        self._scoring.metrics[0].update_from_statistics(TokenStatistics(loss, loss, loss, ops.ones(())))
        return loss


class CacheWithoutPositions(Mutant):
    def decode_step(self, target, cache, step, source_mask):
        x, cache = self.decoder.step(self._embed(self.target_embedding, target[:, None]), cache, step, source_mask)
        return self.logits(x)[:, 0], cache


class LargeEmbeddings(Mutant):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        table = self.target_embedding.embeddings
        table.assign(table * 8**0.5 * 4)


class EncoderCutOff(Mutant):
    def encode(self, source, source_mask, training=None):
        return ops.stop_gradient(super().encode(source, source_mask))


class GradientOfRootOfZero(Mutant):
    def logits(self, hidden):
        return super().logits(hidden) * (1.0 + ops.sqrt(ops.sum(hidden * 0.0, axis=-1, keepdims=True)))


class OneAheadSmoothing(kt.SmoothedCrossentropy):
    """Spreads e over the V - 1 others."""

    def __call__(self, y_true, y_pred, sample_weight=None):
        size = y_pred.shape[-1]
        e = self.label_smoothing * size / (size - 1)
        return token_statistics(y_pred, y_true, e, self.pad_id).mean_loss


MUTANTS = {
    "logits are finite": [NotANumberWithoutSource],
    "looks ahead": [WithoutCausalMask],
    "ignores source order": [WithoutSourcePositions, PositionsByTheRow],
    "ignores target order": [WithoutTargetPositions],
    "ignores the source": [WithoutSource],
    "same output": [Constant],
    "depends on padding": [WithoutEncoderMask, WithoutCrossMask, MaskOfTheFirstRow, MasksRolledByARow],
    "attends to source padding": [WithoutCrossMask, WithoutEncoderMask, MasksRolledByARow],
    "misses part of the source": [SourceMaskTooShort, CausalWithoutEncoder],
    "mixes sentences": [NormalisesOverTheBatch, FirstSentenceLeaks, PositionsByTheRow],
    "random at inference": [AlwaysDrops],
    "attention scaling": [UnscaledAttention, ScaledTwice],
    "cached decoding": [CacheWithoutPositions],
    "loss at the start": [LargeEmbeddings],
    "gradients": [EncoderCutOff, GradientOfRootOfZero, DeadValueBias],
    "loss counts padding": [AveragesOverAllPositions],
}
LOSSES = {
    "loss counts padding": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    "label smoothing": OneAheadSmoothing(0.1),
}


@pytest.mark.parametrize(("name", "mutant"), [(name, mutant) for name in MUTANTS for mutant in MUTANTS[name]])
def test_a_mutant_is_caught(name, mutant):
    found = CHECKS[name](mutant.make())
    assert found.verdict == "finding", found
    assert found.text.endswith(".")


def test_what_is_said_of_a_mutant():
    """The sentence tells where: which attention is not scaled, from which step the cache is wrong, which weight has no gradient."""
    assert "decoder layer 0, cross-attention scales scores by 1 where 1 / sqrt(K) is 0.5" in str(
        testing.attention_scaling(UnscaledAttention.make())
    )
    assert "from step 1 on" in testing.cached_decoding(CacheWithoutPositions.make()).text
    assert "encoder/layer_0" in testing.gradients(EncoderCutOff.make()).text
    assert "is not finite" in testing.gradients(GradientOfRootOfZero.make()).text
    assert "the part 'value' of" in testing.gradients(DeadValueBias.make()).text
    assert "where a source is padding alone" in testing.logits_are_finite(NotANumberWithoutSource.make()).text
    assert testing.looks_ahead(FirstSentenceLeaks.make()).verdict == "ok"
    assert (
        "source token 1 of 8 changes nothing at target position 0"
        in testing.misses_part_of_the_source(CausalWithoutEncoder.make()).text
    )
    assert "source token 7 of 8" in testing.misses_part_of_the_source(SourceMaskTooShort.make()).text
    assert "equal sentences" in testing.mixes_sentences(PositionsByTheRow.make()).text


def test_dropout_is_one_finding(monkeypatch):
    """What is random would seem to look ahead, to mix sentences, to depend on padding."""
    monkeypatch.delitem(CHECKS, SLOW)
    report = testing.check(AlwaysDrops.make())
    assert [result.check for result in report.findings] == ["random at inference"], report
    assert "random at inference" in testing.looks_ahead(AlwaysDrops.make()).text


@pytest.mark.parametrize("updates", [200, pytest.param(400, marks=pytest.mark.deep)])
def test_a_mutant_that_cannot_learn_is_caught(updates, monkeypatch):
    """A correct model of this size has learnt by then: see test_a_correct_model_learns_ten_pairs_and_gets_its_weights_back."""
    monkeypatch.setattr(testing.learning, "_UPDATES", updates)
    found = CHECKS[SLOW](WithoutSource.make())
    assert found.verdict == "finding" and f"after {updates} updates" in found.text


@pytest.mark.parametrize("name", LOSSES)
def test_a_wrong_loss_is_caught(name):
    subject = dataclasses.replace(
        testing.adapter.adapt(kt.Transformer(**SIZES)), loss=LOSSES[name], label_smoothing=0.1, training_loss=None
    )
    found = CHECKS[name](subject)
    assert found.verdict == "finding", found
    if name == "label smoothing":
        assert "it spreads e over the V - 1 others" in found.text


@pytest.mark.parametrize("vocabulary_size", [50, 32_000])
def test_smoothing_over_the_others_is_told_where_v_is_large(vocabulary_size):
    """Given as a function, and as what training reports."""
    model = testing.adapter.adapt(kt.Transformer(**SIZES | {"vocabulary_size": vocabulary_size}))
    given = dataclasses.replace(model, loss=OneAheadSmoothing(0.1), label_smoothing=0.1, training_loss=None)
    assert "it spreads e over the V - 1 others" in testing.label_smoothing(given).text
    assert testing.label_smoothing(dataclasses.replace(given, loss=kt.SmoothedCrossentropy(0.1))).verdict == "ok"
    if vocabulary_size == 50:  # logits of a new model are too flat for more

        def training_loss(inputs, labels):
            return float(OneAheadSmoothing(0.1)(labels, model.run(inputs["source"], inputs["target"])))

        reported = dataclasses.replace(model, loss=None, training_loss=training_loss)
        assert "it spreads e over the V - 1 others" in testing.label_smoothing(reported).text


@pytest.mark.parametrize("over", ["tokens", "sentences", "nothing"])
def test_a_loss_may_be_a_mean_or_a_sum(over):
    def loss(labels, logits):
        statistics = token_statistics(logits, labels, 0.1)
        return statistics.loss / {"tokens": statistics.tokens, "sentences": labels.shape[0], "nothing": 1}[over]

    model = testing.adapter.adapt(kt.Transformer(**SIZES))
    subject = dataclasses.replace(model, loss=loss, label_smoothing=0.1, training_loss=None)
    assert testing.label_smoothing(subject).verdict == testing.loss_counts_padding(subject).verdict == "ok"
    assert testing.label_smoothing(dataclasses.replace(subject, label_smoothing=0.2)).verdict == "finding"


def test_sides_of_different_lengths():
    subject = dataclasses.replace(testing.adapter.adapt(kt.Transformer(**SIZES)), source_length=6, target_length=9)
    for look in (testing.loss_at_start, testing.loss_counts_padding, testing.label_smoothing):
        assert look(subject).verdict == "ok", look(subject)
    assert testing.loss_at_start(dataclasses.replace(subject, fresh=lambda: subject)).verdict == "ok"


def test_a_loss_that_does_not_smooth_is_told():
    model = testing.adapter.adapt(kt.Transformer(**SIZES))
    subject = dataclasses.replace(model, loss=kt.SmoothedCrossentropy(0.0), label_smoothing=0.1)
    assert "it does not smooth at all" in testing.label_smoothing(subject).text


def test_a_label_that_keeps_its_whole_weight_is_told():
    """1 on the label and e / V on all V, as where the smoothed part is added to the plain loss."""

    def loss(labels, logits):
        smoothed, plain = (token_statistics(logits, labels, e) for e in (0.1, 0.0))
        return smoothed.mean_loss + 0.1 * plain.mean_loss

    model = testing.adapter.adapt(kt.Transformer(**SIZES))
    subject = dataclasses.replace(model, loss=loss, label_smoothing=0.1, training_loss=None)
    assert testing.label_smoothing(subject).verdict == "finding"


def test_a_target_that_is_not_shifted_is_caught():
    inputs, labels = GOOD_BATCH
    model = testing.adapter.adapt(kt.Transformer(**SIZES))
    seen = dataclasses.replace(model, batch=(inputs | {"target": labels}, labels))
    assert "shift the target by one" in testing.target_not_shifted(seen).text
    two_ahead = dataclasses.replace(model, batch=(inputs, np.array([[3, 0, 0], [6, 3, 0]])))
    assert "not the target one position ahead" in testing.target_not_shifted(two_ahead).text
    endless = (
        {"source": inputs["source"], "target": np.array([[2, 9, 0], [2, 5, 6]])},
        np.array([[9, 7, 0], [5, 6, 8]]),
    )
    assert "never learns to stop" in testing.target_not_shifted(dataclasses.replace(model, batch=endless)).text
    assert testing.target_not_shifted(dataclasses.replace(model, batch=GOOD_BATCH)).verdict == "ok"


@pytest.mark.parametrize("norm", ["post", "pre"])
@pytest.mark.parametrize("tie_embeddings", ["all", None])
def test_no_false_alarm_on_a_correct_model(norm, tie_embeddings, monkeypatch):
    monkeypatch.delitem(CHECKS, SLOW)
    model = kt.Transformer(**SIZES, norm=norm, tie_embeddings=tie_embeddings)
    report = testing.check(model, batch=GOOD_BATCH)
    assert report.ok and not report.not_checked, report
    assert len(report.results) == len(CHECKS) == 18


def test_a_correct_model_learns_ten_pairs_and_gets_its_weights_back(monkeypatch):
    monkeypatch.setattr(testing.learning, "_UPDATES", 200)
    model = kt.Transformer(**SIZES)
    before = model.get_weights()
    assert testing.learns_ten_pairs(model).verdict == "ok"
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.deep
@pytest.mark.parametrize(("norm", "tie_embeddings"), [("post", None), ("pre", "all"), ("pre", None)])
@pytest.mark.parametrize("sizes", [{}, {"d_model": 64, "num_layers": 2}])
def test_no_false_alarm_when_learning(norm, tie_embeddings, sizes):
    model = kt.Transformer(**SIZES | sizes, norm=norm, tie_embeddings=tie_embeddings)
    assert testing.learns_ten_pairs(model).verdict == "ok"


def test_a_trained_or_compiled_model_is_left_as_it_was():
    model = kt.Transformer(**SIZES)
    model.compile()
    optimizer, before = model.optimizer, model.get_weights()
    for name in ("attends to source padding", "gradients"):
        assert CHECKS[name](model).verdict == "ok"
    assert model.optimizer is optimizer and int(optimizer.iterations) == 0
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_is_not_given_is_not_checked():
    """With logits alone; never counted as passed."""
    model = kt.Transformer(**SIZES)
    report = kt.testing.check(testing.Seq2Seq(lambda s, t: model({"source": s, "target": t}), vocabulary_size=V))
    assert {result.check for result in report.not_checked} == {
        "attends to source padding",
        "attention scaling",
        "cached decoding",
        "target not shifted",
        "loss counts padding",
        "label smoothing",
        "loss at the start",
        "gradients",
        "learns ten pairs",
    }
    assert report.ok
    assert str(report).splitlines()[-1] == "10 ok, 0 found, 9 not checked"
    assert "not checked  label smoothing" in str(report)


def test_another_kind_of_model_is_told_how():
    with pytest.raises(ValueError, match=r"Received: Sequential\. Wrap it: testing\.Seq2Seq\(logits="):
        testing.check(keras.Sequential())
    with pytest.raises(ValueError, match="three ids beside pad, bos and eos"):
        testing.Seq2Seq(lambda source, target: None, vocabulary_size=5)


def test_what_does_not_fit_the_adapter_is_told():
    model = kt.Transformer(**SIZES)
    call = lambda source, target: model({"source": source, "target": target})  # noqa: E731
    found = testing.looks_ahead(testing.Seq2Seq(call, vocabulary_size=V - 1))
    assert found.verdict == "not checked" and "(8, 8, 19) here. Received: (8, 8, 20); vocabulary_size is" in found.text
    inputs, labels = GOOD_BATCH
    for batch in ((tuple(inputs.values()), labels), ({"input": labels}, labels), labels):
        with pytest.raises(ValueError, match=r'batch must be \(\{"source": \(B, S\), .* Received: '):
            testing.check(model, batch=batch)
    arrays = lambda *ids: ops.convert_to_numpy(call(*ids))  # noqa: E731  as model.predict gives
    found = testing.gradients(testing.Seq2Seq(arrays, vocabulary_size=V, model=model))
    assert found.verdict == "not checked"
    tensors = {name: ops.convert_to_tensor(ids) for name, ids in inputs.items()}, ops.convert_to_tensor(labels)
    subject = testing.Seq2Seq(call, vocabulary_size=V, batch=tensors)
    assert testing.target_not_shifted(subject).verdict == "ok"


def test_what_a_model_raises_is_not_checked():
    """As one of fixed lengths, whose lengths the adapter can say; and results come one by one."""

    def logits(source, target):
        if source.shape[1] != 24 or target.shape[1] != 20:
            raise ValueError(f"expected 24 and 20, got {source.shape[1]}, {target.shape[1]}\nand more")
        return ops.one_hot((ops.cumsum(target, axis=1) + source[:, :1] + 3 * source[:, 1:2]) % V, V)

    subject = testing.Seq2Seq(logits, vocabulary_size=V)
    lines = []
    report = testing.check(subject, echo=lines.append)
    assert len(report.not_checked) == len(CHECKS) and lines == str(report).splitlines()[:-1]
    assert not report.ok  # nothing was found, as nothing was looked for
    assert testing.looks_ahead(subject).text == "raised ValueError: expected 24 and 20, got 8, 8"
    sized = dataclasses.replace(subject, source_length=24, target_length=20)
    for name in (
        "looks ahead",
        "ignores source order",
        "ignores target order",
        "ignores the source",
        "mixes sentences",
    ):
        assert CHECKS[name](sized).verdict == "ok", name
    assert CHECKS["depends on padding"](sized).text.startswith("raised ValueError")
    with pytest.raises(ValueError, match="rows of four ids and more"):
        dataclasses.replace(subject, target_length=3)


def test_logits_of_another_shape_pass_nothing():
    subject = testing.Seq2Seq(lambda source, target: ops.zeros((target.shape[0], V)), vocabulary_size=V)
    assert not testing.check(subject).ok and "must have the shape" in testing.logits_are_finite(subject).text


def test_what_a_layer_raises_is_told_too():
    """Keras says first which layer it was."""

    class Raises(keras.layers.Layer):
        def call(self, ids):
            raise ValueError("no such id\nand more")

    found = testing.looks_ahead(testing.Seq2Seq(lambda source, target: Raises()(target), vocabulary_size=V))
    assert found.text == "raised ValueError: Exception encountered when calling Raises.call(). no such id"


@pytest.mark.parametrize("value", [-1e9, -float("inf")])
def test_an_id_that_is_forbidden_hides_nothing(value):
    """As the padding id's logit in Marian: no false alarm, and no leak that passes under its scale."""
    forbids = ops.convert_to_tensor(np.where(np.arange(V) == 0, value, 0.0).astype("float32"))

    class Forbids(kt.Transformer):
        def logits(self, hidden):
            return super().logits(hidden) + forbids

    class Leaks(WithoutCausalMask):
        def logits(self, hidden):
            return super().logits(hidden) + forbids

    model = Forbids(**SIZES)
    for name, look in CHECKS.items():
        found = look(model) if name != SLOW else None
        if name in ("loss counts padding", "label smoothing"):  # a mean over V with such a logit is none
            assert found.verdict == ("ok" if value == -1e9 else "not checked"), found
        elif found is not None:
            assert found.verdict == ("not checked" if name == "target not shifted" else "ok"), found
    assert testing.looks_ahead(Leaks.make()).verdict == "finding"


def test_logits_that_are_no_numbers_are_one_finding():
    subject = testing.Seq2Seq(lambda source, target: ops.zeros((*target.shape, V)) + float("nan"), vocabulary_size=V)
    report = testing.check(subject)
    assert [found.check for found in report.findings] == ["logits are finite"]
    assert "see the check for that" in testing.looks_ahead(subject).text


class Foreign(keras.Model):
    """Written out: one layer of attention each, with options for what correct models do otherwise than ours."""

    def __init__(
        self, relative=False, positions=V, log_probabilities=False, gate="ones", source_table="embedding", **kwargs
    ):
        super().__init__(**kwargs)
        normal = keras.initializers.RandomNormal(stddev=0.5, seed=1)
        self.relative, self.log_probabilities = relative, log_probabilities
        self.table = self.add_weight(shape=(V, 8), initializer=normal, name="embedding")
        self.source_table = self.add_weight(shape=(V, 8), initializer=normal, name=source_table)
        if relative:
            self.bias = self.add_weight(shape=(64,), initializer=normal, name="bias_of_distances")
        else:
            self.places = self.add_weight(shape=(positions, 8), initializer=normal, name="position_embedding")
        self.gates = [self.add_weight(shape=(), initializer=gate, name=f"gate_{number}") for number in range(3)]
        self.projection = self.add_weight(shape=(3, 8, 8), initializer=normal, name="projection")
        self.built = True

    def call(self, inputs):
        source, target = inputs["source"], inputs["target"]
        real = ops.not_equal(source, 0)[:, None]  # (B, 1, S)
        x = self.embed(self.source_table, source)
        encoded = self.attended(0, x, x, real)
        x = self.embed(self.table, target)
        steps = ops.arange(x.shape[1])
        x = self.attended(1, x, x, (steps[:, None] >= steps)[None])
        logits = ops.matmul(self.attended(2, x, encoded, real, distances=False), ops.transpose(self.table))
        return ops.log_softmax(logits) if self.log_probabilities else logits

    def embed(self, table, ids):
        x = ops.take(table, ids, axis=0)
        return x if self.relative else x + ops.convert_to_tensor(self.places)[: ids.shape[1]]

    def attended(self, number, x, keys, mask, distances=True):
        scores = ops.matmul(ops.matmul(x, self.projection[number]), ops.transpose(keys, (0, 2, 1))) * 8**-0.5
        if self.relative and distances:
            steps = ops.arange(x.shape[1])
            scores = scores + ops.take(self.bias, 32 + steps[:, None] - steps, axis=0)
        weights = ops.softmax(ops.where(mask, scores, -1e9), axis=-1)
        return x + self.gates[number] * ops.matmul(weights, keys)


def foreign(**options):
    keras.utils.set_random_seed(1)
    model = Foreign(**options)
    return testing.Seq2Seq(
        lambda source, target: model({"source": source, "target": target}), vocabulary_size=V, model=model
    )


@pytest.mark.parametrize(
    ("options", "not_checked"),
    [
        ({}, set()),  # V positions: a table that looks like one of tokens
        ({"positions": 64, "log_probabilities": True}, {"attends to source padding"}),  # whose normaliser any row moves
        ({"relative": True}, {"ignores target order"}),
        (
            {"gate": "zeros"},
            {"ignores the source", "ignores source order", "misses part of the source", "attends to source padding"},
        ),  # ReZero
    ],
)
def test_no_false_alarm_on_correct_models_of_other_kinds(options, not_checked, monkeypatch):
    monkeypatch.delitem(CHECKS, SLOW)
    report = testing.check(foreign(**options))
    assert report.ok, report
    lacks = {"attention scaling", "cached decoding", "target not shifted", "loss counts padding", "label smoothing"}
    assert {result.check for result in report.not_checked} - lacks - {"loss at the start"} <= not_checked, report


def test_source_padding_is_looked_for_in_the_sources_own_table():
    """Where that has another name there is nothing to tell by; the target's, which has the right one, says nothing."""
    assert testing.attends_to_source_padding(foreign()).verdict == "ok"
    found = testing.attends_to_source_padding(foreign(source_table="vectors_of_words"))
    assert found.verdict == "not checked" and "of the source" in found.text


def test_relative_positions():
    """A decoder of one layer without any is told from them, unless it is said that there shall be some."""
    model = foreign(relative=True)
    assert "positions are relative, or there are none" in testing.ignores_target_order(model).text
    model.model.bias.assign(np.zeros(64))
    model.model.bias.trainable = False  # else it is a branch that begins at zero
    assert testing.ignores_target_order(model).verdict == "finding"
    assert testing.ignores_source_order(model).verdict == "finding"


def test_an_adapter_whose_weights_are_new_has_gradients():
    """LoRA's second factor begins at zero, so that the first has no gradient there."""
    model = kt.Transformer(**SIZES)
    model.decoder.layers[0].cross_attention.query.enable_lora(2)
    assert testing.gradients(model).verdict == "ok"


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_under_mixed_precision(policy, monkeypatch):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = kt.Transformer(**SIZES)
        for name, look in CHECKS.items():
            if name not in (SLOW, "target not shifted", "misses part of the source"):
                assert look(model).verdict == "ok", look(model)
        assert testing.misses_part_of_the_source(model).verdict == "not checked"  # what it would see is within rounding
    finally:
        keras.config.set_dtype_policy(before)


@pytest.mark.parametrize("width", [8, 16])
def test_attention_that_fixed_its_scale_when_it_was_made(width):
    """keras.layers.MultiHeadAttention: right at its own width, wrong at another, not checked where none is said."""
    layer = keras.layers.MultiHeadAttention(2, 8)
    layer.build((None, None, 16), (None, None, 16))

    def attend(query, key, value):
        query, key, value = (ops.transpose(x, (0, 2, 1, 3)) for x in (query, key, value))  # Keras: (B, T, H, K)
        return ops.transpose(layer._compute_attention(query, key, value)[0], (0, 2, 1, 3))

    subject = testing.Seq2Seq(lambda *_: None, vocabulary_size=V, attention={"attention": attend})
    assert "needs head_width" in testing.attention_scaling(subject).text
    found = testing.attention_scaling(dataclasses.replace(subject, head_width=width))
    assert found.verdict == ("ok" if width == 8 else "finding"), found


def test_the_shift_of_packed_batches_and_of_padding():
    """Where a pair begins there is bos, which is no label; and of padding alone nothing can be said."""
    target = np.array([[2, 9, 5, 2, 7, 0]])
    labels = np.array([[9, 5, 3, 7, 3, 0]])
    segments = np.array([[1, 1, 1, 2, 2, 0]])
    model = testing.adapter.adapt(kt.Transformer(**SIZES))
    batch = lambda target: ({"source": target, "target": target, "target_segments": segments}, labels)  # noqa: E731
    assert testing.target_not_shifted(dataclasses.replace(model, batch=batch(target))).verdict == "ok"
    wrong = dataclasses.replace(model, batch=batch(np.array([[2, 9, 5, 2, 8, 0]])))
    assert testing.target_not_shifted(wrong).verdict == "finding"
    empty = dataclasses.replace(model, batch=({"source": target, "target": 0 * target}, 0 * labels))
    assert testing.target_not_shifted(empty).verdict == "not checked"


def test_a_check_takes_a_model():
    for name, look in CHECKS.items():
        assert list(inspect.signature(look).parameters) == ["model"], name


def test_the_command_line_checks_a_saved_model(tmp_path, monkeypatch):
    for slow in (SLOW, "gradients"):
        monkeypatch.delitem(CHECKS, slow)
    tokenizer = kt.Tokenizer.train(["a dog runs", "ein Hund rennt"], vocabulary_size=300)
    model = kt.Transformer(**SIZES | {"vocabulary_size": tokenizer.vocabulary_size})
    kt.Translator(model, tokenizer).save(tmp_path / "good")
    result = CliRunner().invoke(main, ["check", str(tmp_path / "good")])
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == "17 ok, 0 found, 0 not checked"
    assert "said of this package's training" in result.stderr
    plain = kt.Transformer.encode
    monkeypatch.setattr(kt.Transformer, "encode", lambda *args, **kwargs: ops.zeros_like(plain(*args, **kwargs)))
    result = CliRunner().invoke(main, ["check", str(tmp_path / "good")])
    assert result.exit_code == 1
    assert "finding      ignores the source" in result.stdout
    result = CliRunner().invoke(main, ["check", str(tmp_path / "good"), "--target", "a"])
    assert result.exit_code == 2 and "Text needs both sides" in result.output


def test_a_branch_at_zero_is_no_finding():
    """But it is not passed either: cut off at these weights alone."""
    model = kt.Transformer(**SIZES)
    cut_off = model.decoder.layers[0].cross_attention.output_projection
    for weight in (cut_off.kernel, cut_off.bias):
        weight.assign(np.zeros(weight.shape))
    found = testing.ignores_source(model)
    assert found.verdict == "not checked" and "begins at zero" in found.text
    np.testing.assert_array_equal(ops.convert_to_numpy(cut_off.kernel), 0)
