"""What a backend computes for a certificate, stage by stage, as NumPy arrays.

Runs in the process of one backend. A stage takes a Subject and gives {part: array}; its name is what a certificate calls the
first disagreement by. All training is without dropout, whose bits are each backend's own.
"""

import functools
import hashlib
import itertools

import keras
import numpy as np

from keras_transformer.certify.plan import files_of
from keras_transformer.decoding import BeamSearch, ForcedDecoding, GreedySearch
from keras_transformer.presets import get_preset
from keras_transformer.schedules import WarmupInverseSqrt
from keras_transformer.testing.recording import RecordGradients
from keras_transformer.text.batches import Batches
from keras_transformer.text.corpus import read_pairs
from keras_transformer.text.demo import demo_corpus
from keras_transformer.text.pair import source_tokenizer
from keras_transformer.transformer import Transformer
from keras_transformer.translator import Translator

# Below the norm of nearly every gradient, so that clipping has something to do.
CLIPNORM = 0.01


class Subject:
    """The checkpoint of a plan, its text as batches, and models of its architecture.

    Args:
        plan: a Plan.

    Raises:
        ValueError: the translator or the text cannot be read.
    """

    def __init__(self, plan):
        translator = Translator.load(plan.translator)
        self.plan = plan
        self.tokenizer = translator.tokenizer
        source, target = _text(plan)
        self.source, self.target = source[: plan.pairs], target[: plan.pairs]
        self._decoded = source[: plan.sentences]
        # Of the files as they are after they were read: equal to what the parent saw before, or they were changed between.
        self.loaded = files_of(plan) | {"sentences": len(self._decoded), "pairs": len(self.source)}
        self._weights = translator.model.get_weights()
        self._config = translator.model.get_config() | {
            "dropout": 0.0,
            "attention_dropout": 0.0,
            "activation_dropout": 0.0,
            "dtype": "float32",
            "seed": plan.seed,
        }
        self._config.pop("frozen", None)
        self.is_tied = self._config["tie_embeddings"] is not None

    def new_model(self, **changes):
        """A model of this architecture as its seed makes it."""
        return Transformer.from_config(self._config | changes)

    @functools.cached_property
    def model(self):
        """The checkpoint."""
        model = self.new_model()
        model.set_weights(self._weights)
        return model

    def new_batches(self, num_buckets):
        return Batches(
            self.source,
            self.target,
            self.tokenizer,
            batch_tokens=self.plan.batch_tokens,
            seed=self.plan.seed,
            num_buckets=num_buckets,
        )

    @functools.cached_property
    def batches(self):
        """All of one shape: JAX compiles each step once."""
        return self.new_batches(num_buckets=1)

    @functools.cached_property
    def sentences(self):
        """Source ids (N, S) of what is decoded."""
        rows = source_tokenizer(self.tokenizer).encode(self._decoded, add_eos=True)
        return keras.utils.pad_sequences(rows, padding="post", value=self.tokenizer.pad_id)

    def optimizer(self):
        """Adam under the recipe's schedule, from its first update on.

        A warmup squeezed into the plan's steps, up to the peak, lets rounding grow from one update to the next: curves of tiny came
        apart by 0.1 nats.
        """
        recipe = get_preset(self._config["preset"] or "base")["recipe"]
        schedule = WarmupInverseSqrt(self._config["d_model"], recipe["warmup_steps"], recipe["scale"])
        return keras.optimizers.Adam(schedule, beta_1=0.9, beta_2=0.98, epsilon=1e-9, global_clipnorm=1.0)


def _text(plan):
    if plan.source is None:
        pairs = demo_corpus(num_train=max(plan.pairs, plan.sentences), num_valid=0, num_test=0).train
    else:
        pairs = read_pairs(plan.source, plan.target)
    return pairs.source, pairs.target


def initial_weights(subject, **changes):
    """The digest of every weight that the seed gives."""
    model = subject.new_model(**changes)
    return {weight.path: _digest(value) for weight, value in zip(model.weights, model.get_weights(), strict=True)}


def batch_order(subject):
    """The digest of every batch of two epochs, in order, with shapes as in training."""
    batches = subject.new_batches(num_buckets=8)
    found = {}
    for epoch in (0, 1):
        batches.set_epoch(epoch)
        served = (batches[index] for index in range(len(batches)))
        digests = [_digest(inputs["source"], inputs["target"], labels) for inputs, labels in served]
        found[f"epoch {epoch}"] = np.stack(digests)
    return found


def logits(subject):
    """Logits of the first batch at the checkpoint."""
    inputs, _ = subject.batches[0]
    return {"logits": subject.model.predict_on_batch(inputs)}


def gradients(model, batch):
    """Loss, gradients and clipped gradients of one training step: three stages' parts."""
    model.compile(RecordGradients(global_clipnorm=CLIPNORM), metrics=[])
    loss = model.train_on_batch(*batch, return_dict=True)["loss"]
    paths = [variable.path for variable in model.trainable_variables]
    return (
        {"loss": np.array(loss)},
        dict(zip(paths, model.optimizer.gradients, strict=True)),
        dict(zip(paths, model.optimizer.clipped_gradients, strict=True)),
    )


def loss_curve(subject, model):
    """The loss before each update. The model is another afterwards."""
    batches = subject.batches
    model.compile(subject.optimizer(), metrics=[])
    losses = []
    for step in range(subject.plan.steps):
        epoch, index = divmod(step, len(batches))
        if index == 0:
            batches.set_epoch(epoch)
        model.reset_metrics()
        losses.append(model.train_on_batch(*batches[index], return_dict=True)["loss"])
    batches.set_epoch(0)
    return {"loss": np.array(losses)}


def evaluate(subject):
    """What ``evaluate`` gives over all batches."""
    subject.model.compile()
    return {
        name: np.array(value)
        for name, value in subject.model.evaluate(subject.batches, return_dict=True, verbose=0).items()
    }


def decode(subject, search):
    """Ids (B, W, L) and scores (B, W) of the plan's sentences."""
    ids, scores = search(subject.sentences)
    return {"ids": ids, "scores": scores}


def searches(subject):
    """{stage: search} of those that decode."""
    return {
        "greedy search": GreedySearch(subject.model),
        "beam search": BeamSearch(subject.model, subject.plan.beam_size),
    }


def rescored(subject, search, numbers, ids, rows=16):
    """Scores (N,) that ``search`` would give translations ids (N, L) of the sentences ``numbers`` (N,), all positions at once.

    ``rows`` at a time, for logits (rows, L, V) are kept.
    """
    forced, pad_id, found = ForcedDecoding(subject.model), subject.tokenizer.pad_id, []
    for begin in range(0, len(ids), rows):
        labels = ids[begin : begin + rows]
        sums = forced(subject.sentences[numbers[begin : begin + rows]], labels).log_probabilities.sum(axis=1)
        lengths = np.maximum((labels != pad_id).sum(axis=1), 1)
        found.append(sums / keras.ops.convert_to_numpy(search.length_divisor(lengths)))
    return np.concatenate(found)


def stages(subject):
    """{stage: function that computes its parts}, in the order in which a certificate lists them."""
    step = functools.cache(lambda: gradients(subject.model, subject.batches[0]))
    search_of = functools.cache(lambda: searches(subject))
    found = {
        "initial weights": lambda: initial_weights(subject),
        "batch order": lambda: batch_order(subject),
        "logits": lambda: logits(subject),
        "loss": lambda: step()[0],
        "gradients": lambda: step()[1],
        "clipped update": lambda: step()[2],
        "evaluate": lambda: evaluate(subject),
        "greedy search": lambda: decode(subject, search_of()["greedy search"]),
        "beam search": lambda: decode(subject, search_of()["beam search"]),
        "loss curve": lambda: loss_curve(subject, subject.model),
    }
    return found | (_untied_stages(subject) if subject.is_tied else {})


def _untied_stages(subject):
    """An untied model of one layer each: where gradients of embeddings are left sparse, its training goes astray."""
    changes = {"tie_embeddings": None, "num_layers": 1, "num_decoder_layers": 1}
    model = functools.cache(lambda: subject.new_model(**changes))
    step = functools.cache(lambda: gradients(model(), subject.batches[0]))
    return {
        "untied: initial weights": lambda: initial_weights(subject, **changes),
        "untied: loss": lambda: step()[0],
        "untied: gradients": lambda: step()[1],
        "untied: clipped update": lambda: step()[2],
        "untied: loss curve": lambda: loss_curve(subject, model()),
    }


def _digest(*arrays):
    """The sha256 of arrays, as 32 bytes."""
    digest = hashlib.sha256()
    for part in itertools.chain.from_iterable((str((x.dtype.str, x.shape)).encode(), x.tobytes()) for x in arrays):
        digest.update(part)
    return np.frombuffer(digest.digest(), dtype="uint8")
