"""Each pitfall is caught in a model that has it, and none is found in models that have none."""

import dataclasses

import keras
import numpy as np
import pytest
from click.testing import CliRunner
from keras import ops

import keras_transformer as kt
from keras_transformer import testing
from keras_transformer.cli import main
from keras_transformer.layers import padding_mask
from keras_transformer.losses import token_statistics
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


class WithoutCrossMask(Mutant):
    def call(self, inputs, training=None):
        return self.decode(inputs, self.encode(inputs["source"], padding_mask(inputs["source"])), None)


class NormalisesOverTheBatch(Mutant):
    def encode(self, source, source_mask, training=None):
        x = super().encode(source, source_mask)
        return x - ops.mean(x, axis=0, keepdims=True)


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
    "looks ahead": [WithoutCausalMask],
    "ignores source order": [WithoutSourcePositions],
    "ignores target order": [WithoutTargetPositions],
    "ignores the source": [WithoutSource],
    "same output": [Constant],
    "depends on padding": [WithoutEncoderMask, WithoutCrossMask],
    "attends to source padding": [WithoutCrossMask, WithoutEncoderMask],
    "mixes sentences": [NormalisesOverTheBatch],
    "random at inference": [AlwaysDrops],
    "attention scaling": [UnscaledAttention],
    "cached decoding": [CacheWithoutPositions],
    "loss at the start": [LargeEmbeddings],
    "gradients": [EncoderCutOff, GradientOfRootOfZero],
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
    assert "decoder layer 0, cross-attention scales scores by 1 where 1 / sqrt(K) is 0.25" in str(
        testing.attention_scaling(UnscaledAttention.make())
    )
    assert "from step 1 on" in testing.cached_decoding(CacheWithoutPositions.make()).text
    assert "encoder/layer_0" in testing.gradients(EncoderCutOff.make()).text
    assert "is not finite" in testing.gradients(GradientOfRootOfZero.make()).text


@pytest.mark.deep
def test_a_mutant_that_cannot_learn_is_caught():
    found = CHECKS[SLOW](WithoutSource.make())
    assert found.verdict == "finding" and "after 400 updates" in found.text


@pytest.mark.parametrize("name", LOSSES)
def test_a_wrong_loss_is_caught(name):
    subject = dataclasses.replace(
        testing.adapter.adapt(kt.Transformer(**SIZES)), loss=LOSSES[name], label_smoothing=0.1
    )
    found = CHECKS[name](subject)
    assert found.verdict == "finding", found
    if name == "label smoothing":
        assert "it spreads e over the V - 1 others" in found.text


def test_a_loss_that_does_not_smooth_is_told():
    model = testing.adapter.adapt(kt.Transformer(**SIZES))
    subject = dataclasses.replace(model, loss=kt.SmoothedCrossentropy(0.0), label_smoothing=0.1)
    assert "it does not smooth at all" in testing.label_smoothing(subject).text


def test_a_target_that_is_not_shifted_is_caught():
    inputs, labels = GOOD_BATCH
    model = testing.adapter.adapt(kt.Transformer(**SIZES))
    seen = dataclasses.replace(model, batch=(inputs | {"target": labels}, labels))
    assert "shift the target by one" in testing.target_not_shifted(seen).text
    two_ahead = dataclasses.replace(model, batch=(inputs, np.array([[3, 0, 0], [6, 3, 0]])))
    assert "not the target one position ahead" in testing.target_not_shifted(two_ahead).text
    assert testing.target_not_shifted(dataclasses.replace(model, batch=GOOD_BATCH)).verdict == "ok"


@pytest.mark.parametrize("norm", ["post", "pre"])
@pytest.mark.parametrize("tie_embeddings", ["all", None])
def test_no_false_alarm_on_a_correct_model(norm, tie_embeddings, monkeypatch):
    monkeypatch.delitem(CHECKS, SLOW)
    model = kt.Transformer(**SIZES, norm=norm, tie_embeddings=tie_embeddings)
    report = testing.check(model, batch=GOOD_BATCH)
    assert report.ok and not report.not_checked, report
    assert len(report.results) == len(CHECKS) == 16


def test_a_correct_model_learns_ten_pairs_and_gets_its_weights_back():
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
    assert str(report).splitlines()[-1] == "8 ok, 0 found, 9 not checked"
    assert "not checked  label smoothing" in str(report)


def test_another_kind_of_model_is_told_how():
    with pytest.raises(ValueError, match=r"Received: Sequential\. Wrap it: testing\.Seq2Seq\(logits="):
        testing.check(keras.Sequential())
    with pytest.raises(ValueError, match="three ids beside pad, bos and eos"):
        testing.Seq2Seq(lambda source, target: None, vocabulary_size=5)


def test_the_command_line_checks_a_saved_model(tmp_path, monkeypatch):
    for slow in (SLOW, "gradients"):
        monkeypatch.delitem(CHECKS, slow)
    tokenizer = kt.Tokenizer.train(["a dog runs", "ein Hund rennt"], vocabulary_size=300)
    model = kt.Transformer(**SIZES | {"vocabulary_size": tokenizer.vocabulary_size})
    kt.Translator(model, tokenizer).save(tmp_path / "good")
    result = CliRunner().invoke(main, ["check", str(tmp_path / "good")])
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == "15 ok, 0 found, 0 not checked"
    # A model that was cut off from its source: what attention to it gives is zeros.
    cut_off = model.decoder.layers[0].cross_attention.output_projection
    for weight in (cut_off.kernel, cut_off.bias):
        weight.assign(np.zeros(weight.shape))
    kt.Translator(model, tokenizer).save(tmp_path / "bad")
    result = CliRunner().invoke(main, ["check", str(tmp_path / "bad")])
    assert result.exit_code == 1
    assert "finding      ignores the source" in result.stdout
