"""No false alarm on a correct model that is not ours: keras-nlp's layers, with masks passed explicitly."""

import keras
import pytest

from keras_transformer import SmoothedCrossentropy, testing

keras_nlp = pytest.importorskip("keras_nlp", exc_type=ImportError)

V, D = 20, 8


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


class WithoutMask(Foreign):
    """What happens when nobody passes the mask on."""

    def call(self, inputs):
        encoder_output = self.encoder(self.source_embedding(inputs["source"]))
        return self.project(self.decoder(self.target_embedding(inputs["target"]), encoder_output))


def subject(kind):
    keras.utils.set_random_seed(1)
    model = kind()
    return testing.Seq2Seq(
        logits=lambda source, target: model({"source": source, "target": target}),
        vocabulary_size=V,
        model=model,
        loss=SmoothedCrossentropy(0.1),
        label_smoothing=0.1,
        fresh=lambda: subject(kind),
    )


def test_no_false_alarm(monkeypatch):
    monkeypatch.delitem(testing.CHECKS, "learns ten pairs")
    report = testing.check(subject(Foreign))
    assert report.ok, report
    assert {result.check for result in report.not_checked} == {
        "attention scaling",
        "cached decoding",
        "target not shifted",
    }


@pytest.mark.deep
def test_no_false_alarm_when_learning():
    assert testing.learns_ten_pairs(subject(Foreign)).verdict == "ok"


def test_a_missing_mask_is_found():
    for check in (testing.depends_on_padding, testing.attends_to_source_padding):
        found = check(subject(WithoutMask))
        assert found.verdict == "finding", found
