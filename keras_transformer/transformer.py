"""The Transformer as a keras.Model: encoder, decoder and tied tables.

Third in the flow: text gives ids, layers give the parts, this makes the model that trainer.py trains and decoding searches.
Vaswani et al. 2017, "Attention Is All You Need".
"""

import numbers
from collections.abc import Callable
from pathlib import Path
from typing import Literal, Self

import keras
import numpy as np
from keras import ops

from keras_transformer.initializers import SeedStream
from keras_transformer.layers.decoder import Decoder
from keras_transformer.layers.embedding import OutputProjection, SinusoidalPositions, TokenEmbedding
from keras_transformer.layers.encoder import Encoder
from keras_transformer.layers.masking import padding_mask, segment_mask, segment_positions
from keras_transformer.layers.seeded_dropout import seeded_dropout
from keras_transformer.presets import get_preset
from keras_transformer.trainer import TokenTrainer, ends_in_hidden_states


@keras.saving.register_keras_serializable(package="keras_transformer")
class Transformer(TokenTrainer):
    """The encoder-decoder Transformer.

    Takes source ids and the target so far, gives the logits of each next target token:
    ``{"source": (B, S), "target": (B, T)}`` -> (B, T, V). Padding is read from the ids; Keras's implicit masks play no part.

    Trained with SmoothedCrossentropy, ``fit`` and ``evaluate`` report a loss and metrics weighted by real tokens (the same at
    any batch size) and compute them from the decoder's last hidden states, without keeping logits twice.

    All weights are there once the model is made, and Keras then takes no more: a subclass makes layers and metrics of its own
    in ``build``, before ``super().build()``. Where it overrides ``call`` or ``logits``, loss and metrics are computed from what
    ``call`` gives.

    Args:
        vocabulary_size: V, pieces in the vocabulary of the target, which the source shares unless it has its own.
        d_model: D, width of the residual stream; even, and divisible by num_heads.
        d_ff: width inside the feed-forward networks; None for 4 d_model.
        num_heads: H; the head width is d_model / num_heads.
        num_layers: encoder layers, and decoder layers unless said otherwise.
        num_decoder_layers: None for num_layers.
        dropout: share dropped at residuals and on embedding + position.
        attention_dropout: share of attention weights dropped; None for ``dropout``.
        activation_dropout: share of feed-forward activations dropped; None for ``dropout``.
        norm: "post" (the paper) or "pre".
        activation: of the feed-forward networks.
        epsilon: LayerNorm's.
        tie_embeddings: "all" (one table for source, target and output), "decoder" (target and output), or None.
        residual_dropout_position: "branch" (the paper) or "sum"; see layers/residual.py.
        pad_id: the id that fills up short rows.
        bos_id: the id every target begins with.
        eos_id: the id every label row ends with.
        preset: name whose recipe ``compile()`` takes its defaults from; from_preset sets it.
        seed: seed of the initial weights, which are then equal on every backend, and of dropout; None draws one from
            Python's generator, which keras.utils.set_random_seed seeds.
        remat: whether training keeps each layer's input alone and computes the rest again for the gradient: less memory, a third
            more time, the same numbers.
        source_vocabulary_size: pieces in a vocabulary of the source's own; None where both sides share one. It needs a table of
            its own: tie_embeddings="decoder" or None.

    Call arguments:
        inputs: {"source": (B, S), "target": (B, T)} integer ids; target begins with bos. Where several pairs share a line, also
            "source_segments" (B, S) and "target_segments" (B, T), which count them from 1 and are 0 at padding: attention then
            stays inside a pair, whose positions begin at 0.

    Returns:
        Logits (B, T, V) in float32.

    Raises:
        ValueError: an impossible size or an unknown word among the arguments.

    Example:

    >>> import numpy as np
    >>> import keras_transformer as kt
    >>> model = kt.Transformer(vocabulary_size=20, d_model=8, num_heads=2, num_layers=1)
    >>> source, target = np.array([[5, 6, 3]]), np.array([[2, 7]])
    >>> tuple(model({"source": source, "target": target}).shape)
    (1, 2, 20)

    Reference: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762
    """

    def __init__(
        self,
        vocabulary_size: int,
        d_model: int = 512,
        d_ff: int | None = None,
        num_heads: int = 8,
        num_layers: int = 6,
        num_decoder_layers: int | None = None,
        dropout: float = 0.1,
        attention_dropout: float | None = None,
        activation_dropout: float | None = None,
        norm: Literal["post", "pre"] = "post",
        activation: str | Callable = "relu",
        epsilon: float = 1e-6,
        tie_embeddings: Literal["all", "decoder"] | None = "all",
        residual_dropout_position: Literal["branch", "sum"] = "branch",
        pad_id: int = 0,
        bos_id: int = 2,
        eos_id: int = 3,
        preset: str | None = None,
        seed: int | None = None,
        remat: bool = False,
        source_vocabulary_size: int | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if tie_embeddings not in ("all", "decoder", None):
            raise ValueError(f'tie_embeddings must be "all", "decoder" or None. Received: {tie_embeddings!r}.')
        if preset is not None:
            get_preset(preset)
        self.vocabulary_size = vocabulary_size
        self.d_model = d_model
        self.d_ff = 4 * d_model if d_ff is None else d_ff
        self.num_heads = num_heads
        self.num_layers = num_layers
        self.num_decoder_layers = num_layers if num_decoder_layers is None else num_decoder_layers
        self.dropout = dropout
        self.attention_dropout = dropout if attention_dropout is None else attention_dropout
        self.activation_dropout = dropout if activation_dropout is None else activation_dropout
        self.norm = norm
        self.activation = keras.activations.get(activation)
        self.epsilon = epsilon
        self.tie_embeddings = tie_embeddings
        self.residual_dropout_position = residual_dropout_position
        self.pad_id = pad_id
        self.bos_id = bos_id
        self.eos_id = eos_id
        self.preset = preset
        self.seed = seed
        self.remat = remat
        self.source_vocabulary_size = source_vocabulary_size
        self._check_numbers()
        self._make_layers(SeedStream(seed))
        self.build({"source": (None, None), "target": (None, None)})

    def _check_numbers(self):
        names = ["vocabulary_size", "d_model", "d_ff", "num_heads", "num_layers", "num_decoder_layers"]
        if self.source_vocabulary_size is not None:
            names.append("source_vocabulary_size")
            if self.tie_embeddings == "all":
                raise ValueError(
                    'tie_embeddings="all" is one table for source and target. Received also '
                    f'source_vocabulary_size={self.source_vocabulary_size!r}. Give tie_embeddings="decoder" or None.'
                )
        for name in names:
            value = getattr(self, name)
            if not isinstance(value, numbers.Integral) or value < 1:
                raise ValueError(f"{name} must be an integer from 1. Received: {name}={value!r}.")
            setattr(self, name, int(value))
        for name in ("dropout", "attention_dropout", "activation_dropout"):
            value = getattr(self, name)
            if not isinstance(value, numbers.Real) or not 0 <= value < 1:
                raise ValueError(f"{name} must be a number in [0, 1). Received: {name}={value!r}.")
        if self.seed is not None and (not isinstance(self.seed, numbers.Integral) or self.seed < 0):
            raise ValueError(f"seed must be an integer from 0, or None. Received: seed={self.seed!r}.")
        if not isinstance(self.epsilon, numbers.Real) or not self.epsilon > 0:
            raise ValueError(f"epsilon must be a positive number. Received: epsilon={self.epsilon!r}.")
        ids = {"pad_id": self.pad_id, "bos_id": self.bos_id, "eos_id": self.eos_id}
        whole = all(isinstance(value, numbers.Integral) for value in ids.values())
        size = min(self.vocabulary_size, self.num_source_pieces)
        if not whole or len(set(ids.values())) < 3 or not all(0 <= x < size for x in ids.values()):
            shown = ", ".join(f"{name}={value!r}" for name, value in ids.items())
            raise ValueError(
                f"pad_id, bos_id and eos_id must be three different ids below vocabulary_size={size}. Received: {shown}."
            )

    @property
    def num_source_pieces(self) -> int:
        """Pieces in the vocabulary of the source, whether its own or the shared one."""
        return self.vocabulary_size if self.source_vocabulary_size is None else self.source_vocabulary_size

    def _make_layers(self, seeds):
        shared = {
            "d_model": self.d_model,
            "num_heads": self.num_heads,
            "d_ff": self.d_ff,
            "dropout": self.dropout,
            "attention_dropout": self.attention_dropout,
            "activation_dropout": self.activation_dropout,
            "norm": self.norm,
            "activation": self.activation,
            "epsilon": self.epsilon,
            "residual_dropout_position": self.residual_dropout_position,
            "dtype": self.dtype_policy,
        }
        table = {"vocabulary_size": self.vocabulary_size, "d_model": self.d_model, "dtype": self.dtype_policy}
        self.target_embedding = TokenEmbedding(**table, seed=seeds.next(), name="target_embedding")
        self.source_embedding = self.target_embedding
        if self.tie_embeddings != "all":
            source = table | {"vocabulary_size": self.num_source_pieces}
            self.source_embedding = TokenEmbedding(**source, seed=seeds.next(), name="source_embedding")
        self.output_projection = None
        if self.tie_embeddings is None:
            self.output_projection = OutputProjection(**table, seed=seeds.next(), name="output_projection")
        self.positions = SinusoidalPositions(dtype=self.dtype_policy, name="positions")
        encoder_seed, decoder_seed = seeds.next(), seeds.next()
        self.embedding_dropout = seeded_dropout(self.dropout, seeds, self.dtype_policy)
        shared |= {"remat": self.remat}
        self.encoder = Encoder(self.num_layers, seed=encoder_seed, name="encoder", **shared)
        self.decoder = Decoder(self.num_decoder_layers, seed=decoder_seed, name="decoder", **shared)

    @classmethod
    def from_preset(cls, name: str, /, vocabulary_size: int | None = None, **overrides) -> Self:
        """A Transformer with the sizes of a preset: "tiny", "small", "base" or "large".

        Args:
            name: the preset.
            vocabulary_size: V; None for the preset's.
            overrides: further arguments of Transformer, in place of the preset's.

        Raises:
            ValueError: no preset has that name, or an override is impossible.

        Example:

        >>> import keras_transformer as kt
        >>> kt.Transformer.from_preset("tiny", vocabulary_size=100, num_layers=1).d_model
        128
        """
        preset = get_preset(name)
        if vocabulary_size is None:
            vocabulary_size = preset["recipe"]["vocabulary_size"]
        return cls(vocabulary_size, preset=name, **(preset["model"] | overrides))

    def build(self, input_shape: dict | None = None) -> None:
        """Creates all weights; their shapes follow from the arguments alone."""
        if self.built:
            return
        ids_shape, hidden_shape = (None, None), (None, None, self.d_model)
        self.target_embedding.build(ids_shape)
        if self.tie_embeddings != "all":
            self.source_embedding.build(ids_shape)
        if self.output_projection is not None:
            self.output_projection.build(hidden_shape)
        self.positions.build(hidden_shape)
        self.encoder.build(hidden_shape)
        self.decoder.build(hidden_shape, hidden_shape)
        self.built = True

    @ends_in_hidden_states
    def call(self, inputs: dict, training: bool | None = None):
        if "target_segments" in inputs:
            return self._call_packed(inputs, training)
        source_mask = padding_mask(inputs["source"], self.pad_id)  # (B, 1, 1, S)
        encoder_output = self.encode(inputs["source"], source_mask, training=training)  # (B, S, D)
        x = self.embed_target(inputs["target"], training=training)  # (B, T, D)
        x = self.decoder(x, encoder_output, encoder_mask=source_mask, training=training)
        return x if self.scores_hidden_states else self.logits(x)

    def _call_packed(self, inputs, training):
        """``call`` where several pairs share a line."""
        source_segments, target_segments = inputs["source_segments"], inputs["target_segments"]
        source_mask = segment_mask(source_segments, source_segments)  # (B, 1, S, S)
        positions = segment_positions(source_segments)
        encoder_output = self.encode(inputs["source"], source_mask, positions, training=training)  # (B, S, D)
        positions = segment_positions(target_segments)
        x = self.embed_target(inputs["target"], positions=positions, training=training)  # (B, T, D)
        masks = {
            "attention_mask": segment_mask(target_segments, target_segments),  # (B, 1, T, T)
            "encoder_mask": segment_mask(target_segments, source_segments),  # (B, 1, T, S)
        }
        x = self.decoder(x, encoder_output, **masks, training=training)
        return x if self.scores_hidden_states else self.logits(x)

    def encode(self, source, source_mask, positions=None, training: bool | None = None):
        """Source ids (B, S), their mask (B, 1, 1, S) and, if they are packed, positions (B, S) -> encoder output (B, S, D)."""
        x = self._embed(self.source_embedding, source, positions=positions, training=training)
        return self.encoder(x, attention_mask=source_mask, training=training)

    def embed_target(self, target, start=0, positions=None, training: bool | None = None):
        """What the decoder reads of target ids (B, T), the first of which stands at position ``start``: (B, T, D)."""
        return self._embed(self.target_embedding, target, start=start, positions=positions, training=training)

    def with_scores(self, source, target) -> tuple:
        """Logits (B, T, V) as ``call`` gives them without dropout, and what each layer attends to.

        Returns (logits, {"encoder": [(B, H, S, S)], "decoder": [(B, H, T, T)], "cross": [(B, H, T, S)]}), a tensor a layer.
        """
        source_mask = padding_mask(source, self.pad_id)
        encoded, encoder = self.encoder.with_scores(self._embed(self.source_embedding, source), source_mask)
        x = self.embed_target(target)
        x, decoder, cross = self.decoder.with_scores(x, encoded, source_mask)
        return self.logits(x), {"encoder": encoder, "decoder": decoder, "cross": cross}

    def init_cache(self, encoder_output, beam_size: int, max_length) -> dict:
        """What cached decoding keeps for W hypotheses of each sentence and max_length positions."""
        return self.decoder.init_cache(encoder_output, beam_size, max_length)

    def decode_step(self, target, cache: dict, step, source_mask) -> tuple:
        """Logits (B W, V) of the token after ``target`` (B W,), which stands at position ``step``; and the new cache."""
        logits, cache = self.decode_block(target[:, None], cache, step, source_mask)
        return logits[:, 0], cache

    def decode_block(self, target, cache: dict, step, source_mask) -> tuple:
        """As decode_step for T tokens at once, of one hypothesis a sentence: (B, T) -> (B, T, V), and the new cache."""
        x = self.embed_target(target, start=step)  # (B W, T, D)
        x, cache = self.decoder.step(x, cache, step, source_mask)
        return self.logits(x), cache

    def reorder_cache(self, cache, parents) -> dict:
        """The cache after hypothesis w of each sentence has become a child of hypothesis parents[:, w], (B, W)."""
        return self.decoder.reorder_cache(cache, parents)

    def grow_cache(self, cache, max_length) -> dict:
        """The cache with room for ``max_length`` positions."""
        return self.decoder.grow_cache(cache, max_length)

    @ends_in_hidden_states
    def logits(self, hidden):
        """Decoder output (B, T, D) -> float32 logits (B, T, V)."""
        return ops.cast((self.output_projection or self.target_embedding).logits(hidden), "float32")

    def _embed(self, embedding, ids, start=0, positions=None, training=None):
        return self.embedding_dropout(
            self.positions(embedding(ids), start=start, positions=positions), training=training
        )

    def resize_vocabulary(self, vocabulary_size, rows=None, seed=None):
        """A model of another vocabulary with these weights; the table rows of shared pieces are copied exactly.

        Args:
            vocabulary_size: V of the new model.
            rows: (V,) for each new id the old one whose row it takes, or -1 for a new one; see text.shared_rows. None for the ids
                both have.
            seed: of the rows that are new; None for the one after the model's, whose own would give the rows it already has.

        Returns:
            A model of the same class, not compiled: an optimizer's state would be of the old shapes.

        Raises:
            ValueError: rows are of another length or name no old id; the source has a vocabulary of its own; a subclass has other
                weights whose shape depends on the vocabulary.

        Example:

        >>> import numpy as np
        >>> import keras_transformer as kt
        >>> model = kt.Transformer(20, d_model=8, num_heads=2, num_layers=1)
        >>> larger = model.resize_vocabulary(25)
        >>> inputs = {"source": np.array([[5, 6, 3]]), "target": np.array([[2, 7]])}
        >>> old, new = model.predict(inputs, verbose=0), larger.predict(inputs, verbose=0)
        >>> bool(np.allclose(old, new[..., :20], atol=1e-6))
        True
        """
        if self.source_vocabulary_size is not None:
            raise ValueError(
                "resize_vocabulary changes the one vocabulary that source and target share. Received: a model with "
                f"source_vocabulary_size={self.source_vocabulary_size}."
            )
        if rows is None:
            rows = [number if number < self.vocabulary_size else -1 for number in range(vocabulary_size)]
        rows = np.asarray(rows)
        if rows.shape != (vocabulary_size,) or rows.min() < -1 or rows.max() >= self.vocabulary_size:
            raise ValueError(
                f"rows must hold {vocabulary_size} ids from -1 to {self.vocabulary_size - 1}. Received: shape {rows.shape}, from "
                f"{rows.min()} to {rows.max()}."
            )
        if seed is None and self.seed is not None:
            seed = self.seed + 1
        model = type(self).from_config(self.get_config() | {"vocabulary_size": vocabulary_size, "seed": seed})
        holders = (self.source_embedding, self.target_embedding, self.output_projection)
        tables = {weight.path for layer in holders if layer is not None for weight in layer.weights}
        for old, new in zip(self.weights, model.weights, strict=True):
            values = ops.convert_to_numpy(old)
            if old.path in tables:  # (V, D)
                values = np.where((rows >= 0)[:, None], values[rows], ops.convert_to_numpy(new))
            elif old.shape != new.shape:
                raise ValueError(
                    f"resize_vocabulary knows the tables of ids alone. Received: a {type(self).__name__} whose weight {old.path} "
                    f"of shape {tuple(old.shape)} would be {tuple(new.shape)}. Override resize_vocabulary for it."
                )
            new.assign(values)
        return model

    def compute_output_shape(self, input_shape: dict) -> tuple:
        return (*input_shape["target"], self.vocabulary_size)

    @property
    def output_table(self):
        """The weight (V, D) whose rows score the hidden states."""
        return self.target_embedding.embeddings if self.output_projection is None else self.output_projection.kernel

    def export(self, filepath: str | Path, *args, input_signature: list | None = None, **kwargs):
        """keras.Model.export of ``call``: ids in, logits out. Translator.export writes a model that translates."""
        if input_signature is None:
            ids = keras.InputSpec(shape=(None, None), dtype="int32")
            input_signature = [{"source": ids, "target": ids}]
        return super().export(filepath, *args, input_signature=input_signature, **kwargs)

    @classmethod
    def from_config(cls, config: dict, custom_objects: dict | None = None) -> Self:
        config = dict(config)
        frozen = config.pop("frozen", ())
        model = super().from_config(config, custom_objects)
        parts = dict(_parts(model))
        if unknown := sorted(set(frozen) - parts.keys()):
            raise ValueError(
                f"The configuration freezes parts that the model does not have. Received: {', '.join(unknown)}. "
                f"Expected: some of {', '.join(parts)}."
            )
        for path, layer in parts.items() if frozen else ():
            layer.trainable = path not in frozen
        return model

    def get_config(self) -> dict:
        """Every argument; and under "frozen" the layers that are, if some are, as in "decoder/layer_0/feed_forward"."""
        frozen = [path for path, layer in _parts(self) if not layer.trainable]
        return (
            super().get_config()
            | ({"frozen": frozen} if frozen else {})
            | {
                "vocabulary_size": self.vocabulary_size,
                "d_model": self.d_model,
                "d_ff": self.d_ff,
                "num_heads": self.num_heads,
                "num_layers": self.num_layers,
                "num_decoder_layers": self.num_decoder_layers,
                "dropout": self.dropout,
                "attention_dropout": self.attention_dropout,
                "activation_dropout": self.activation_dropout,
                "norm": self.norm,
                "activation": keras.activations.serialize(self.activation),
                "epsilon": self.epsilon,
                "tie_embeddings": self.tie_embeddings,
                "residual_dropout_position": self.residual_dropout_position,
                "pad_id": self.pad_id,
                "bos_id": self.bos_id,
                "eos_id": self.eos_id,
                "preset": self.preset,
                "seed": self.seed,
                "remat": self.remat,
                "source_vocabulary_size": self.source_vocabulary_size,
            }
        )


def _parts(model):
    """Yields (path, layer) of all layers with weights, however deep, each before its own; paths begin within the model.

    Keras has no public way to list them.
    """
    for layer in model._flatten_layers(include_self=False):
        if layer.weights:
            yield layer.path.partition("/")[2], layer
