"""Checks of a model that is about to learn: its first loss, its gradients, and ten pairs by heart."""

import math

import keras
import numpy as np
from keras import ops

from keras_transformer.losses import SmoothedCrossentropy
from keras_transformer.testing.probes import source_and_target
from keras_transformer.testing.recording import RecordGradients
from keras_transformer.testing.report import needs, pitfall
from keras_transformer.testing.scoring import mean_negative_log_likelihood

# A tied model begins up to 1.5 above log V: the decoder's output still resembles the embedding of the token it read.
_ABOVE_LOG_V = 2.0
_PAIRS, _LENGTH = 10, 6
# Without the source a model can get to log(10) / 6 = 0.38 nats a token, the cost of telling ten pairs apart at their beginning.
_LEARNT = 0.1


@pitfall("loss at the start")
def loss_at_start(subject):
    """Whether a new model's loss is far above log V, what guessing costs."""
    needs(subject, "fresh")
    new = subject.fresh()
    source, target = source_and_target(new)
    labels, _ = source_and_target(new, seed=1)
    loss, guessing = mean_negative_log_likelihood(new.run(source, target), labels), math.log(new.vocabulary_size)
    if not loss <= guessing + _ABOVE_LOG_V:
        return (
            f"a new model's loss is {loss:.1f}, guessing costs log V = {guessing:.1f}: initial weights, of embeddings above all, "
            "are too large, or a final norm is missing."
        )
    return None


@pitfall("gradients")
def gradients(subject):
    """Whether each trainable weight gets a gradient that is finite and not zero.

    A bias of keys has none: it adds the same to all scores of a query. Rows of tokens that do not occur have none either, so that
    a table counts as a whole.
    """
    needs(subject, "model")
    source, target = source_and_target(subject)
    labels, _ = source_and_target(subject, seed=1)
    subject.run(source, target)  # builds the model, if that is still to be done
    trainer = _Trainer(subject)
    trainer.compile(RecordGradients(), loss=SmoothedCrossentropy(0.0, pad_id=subject.pad_id), run_eagerly=True)
    trainer.train_on_batch({"source": source, "target": target}, labels)
    for variable, gradient in zip(trainer.trainable_variables, trainer.optimizer.gradients, strict=True):
        if not np.isfinite(gradient).all():
            return f"the gradient of {variable.path} is not finite: look for a softmax over nothing, a root or a log of zero."
        if not gradient.any() and not _is_key_bias(variable.path):
            return f"{variable.path} gets no gradient: it is not used, or something stops the gradient on its way."
    return None


@pitfall("learns ten pairs")
def learns_ten_pairs(subject, steps=400):
    """Whether ten pairs can be learnt by heart. The model gets its weights back."""
    needs(subject, "model")
    source, target = source_and_target(subject, _PAIRS, _LENGTH)
    labels = np.concatenate([target[:, 1:], np.full((_PAIRS, 1), subject.eos_id, "int32")], axis=1)
    subject.run(source, target)  # builds the model, if that is still to be done
    before = subject.model.get_weights()
    try:
        losses = _train(subject, {"source": source, "target": target}, labels, steps)
    finally:
        subject.model.set_weights(before)
    if losses[-1] > _LEARNT or not np.isfinite(losses[-1]):
        return (
            f"after {steps} updates on ten pairs the loss is {losses[-1]:.2f} (before: {losses[0]:.2f}): a model that cannot learn "
            "ten pairs by heart does not read its input, or its gradient is lost or wrong."
        )
    return None


def _train(subject, inputs, labels, steps):
    """Losses of Adam updates, until they are low enough."""
    trainer = _Trainer(subject)
    width = max((weight.shape[-1] for weight in subject.model.weights if "embed" in weight.path), default=64)
    optimizer = keras.optimizers.Adam(min(2e-2, 0.06 / width**0.75), beta_2=0.98, global_clipnorm=1.0)
    trainer.compile(optimizer, loss=SmoothedCrossentropy(0.0, pad_id=subject.pad_id))
    losses = []
    for _ in range(steps):
        trainer.reset_metrics()
        losses.append(float(trainer.train_on_batch(inputs, labels)))
        if losses[-1] < _LEARNT or not np.isfinite(losses[-1]):
            break
    return losses


class _Trainer(keras.Model):
    """A model around somebody's model, with an optimizer and a loss of its own."""

    def __init__(self, subject):
        super().__init__(name="trainer")  # of the class's own name TensorFlow takes no scope
        self.inner = subject.model
        self._subject = subject

    def build(self, input_shape=None):
        self.built = True

    def call(self, inputs):
        return self._subject.logits(inputs["source"], inputs["target"])

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        loss = super().compute_loss(x, y, y_pred, sample_weight, training=training)
        # Keras refuses weights that the loss does not reach, or warns of them; so each gets a gradient, of zero.
        return loss + 0.0 * sum(ops.sum(ops.cast(weight, "float32")) for weight in self.trainable_variables)


def _is_key_bias(path):
    *_, layer, name = ("", *path.split("/"))
    return "bias" in name and "key" in layer and "query" not in layer
