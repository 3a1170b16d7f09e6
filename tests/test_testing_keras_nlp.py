"""No false alarm on a correct model that is not ours: keras-nlp's layers, with masks passed explicitly."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_transformer import SmoothedCrossentropy, testing

keras_nlp = pytest.importorskip("keras_nlp", exc_type=ImportError)

V, D = 20, 8
BATCH = (
    {"source": np.array([[5, 6, 3, 0], [4, 7, 8, 3]]), "target": np.array([[2, 9, 0], [2, 5, 6]])},
    np.array([[9, 3, 0], [5, 6, 3]]),
)


class Foreign(keras.Model):
    """Learned positions, one layer each, an output projection of its own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.source_embedding = keras_nlp.layers.TokenAndPositionEmbedding(V, 64, D)
        self.target_embedding = keras_nlp.layers.TokenAndPositionEmbedding(V, 64, D)
        self.encoder = keras_nlp.layers.TransformerEncoder(16, 2)
        self.decoder = keras_nlp.layers.TransformerDecoder(16, 2)
        self.project = keras.layers.Dense(V)

    def call(self, inputs):
        mask = inputs["source"] != 0
        encoder_output = self.encoder(self.source_embedding(inputs["source"]), padding_mask=mask)
        x = self.decoder(self.target_embedding(inputs["target"]), encoder_output, encoder_padding_mask=mask)
        return self.project(x)

    def step_by_step(self, source, target):
        """What ``call`` gives, by way of keras-nlp's own caches."""
        mask, (rows, length) = source != 0, target.shape
        encoder_output = self.encoder(self.source_embedding(source), padding_mask=mask)
        caches = [ops.zeros((rows, 2, size, 2, D // 2)) for size in (length, source.shape[1])]
        logits = []
        for step in range(length):
            x, *caches = self.decoder(
                self.target_embedding(target[:, step : step + 1], start_index=step),
                encoder_output,
                encoder_padding_mask=mask,
                self_attention_cache=caches[0],
                self_attention_cache_update_index=step,
                cross_attention_cache=caches[1],
                cross_attention_cache_update_index=0 if step == 0 else None,
            )
            logits.append(self.project(x))
        return ops.concatenate(logits, axis=1)

    def attention(self):
        layers = {
            "encoder": self.encoder._self_attention_layer,
            "decoder, self": self.decoder._self_attention_layer,
            "decoder, cross": self.decoder._cross_attention_layer,
        }
        return {name: lambda *qkv, layer=layer: weighted_sum(layer, *qkv) for name, layer in layers.items()}


def weighted_sum(layer, *query_key_value):
    """Of keras.layers.MultiHeadAttention, whose tensors are (B, T, H, K)."""
    query, key, value = (ops.transpose(x, (0, 2, 1, 3)) for x in query_key_value)
    return ops.transpose(layer._compute_attention(query, key, value)[0], (0, 2, 1, 3))


class WithoutMask(Foreign):
    """What happens when nobody passes the mask on."""

    def call(self, inputs):
        encoder_output = self.encoder(self.source_embedding(inputs["source"]))
        return self.project(self.decoder(self.target_embedding(inputs["target"]), encoder_output))


def subject(kind):
    keras.utils.set_random_seed(1)
    model = kind()
    model(BATCH[0])
    return testing.Seq2Seq(
        logits=lambda source, target: model({"source": source, "target": target}),
        vocabulary_size=V,
        model=model,
        loss=SmoothedCrossentropy(0.1),
        label_smoothing=0.1,
        cached_logits=model.step_by_step,
        attention=model.attention(),
        head_width=D // 2,
        fresh=lambda: subject(kind),
        batch=BATCH,
    )


def test_no_false_alarm(monkeypatch):
    monkeypatch.delitem(testing.CHECKS, "learns ten pairs")
    report = testing.check(subject(Foreign))
    assert report.ok and not report.not_checked, report
    assert len(report.results) == 18


def test_a_correct_model_of_another_kind_learns_ten_pairs():
    assert testing.learns_ten_pairs(subject(Foreign)).verdict == "ok"


def test_a_missing_mask_is_found():
    for check in (testing.depends_on_padding, testing.attends_to_source_padding):
        found = check(subject(WithoutMask))
        assert found.verdict == "finding", found
