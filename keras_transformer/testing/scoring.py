"""Checks of the loss and of the batches it scores."""

import numpy as np
from keras import ops

from keras_transformer.testing.probes import some_labels, source_and_target
from keras_transformer.testing.report import NotChecked, needs, pitfall


@pitfall("target not shifted", steady=False)
def target_not_shifted(subject):
    """Whether the decoder reads the very tokens it shall predict. Of a packed batch, pair by pair."""
    needs(subject, "batch")
    inputs, labels = subject.batch[:2]
    # Tensors on another device may be among them.
    target, labels = (ops.convert_to_numpy(ids) for ids in (inputs["target"], labels))
    real = labels != subject.pad_id
    if not real.any():
        raise NotChecked("needs a batch with real tokens; this one is padding alone")
    if target.shape == labels.shape and (target == labels)[real].all():
        return "the decoder reads the very tokens it shall predict: shift the target by one, bos in front."
    behind = real[:, 1:] & (target[:, 1:] != subject.pad_id) if target.shape == labels.shape else None
    if behind is not None and "target_segments" in inputs:
        segments = ops.convert_to_numpy(inputs["target_segments"])
        behind &= segments[:, 1:] == segments[:, :-1]  # where a pair begins there is bos
    if behind is None or (target[:, 1:] != labels[:, :-1])[behind].any():
        return "labels are not the target one position ahead: target is bos + tokens, labels are tokens + eos."
    if not (labels == subject.eos_id).any():
        return f"no row of the labels has eos, id {subject.eos_id}: a model trained on such never learns to stop."
    return None


@pitfall("loss counts padding")
def loss_counts_padding(subject):
    """Whether padding appended to the labels changes the loss: the function's, and what training reports for a batch."""
    _needs_a_loss(subject)
    for name, plain, with_padding in _padded_losses(subject):
        _is_a_number(name, plain)
        if not abs(plain - with_padding) <= max(1e-4, subject.tolerance if name == "training" else 0) * abs(plain):
            return (
                f"padding appended to the labels changes the {name} loss from {plain:.3f} to {with_padding:.3f}: it averages over "
                "padded positions, or scores them."
            )
    return None


def _padded_losses(subject):
    """Yields (name, loss without padding, loss with five positions of it)."""
    labels, logits = _labels_and_logits(subject)
    rows, _, size = logits.shape
    padding = np.full((rows, 5), subject.pad_id, "int32")
    padded = np.concatenate([labels, padding], 1)
    if subject.loss is not None:
        more = np.random.default_rng(1).normal(size=(rows, 5, size)).astype("float32")
        yield "given", _loss(subject, labels, logits), _loss(subject, padded, np.concatenate([logits, more], 1))
    if subject.training_loss is not None:
        source, target = source_and_target(subject)
        inputs = {"source": source, "target": target}
        longer = inputs | {"target": np.concatenate([target, padding], 1)}
        yield "training", float(subject.training_loss(inputs, labels)), float(subject.training_loss(longer, padded))


@pitfall("label smoothing")
def label_smoothing(subject):
    """Whether the loss puts (1 - e) on the label and e / V on all V: the function's, and what training reports for a batch.

    It may be a mean over tokens, a sum, or a sum by sentence.
    """
    needs(subject, "label_smoothing")
    _needs_a_loss(subject)
    if subject.loss is not None:
        # Where labels are likely, the weight of the others shows and a label's own hardly does: so unlikely ones are tried too.
        for peak in (15.0, 0.0):
            labels, logits = _labels_and_logits(subject, peak)
            found = _loss(subject, labels, logits)
            if sentence := _smoothed_otherwise(subject, "given", found, labels, logits, 1e-4):
                return sentence
    if subject.training_loss is not None:
        source, target = source_and_target(subject)
        logits = subject.run(source, target)
        # What the model holds likely: the farther a label's logit is from their mean, the better are two definitions told apart.
        labels = subject.words[logits[..., subject.words].argmax(-1)].astype("int32")
        found = float(subject.training_loss({"source": source, "target": target}, labels))
        _is_a_number("training", found)
        return _smoothed_otherwise(subject, "training", found, labels, logits, subject.tolerance)
    return None


def _smoothed_otherwise(subject, name, found, labels, logits, tolerance):
    """A sentence where a loss is not the smoothed one of these labels and logits."""
    size, smoothing = subject.vocabulary_size, subject.label_smoothing
    logs = _log_softmax(logits.astype("float64"))
    picked = np.take_along_axis(logs, labels[..., None], -1)[..., 0]

    def expected(on_label, on_each):
        return float((-on_label * picked - on_each * logs.sum(-1)).mean())

    right, share = expected(1 - smoothing, smoothing / size), smoothing / (size - 1)
    on_the_others = expected(1 - smoothing - share, share)
    rows, length = labels.shape
    found = min((found / count for count in (1, length, rows * length)), key=lambda value: abs(value - right))

    def is_near(value):
        return abs(found - value) <= tolerance * max(abs(value), 1.0)

    # The two differ by 1 / V of what is smoothed: within the tolerance where V is large, but not within rounding.
    apart = abs(on_the_others - right) > 0.2 * tolerance * max(abs(right), 1.0)
    rather_on_the_others = apart and 4 * abs(found - on_the_others) < abs(found - right)
    if is_near(right) and not rather_on_the_others:
        return None
    reason = "it is not what label_smoothing says"
    if is_near(on_the_others):
        reason = "it spreads e over the V - 1 others"
    elif is_near(expected(1.0, 0.0)):
        reason = "it does not smooth at all"
    definition = f"(1 - e) on the label and e / V on all V, e = {smoothing}"
    return f"the {name} loss is {found:.4f} a token where {right:.4f} is {definition}: {reason}."


def _is_a_number(name, loss):
    if not np.isfinite(loss):
        raise NotChecked(f"the {name} loss is {loss}, as of smoothing over an id whose logit is -inf")


def _needs_a_loss(subject):
    if subject.loss is None and subject.training_loss is None:
        raise NotChecked("needs loss or training_loss; see testing.Seq2Seq")


def mean_negative_log_likelihood(logits, labels):
    """Of a label, in nats: logits (B, T, V) against labels (B, T)."""
    logs = _log_softmax(logits.astype("float64"))
    return float(-np.take_along_axis(logs, labels[..., None], -1).mean())


def _labels_and_logits(subject, peak=15.0):
    """Labels (B, T) without padding and random logits (B, T, V), ``peak`` at the labels: high ones as a trained model's."""
    labels = some_labels(subject)
    logits = np.random.default_rng(0).normal(size=(*labels.shape, subject.vocabulary_size)).astype("float32")
    np.put_along_axis(logits, labels[..., None], peak, axis=-1)
    return labels, logits


def _loss(subject, labels, logits):
    value = np.asarray(ops.convert_to_numpy(subject.loss(ops.convert_to_tensor(labels), ops.convert_to_tensor(logits))))
    if value.size != 1:
        raise NotChecked(f"loss must give a scalar; it gave shape {value.shape}")
    return float(value.reshape(()))


def _log_softmax(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
