"""Checks of the loss and of the batches it scores."""

import numpy as np
from keras import ops

from keras_transformer.testing.probes import source_and_target
from keras_transformer.testing.report import NotChecked, needs, pitfall


@pitfall("target not shifted")
def target_not_shifted(subject):
    """Whether the decoder reads the very tokens it shall predict."""
    needs(subject, "batch")
    inputs, labels = subject.batch
    target, labels = np.asarray(inputs["target"]), np.asarray(labels)
    real = labels != subject.pad_id
    if target.shape == labels.shape and (target == labels)[real].all():
        return "the decoder reads the very tokens it shall predict: shift the target by one, bos in front."
    behind = real[:, 1:] & (target[:, 1:] != subject.pad_id)
    if target.shape != labels.shape or (target[:, 1:] != labels[:, :-1])[behind].any():
        return "labels are not the target one position ahead: target is bos + tokens, labels are tokens + eos."
    return None


@pitfall("loss counts padding")
def loss_counts_padding(subject):
    """Whether padding appended to the labels changes the loss."""
    needs(subject, "loss")
    labels, logits = _labels_and_logits(subject)
    rows, _, size = logits.shape
    more = np.random.default_rng(1).normal(size=(rows, 5, size)).astype("float32")
    padded = np.concatenate([labels, np.full((rows, 5), subject.pad_id, "int32")], 1), np.concatenate([logits, more], 1)
    plain, with_padding = _loss(subject, labels, logits), _loss(subject, *padded)
    if not abs(plain - with_padding) <= 1e-4 * abs(plain):
        return (
            f"padding appended to the labels changes the loss from {plain:.3f} to {with_padding:.3f}: it averages over padded "
            "positions, or scores them."
        )
    return None


@pitfall("label smoothing")
def label_smoothing(subject):
    """Whether the loss puts (1 - e) on the label and e / V on all V."""
    needs(subject, "loss", "label_smoothing")
    labels, logits = _labels_and_logits(subject)
    size, smoothing = subject.vocabulary_size, subject.label_smoothing
    found = _loss(subject, labels, logits)

    def expected(on_label, on_each):
        logs = _log_softmax(logits.astype("float64"))
        picked = np.take_along_axis(logs, labels[..., None], -1)[..., 0]
        return float((-on_label * picked - on_each * logs.sum(-1)).mean())

    right = expected(1 - smoothing, smoothing / size)
    if abs(found - right) <= 1e-4 * max(abs(right), 1.0):
        return None
    reason = "it is not what label_smoothing says"
    others = smoothing / (size - 1)
    if abs(found - expected(1 - smoothing - others, others)) <= 1e-4 * max(abs(right), 1.0):
        reason = "it spreads e over the V - 1 others"
    elif abs(found - expected(1.0, 0.0)) <= 1e-4 * max(abs(right), 1.0):
        reason = "it does not smooth at all"
    return f"the loss is {found:.4f} where {right:.4f} is (1 - e) on the label and e / V on all V, e = {smoothing}: {reason}."


def mean_negative_log_likelihood(logits, labels):
    """Of a label, in nats: logits (B, T, V) against labels (B, T)."""
    logs = _log_softmax(logits.astype("float64"))
    return float(-np.take_along_axis(logs, labels[..., None], -1).mean())


def _labels_and_logits(subject):
    """Labels (B, T) without padding and random logits (B, T, V) that prefer them a little."""
    labels, _ = source_and_target(subject)
    logits = np.random.default_rng(0).normal(size=(*labels.shape, subject.vocabulary_size)).astype("float32")
    return labels, logits


def _loss(subject, labels, logits):
    value = np.asarray(ops.convert_to_numpy(subject.loss(ops.convert_to_tensor(labels), ops.convert_to_tensor(logits))))
    if value.size != 1:
        raise NotChecked(f"loss must give a scalar; it gave shape {value.shape}")
    return float(value.reshape(()))


def _log_softmax(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
