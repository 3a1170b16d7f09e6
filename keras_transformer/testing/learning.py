"""Checks of a model that is about to learn: its first loss, its gradients, and ten pairs by heart."""

import math

import keras
import numpy as np
from keras import ops

from keras_transformer.losses import SmoothedCrossentropy
from keras_transformer.schedules import WarmupInverseSqrt
from keras_transformer.testing.probes import moved_weights, some_labels, source_and_target, with_an_empty_source
from keras_transformer.testing.recording import RecordGradients
from keras_transformer.testing.report import needs, pitfall
from keras_transformer.testing.scoring import mean_negative_log_likelihood

# A tied model begins up to 1.5 above log V: the decoder's output still resembles the embedding of the token it read.
_ABOVE_LOG_V = 2.0
_PAIRS, _LENGTH, _UPDATES = 10, 6, 400
# At its full rate from the first update on, a correct post-LN model of six layers is thrown off and does not come back.
_WARMUP = 60
# Without the source a model can get to log(10) / 6 = 0.38 nats a token, the cost of telling ten pairs apart at their beginning.
_LEARNT = 0.1


@pitfall("loss at the start", steady=False)
def loss_at_start(subject):
    """Whether a new model's loss is far above log V, what guessing costs."""
    needs(subject, "fresh")
    new = subject.fresh()
    source, target = source_and_target(new)
    labels = some_labels(new, seed=1)
    loss, guessing = mean_negative_log_likelihood(new.run(source, target), labels), math.log(new.vocabulary_size)
    if not loss <= guessing + _ABOVE_LOG_V:
        return (
            f"a new model's loss is {loss:.1f}, guessing costs log V = {guessing:.1f}: initial weights, of embeddings above all, "
            "are too large, or a final norm is missing."
        )
    return None


@pitfall("gradients", steady=False)
def gradients(subject):
    """Whether each trainable weight gets a gradient that is finite and not zero.

    At weights a little beside the model's, where a branch that begins at zero (ReZero, LoRA) is open; on rows of unequal length,
    one of which has a source of padding alone. A bias of keys has no gradient: it adds the same to all scores of a query. Rows of
    tokens that do not occur have none either, so that a table counts as a whole.
    """
    needs(subject, "model")
    source, target = with_an_empty_source(subject)
    labels = some_labels(subject, seed=1)
    labels = np.where(target == subject.pad_id, subject.pad_id, labels)
    subject.run(*source_and_target(subject))  # builds the model, if that is still to be done
    trainer = _Trainer(subject)
    # RecordGradients is asked as it is: what Keras puts around an optimizer under mixed_float16 would hide it.
    loss = SmoothedCrossentropy(0.0, pad_id=subject.pad_id)
    trainer.compile(RecordGradients(), loss=loss, run_eagerly=True, auto_scale_loss=False)
    with moved_weights(subject.model):
        trainer.train_on_batch({"source": source, "target": target}, labels)
    largest = max(np.abs(gradient).max() for gradient in trainer.optimizer.gradients)
    for variable, gradient in zip(trainer.trainable_variables, trainer.optimizer.gradients, strict=True):
        if not np.isfinite(gradient).all():
            return f"the gradient of {variable.path} is not finite: look for a softmax over nothing, a root or a log of zero."
        for part, values in _parts(variable.path, gradient):
            # What is taken away again leaves rounding: 1e-8 of the largest on TensorFlow.
            if part != "key" and not (np.abs(values) > (1e-6 * largest if part else 0)).any():
                which = f"the part {part!r} of " if part else ""
                return f"{which}{variable.path} gets no gradient: it is not used, or something stops the gradient on its way."
    return None


@pitfall("learns ten pairs", steady=False)
def learns_ten_pairs(subject):
    """Whether ten pairs can be learnt by heart in 400 updates. The model gets its weights back."""
    needs(subject, "model")
    length = min(_LENGTH, subject.source_length, subject.target_length)
    source, target = source_and_target(subject, _PAIRS, (length, length))
    labels = np.concatenate([target[:, 1:], np.full((_PAIRS, 1), subject.eos_id, "int32")], axis=1)

    def filled(ids, width):  # to the lengths of the model, which may know no others
        return np.pad(ids, ((0, 0), (0, width - length)), constant_values=subject.pad_id)

    source = filled(source, subject.source_length)
    target, labels = (filled(ids, subject.target_length) for ids in (target, labels))
    subject.run(source, target)  # builds the model, if that is still to be done
    before = subject.model.get_weights()
    try:
        losses = _train(subject, {"source": source, "target": target}, labels)
    finally:
        subject.model.set_weights(before)
    if losses[-1] > _LEARNT or not np.isfinite(losses[-1]):
        return (
            f"after {_UPDATES} updates on ten pairs the loss is {losses[-1]:.2f} (before: {losses[0]:.2f}): a model that cannot "
            "learn ten pairs by heart does not read its input, or its gradient is lost or wrong."
        )
    return None


def _train(subject, inputs, labels):
    """Losses of Adam updates, until they are low enough."""
    trainer = _Trainer(subject)
    width = max((weight.shape[-1] for weight in subject.model.weights if "embed" in weight.path), default=64)
    rate = WarmupInverseSqrt.from_peak(min(2e-2, 0.06 / width**0.75), width, _WARMUP)
    optimizer = keras.optimizers.Adam(rate, beta_2=0.98, global_clipnorm=1.0)
    trainer.compile(optimizer, loss=SmoothedCrossentropy(0.0, pad_id=subject.pad_id))
    losses = []
    for _ in range(_UPDATES):
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
        logits = self._subject.logits(inputs["source"], inputs["target"])
        if not ops.is_tensor(logits):  # as of model.predict: no gradient goes through it
            raise ValueError(f"logits must be a tensor, as model(...) gives it. Received: {type(logits).__name__}.")
        logits = ops.cast(logits, "float32")
        return ops.maximum(logits, -1e9)  # a model may forbid an id by -inf, which no mean over V survives

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        loss = super().compute_loss(x, y, y_pred, sample_weight, training=training)
        # Keras refuses weights that the loss does not reach, or warns of them; so each gets a gradient, of zero.
        return loss + 0.0 * sum(ops.sum(ops.cast(weight, "float32")) for weight in self.trainable_variables)


def _parts(path, gradient):
    """What of a gradient is looked at by itself: [(name, values)], the name "key" for a bias of keys, "" for a whole weight.

    A bias of several projections, as key_value/bias, counts block by block, in the order of its name.
    """
    *_, layer, name = ("", *path.split("/"))
    words = [word for word in layer.removesuffix("_proj").split("_") if word in ("query", "key", "value")]
    if "bias" not in name or not words:
        is_key = "bias" in name and layer.removesuffix("_proj") == "k"
        return [("key" if is_key else "", gradient)]
    if len(words) == 1:
        return [("key" if words == ["key"] else "", gradient)]
    if gradient.shape[-1] % len(words):
        return [("", gradient)]
    return list(zip(words, np.split(gradient, len(words), axis=-1), strict=True))
