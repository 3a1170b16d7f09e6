"""What Keras calls around a step: ``compile``, ``fit``, ``evaluate`` and their steps, counted by real tokens.

Between the model and Keras. A model that ends in hidden states and a table of outputs is scored from the hidden states, so
that its logits are never kept twice; ids are checked on the host before they reach a layer.
"""

import contextlib
import contextvars
from collections.abc import Callable

import keras
from keras import ops

from keras_transformer.backend_training import keep_freed_memory, keep_state, portable_config
from keras_transformer.inputs import IdCheck
from keras_transformer.losses import SmoothedCrossentropy, TokenStatistics, projected_token_statistics, token_weights
from keras_transformer.metrics import Perplexity, TokenAccuracy, TokenLoss
from keras_transformer.mid_epoch import ArrayData, fit_batches
from keras_transformer.optimizers import SkipNonFinite, find_optimizer, weigh_micro_batch
from keras_transformer.presets import get_preset
from keras_transformer.schedules import WarmupInverseSqrt
from keras_transformer.text.batches import Batches


def ends_in_hidden_states(method):
    """Marks a ``call`` that gives hidden states (B, T, D) instead of logits while ``TokenTrainer.scores_hidden_states``, and a
    ``logits`` that is no more than their product with ``output_table``. An override without the mark is scored by its logits.
    """
    method.ends_in_hidden_states = True
    return method


class TokenTrainer(keras.Model):
    """A keras.Model of {"source": (B, S), "target": (B, T)} ids that ``fit`` trains and ``evaluate`` scores by real tokens.

    A subclass has ``vocabulary_size``, ``source_vocabulary_size``, ``pad_id``, ``d_model`` and ``preset``, a ``call`` that gives
    logits (B, T, V), ``logits`` from hidden states (B, T, D), and ``output_table`` (V, D); see ``ends_in_hidden_states``.
    """

    def __init__(self, **kwargs):
        keep_freed_memory()
        super().__init__(**kwargs)
        self._scoring = _Scoring()
        self._follower = _Follower()

    @property
    def scores_hidden_states(self) -> bool:
        """Whether a step is under way whose loss does the output projection, so that ``call`` ends before it."""
        return self._scoring.open

    def compile(
        self,
        optimizer: keras.optimizers.Optimizer | str | None = None,
        loss: keras.losses.Loss | Callable | str | None = None,
        loss_weights=None,
        metrics=None,
        weighted_metrics=None,
        **kwargs,
    ) -> None:
        """keras.Model.compile, with the paper's recipe for whatever is not given.

        Loss and metrics are counted by tokens, from hidden states, where the loss is SmoothedCrossentropy itself and all metrics
        are ours, with the model's pad_id, and neither loss_weights nor weighted_metrics are given. Anything else gets
        Keras's own step, on logits, as in every model.

        Args:
            optimizer: None for Adam(beta_1=0.9, beta_2=0.98, epsilon=1e-9) under WarmupInverseSqrt, global_clipnorm=1.0;
                warmup_steps and scale are the preset's.
            loss: None for SmoothedCrossentropy with the preset's label_smoothing (0.1).
            loss_weights: as keras.Model.compile.
            metrics: None for TokenAccuracy and Perplexity when the loss is a SmoothedCrossentropy and there are no
                weighted_metrics.
            weighted_metrics: as keras.Model.compile; with sample_weight, TokenAccuracy and Perplexity are weighted as
                metrics too.
            kwargs: as keras.Model.compile.

        Example:

        >>> import keras_transformer as kt
        >>> model = kt.Transformer.from_preset("tiny", vocabulary_size=100, num_layers=1)
        >>> model.compile()

        Reference: Vaswani et al. 2017, sections 5.3 and 5.4; global_clipnorm is the field's habit, not the paper's.
        """
        recipe = get_preset(self.preset or "base")["recipe"]
        if optimizer is None:
            schedule = WarmupInverseSqrt(self.d_model, recipe["warmup_steps"], recipe["scale"])
            optimizer = keras.optimizers.Adam(schedule, beta_1=0.9, beta_2=0.98, epsilon=1e-9, global_clipnorm=1.0)
        if loss is None:
            loss = SmoothedCrossentropy(recipe["label_smoothing"], pad_id=self.pad_id)
        if metrics is None and weighted_metrics is None and isinstance(loss, SmoothedCrossentropy):
            metrics = [TokenAccuracy(pad_id=self.pad_id), Perplexity(pad_id=self.pad_id)]
        counts_tokens = loss_weights is None and weighted_metrics is None and self._counts_tokens(loss, metrics)
        self._scoring = _Scoring(metrics or [] if counts_tokens else None)
        super().compile(
            optimizer=optimizer,
            loss=loss,
            loss_weights=loss_weights,
            metrics=None if counts_tokens else metrics,
            weighted_metrics=weighted_metrics,
            **kwargs,
        )

    def _counts_tokens(self, loss, metrics):
        """Whether loss and metrics do no more than the sums over tokens tell. A subclass may do anything, also this model's."""
        return (
            all(hasattr(method, "ends_in_hidden_states") for method in (type(self).call, type(self).logits))
            and type(loss) is SmoothedCrossentropy
            and isinstance(metrics or [], (list, tuple))
            and all(type(metric) in (TokenAccuracy, Perplexity) for metric in metrics or [])
            and all(x.pad_id == self.pad_id for x in (loss, *(metrics or [])))
        )

    @property
    def metrics(self) -> list:
        """Keras's; where tokens are counted, our loss in place of the one that Keras's own tracker weighs by rows."""
        if not self._scoring.metrics:
            return super().metrics
        loss, *others = self._scoring.metrics
        return [loss, *(metric for metric in super().metrics if metric.name != loss.name), *others]

    def fit(
        self,
        x=None,
        y=None,
        batch_size=None,
        epochs=1,
        verbose="auto",
        callbacks=None,
        validation_split=0.0,
        validation_data=None,
        shuffle: bool = True,
        class_weight=None,
        sample_weight=None,
        initial_epoch=0,
        steps_per_epoch=None,
        **kwargs,
    ) -> keras.callbacks.History:
        """keras.Model.fit, with ids checked on the host first.

        ``shuffle`` concerns arrays and a PyDataset of one's own. The batches of a kt.Batches keep the order their seed gives, and
        other sources bring their own order, of which Keras would warn. A kt.Batches whose ``restore`` was called is trained on
        from there: the first epoch is the rest of its epoch.

        ``sample_weight`` is (N,) or (N, 1), a weight a sentence, or (N, T), a weight a token.

        Raises:
            ValueError: an id is outside the vocabulary, the input is not {"source": (B, S), "target": (B, T)}, there are no
                labels, the data are empty, sample_weight has another shape, or class_weight is given.
        """
        _refuse_class_weight(class_weight)
        check = self._id_check()
        shuffle = shuffle and isinstance(x, (dict, keras.utils.PyDataset)) and not isinstance(x, Batches)
        data = ArrayData((x, y, sample_weight), (batch_size or 32, validation_split)) if isinstance(x, dict) else x
        for callback in _iterable(callbacks):
            # Resume, and what names the lines of a batch; what Keras shuffles tells neither.
            if hasattr(callback, "set_data"):
                callback.set_data(None if shuffle else data)
        kwargs |= {"epochs": epochs, "verbose": verbose, "callbacks": callbacks, "initial_epoch": initial_epoch}
        kwargs |= {"steps_per_epoch": steps_per_epoch, "validation_split": validation_split, "shuffle": shuffle}
        with check.one_error():
            if isinstance(validation_data, (tuple, list)):
                check.batch(*validation_data[:3])
            elif validation_data is not None:
                validation_data = check.wrap(validation_data)
            if isinstance(x, Batches):
                return fit_batches(super().fit, self, x, check.wrap, validation_data=validation_data, **kwargs)
            x = check.wrap(x, y, sample_weight)
            weights = {"sample_weight": sample_weight, "validation_data": validation_data}
            return super().fit(x, y, batch_size, **weights, **kwargs)

    def _id_check(self, needs_labels=True):
        return IdCheck(self.vocabulary_size, needs_labels, source_vocabulary_size=self.source_vocabulary_size)

    def followed_by(self, following):
        """A context in which ``following.advance(steps)`` is called after each execution of ``steps`` training steps."""
        return self._follower.put(following)

    def evaluate(
        self, x=None, y=None, batch_size: int | None = None, verbose: int | str = "auto", sample_weight=None, **kwargs
    ):
        """keras.Model.evaluate, with ids checked on the host first; see fit. A kt.Batches stays in its epoch."""
        check = self._id_check()
        with check.one_error(), _same_epoch(x):
            x = check.wrap(x, y, sample_weight)
            return super().evaluate(x, y, batch_size, verbose, sample_weight, **kwargs)

    def predict(self, x, *args, **kwargs):
        """keras.Model.predict, logits (N, T, V), with ids checked on the host first; see fit and evaluate."""
        check = self._id_check(needs_labels=False)
        with check.one_error(), _same_epoch(x):
            return super().predict(check.wrap(x), *args, **kwargs)

    def train_on_batch(self, x, y=None, sample_weight=None, class_weight=None, return_dict: bool = False):
        """keras.Model.train_on_batch, with ids checked on the host first; see fit."""
        _refuse_class_weight(class_weight)
        self._id_check().batch(x, y, sample_weight)
        return super().train_on_batch(x, y, sample_weight, return_dict=return_dict)

    def test_on_batch(self, x, y=None, sample_weight=None, return_dict: bool = False):
        """keras.Model.test_on_batch, with ids checked on the host first; see fit."""
        self._id_check().batch(x, y, sample_weight)
        return super().test_on_batch(x, y, sample_weight, return_dict=return_dict)

    def predict_on_batch(self, x):
        """keras.Model.predict_on_batch, with ids checked on the host first; see fit."""
        self._id_check(needs_labels=False).batch(x)
        return super().predict_on_batch(x)

    def make_train_function(self, force: bool = False) -> None:
        # TensorFlow traces a function twice if it makes variables: built here, the first step of tiny comes 7 s sooner.
        if self.optimizer is not None and not self.optimizer.built:
            self.optimizer.build(self.trainable_variables)
        made = self.train_function
        super().make_train_function(force)
        if self.train_function is not made:
            kinds = [*self._weights(), lambda: self.optimizer.variables, lambda: self.metrics_variables]
            function = keep_state(self.train_function, *kinds)
            self.train_function = self._follower.told(function, self.steps_per_execution)

    def make_test_function(self, force: bool = False) -> None:
        made = self.test_function
        super().make_test_function(force)
        if self.test_function is not made:
            self.test_function = keep_state(self.test_function, *self._weights(), lambda: self.metrics_variables)

    def make_predict_function(self, force: bool = False) -> None:
        made = self.predict_function
        super().make_predict_function(force)
        if self.predict_function is not made:
            self.predict_function = keep_state(self.predict_function, *self._weights())

    def _weights(self):
        return [lambda: self.trainable_variables, lambda: self.non_trainable_variables]

    def train_step(self, *args):
        """Keras's own step, on hidden states instead of logits, with the micro-batch weighed by its tokens."""
        _, labels, sample_weight = keras.utils.unpack_x_y_sample_weight(args[-1])
        tokens = ops.sum(token_weights(labels, self.pad_id, sample_weight))
        with self._scoring.hidden_states(), weigh_micro_batch(self.optimizer, tokens):
            return super().train_step(*args)

    def test_step(self, *args):
        """Keras's own step, on hidden states instead of logits."""
        with self._scoring.hidden_states():
            return super().test_step(*args)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training: bool = True):
        """The loss over real tokens, and what layers and regularisers add to it.

        In ``fit`` and ``evaluate`` y_pred are hidden states (B, T, D), and metrics count here: JAX gives metrics
        back from inside the differentiated function, so that one pass serves loss and metrics.
        """
        if not self._scoring.open:
            return super().compute_loss(x, y, y_pred, sample_weight, training=training)
        statistics = projected_token_statistics(
            y_pred,
            self.output_table,
            y,
            label_smoothing=self.loss.label_smoothing,
            pad_id=self.pad_id,
            sample_weight=sample_weight,
            training=training,
            chunk_size=self.loss.chunk_size,
        )
        added = sum(ops.sum(ops.cast(loss, "float32")) for loss in self.losses)
        loss = statistics.mean_loss + added
        if training and find_optimizer(self.optimizer, SkipNonFinite) is not None:
            # A batch that will be left out counts in no metric, and an infinite loss is left out whatever its gradient.
            finite = ops.isfinite(loss)
            statistics = TokenStatistics(*(ops.where(finite, value, 0.0) for value in statistics))
            added = ops.where(finite, added, 0.0)
            loss = loss * ops.where(finite, 1.0, float("nan"))
        token_loss, *token_metrics = self._scoring.metrics
        token_loss.update_from_statistics(statistics._replace(loss=statistics.loss + added * statistics.tokens))
        for metric in token_metrics:
            metric.update_from_statistics(statistics)
        return loss

    def compute_metrics(self, x, y, y_pred, sample_weight=None) -> dict:
        """The metrics so far; compute_loss has already counted this batch."""
        if not self._scoring.open:
            return super().compute_metrics(x, y, y_pred, sample_weight)
        return self.get_metrics_result()

    def get_compile_config(self) -> dict | None:
        """Keras's, with metrics back in their place and optimizer and jit_compile as every backend can load them."""
        config = super().get_compile_config()
        if config and self._scoring.metrics:
            config["metrics"] = [keras.saving.serialize_keras_object(metric) for metric in self._scoring.metrics[1:]]
        return portable_config(config)

    def compile_from_config(self, config: dict) -> None:
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)


def _same_epoch(x):
    """A context after which a Batches stands where it stood: to it, being read looks like an epoch of ``fit``."""
    return x.aside() if isinstance(x, Batches) else contextlib.nullcontext()


class _Follower:
    """Who is told of the steps of training; a plain object, because Keras tracks what a model's attributes are set to."""

    _following = None

    @contextlib.contextmanager
    def put(self, following):
        self._following = following
        try:
            yield
        finally:
            self._following = None

    def told(self, function, steps):
        def told_function(*args):
            result = function(*args)
            if self._following is not None:
                self._following.advance(steps)
            return result

        return told_function


class _Scoring:
    """How ``fit`` and ``evaluate`` score: the metrics counted by tokens, and whether a step is under way.

    A plain object, because Keras locks a built model against new metrics as attributes.
    """

    # A step is under way in one thread (TensorFlow and JAX trace where they are called); the others go on getting logits.
    _under_way = contextvars.ContextVar("scoring under way", default=None)

    def __init__(self, token_metrics=None):
        self.metrics = [] if token_metrics is None else [TokenLoss(name="loss"), *token_metrics]

    @property
    def open(self):
        return self._under_way.get() is self

    @contextlib.contextmanager
    def hidden_states(self):
        """While open, ``call`` ends before the output projection, which compute_loss then does with the loss."""
        token = self._under_way.set(self if self.metrics else None)
        try:
            yield
        finally:
            self._under_way.reset(token)


def _iterable(callbacks):
    """What ``fit`` was given as callbacks: None, one, a list of them, or a CallbackList."""
    callbacks = getattr(callbacks, "callbacks", callbacks)
    return callbacks if isinstance(callbacks, (list, tuple)) else [callbacks]


def _refuse_class_weight(class_weight):
    if class_weight is not None:
        raise ValueError(
            f"class_weight does not fit labels (B, T). Received: class_weight={class_weight!r}. Expected: None. Give "
            "sample_weight (B, T) instead, which weighs each token."
        )
