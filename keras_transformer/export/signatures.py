"""The signatures of a SavedModel, as TensorFlow functions with open dimensions; on the TensorFlow backend only.

    serving_default  source -> ids, scores                the search, from ids to ids
    encode           source -> encoder_output, keys, values
    decode_step      one token more for every hypothesis: called in a loop by another search, or to stream
    score            source, labels -> log-probabilities and attention of a given translation
    translate_text   text -> text                         in a SavedModel of its own: it needs TensorFlow Text to load

Every tensor has the batch first, as servers that put requests together expect.
"""

import numpy as np
from keras import ops

from keras_transformer.decoding.scoring import ForcedDecoding
from keras_transformer.layers.masking import padding_mask

# What Python's str.strip takes off; in TensorFlow \s is ASCII's blanks alone.
_BLANK = r"[\s\x{0b}\x{1c}-\x{1f}\x{85}\p{Z}]*"
# What the card says of them.
DESCRIPTIONS = {
    "serving_default": {
        "inputs": {"source": "int32 (B, S), rows ended by eos_id and filled up with pad_id"},
        "outputs": {"ids": "int32 (B, W, L), best first", "scores": "float32 (B, W)"},
    },
    "encode": {
        "inputs": {"source": "int32 (B, S)"},
        "outputs": {
            "encoder_output": "float32 (B, S, D)",
            "encoder_keys": "float32 (B, N, H, S, K), N decoder layers",
            "encoder_values": "float32 (B, N, H, S, K)",
        },
    },
    "decode_step": {
        "inputs": {
            "source": "int32 (B, S)",
            "encoder_keys": "as encode gives them",
            "encoder_values": "as encode gives them",
            "target": "int32 (B W,), the token before, first bos_id; the W hypotheses of a sentence stand side by side",
            "keys": "float32 (B W, N, H, T, K), of the T tokens before; first with T = 0",
            "values": "float32 (B W, N, H, T, K)",
        },
        "outputs": {
            "logits": "float32 (B W, V)",
            "keys": "float32 (B W, N, H, T + 1, K)",
            "values": "float32 (B W, N, H, T + 1, K)",
        },
    },
    "score": {
        "inputs": {
            "source": "int32 (B, S)",
            "labels": "int32 (B, T), translations ended by eos_id and filled up with pad_id",
        },
        "outputs": {
            "log_probabilities": "float32 (B, T), 0 at padding",
            "scores": "float32 (B,), their sums",
            "attention": "float32 (B, T, S), the last decoder layer's to the source, mean over its heads",
        },
    },
}


def make_signatures(search) -> dict:
    """The functions of one SavedModel around ``search``, a decoding.BeamSearch; {name: tf.function}."""
    import tensorflow as tf

    model = search.model
    ids = lambda name: tf.TensorSpec((None, None), "int32", name=name)  # noqa: E731
    cache = lambda name: tf.TensorSpec(  # noqa: E731
        (None, model.num_decoder_layers, model.num_heads, None, model.d_model // model.num_heads),
        model.compute_dtype,
        name=name,
    )

    def checked(values):
        """Ids; a gather tells those beyond the table, but counts those below 0 from its end."""
        tf.debugging.assert_non_negative(
            values, f"Ids are from 0 to {model.vocabulary_size - 1}; some here are negative."
        )
        return values

    @tf.function(input_signature=[ids("source")])
    def serving_default(source):
        source = checked(source)
        found, scores = search.search(source)
        return {"ids": found, "scores": scores}

    @tf.function(input_signature=[ids("source")])
    def encode(source):
        source = checked(source)
        encoder_output = model.encode(source, padding_mask(source, model.pad_id))
        pairs = [layer.cross_attention.project_encoder(encoder_output) for layer in model.decoder.layers]
        keys, values = (ops.stack(tensors, axis=1) for tensors in zip(*pairs, strict=True))
        return {"encoder_output": encoder_output, "encoder_keys": keys, "encoder_values": values}

    step_inputs = [ids("source"), cache("encoder_keys"), cache("encoder_values")]
    step_inputs += [tf.TensorSpec((None,), "int32", name="target"), cache("keys"), cache("values")]

    @tf.function(input_signature=step_inputs)
    def decode_step(source, encoder_keys, encoder_values, target, keys, values):
        return _decode_step(model, source, encoder_keys, encoder_values, target, keys, values)

    forced = ForcedDecoding(model).forced

    @tf.function(input_signature=[ids("source"), ids("labels")])
    def score(source, labels):
        source, labels = checked(source), checked(labels)
        first = ops.full((ops.shape(labels)[0], 1), model.bos_id, dtype="int32")
        target = ops.concatenate([first, labels[:, :-1]], axis=1)
        log_probabilities, attention = forced(source, target, labels)
        scores = ops.sum(log_probabilities, axis=1)
        return {"log_probabilities": log_probabilities, "scores": scores, "attention": attention}

    return {"serving_default": serving_default, "encode": encode, "decode_step": decode_step, "score": score}


def _decode_step(model, source, encoder_keys, encoder_values, target, keys, values):
    """One cached step of the model, its cache in tensors that grow by a position."""
    mask = padding_mask(source, model.pad_id)
    x = model.embed_target(target[:, None], start=ops.shape(keys)[3])  # (B W, 1, D)
    grown = []

    def attend_to_self(y, index, attention):
        query, key, value = attention.project(y)
        grown.append(
            (ops.concatenate([keys[:, index], key], axis=2), ops.concatenate([values[:, index], value], axis=2))
        )
        return attention.attend(query, *grown[-1])

    def attend_to_encoder(y, index, attention):
        """The hypotheses of a sentence lie side by side, as positions of one query."""
        side_by_side = ops.reshape(y, (ops.shape(source)[0], -1, model.d_model))  # (B, W, D)
        query = attention.project(side_by_side)
        attended = attention.attend(query, encoder_keys[:, index], encoder_values[:, index], mask)
        return ops.reshape(attended, (-1, 1, model.d_model))

    for index, layer in enumerate(model.decoder.layers):
        x = layer.run(
            x,
            lambda y, index=index, layer=layer: attend_to_self(y, index, layer.self_attention),
            lambda y, index=index, layer=layer: attend_to_encoder(y, index, layer.cross_attention),
        )
    logits = model.logits(model.decoder.finish(x))[:, 0]
    keys, values = (ops.stack(tensors, axis=1) for tensors in zip(*grown, strict=True))
    return {"logits": logits, "keys": keys, "values": values}


def make_text_signature(search, tokenizer) -> tuple:
    """translate_text: texts (B,) -> the best translations (B,), SentencePiece and the search inside one graph."""
    import tensorflow as tf
    import tensorflow_text

    model = search.model
    pieces = tensorflow_text.SentencepieceTokenizer(model=tokenizer.to_bytes(), add_eos=True)
    said = ~np.isin(np.arange(model.vocabulary_size), tokenizer.special_ids)  # (V,)

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, name="text")])
    def translate_text(text):
        source = tf.cast(pieces.tokenize(text), tf.int32).to_tensor(model.pad_id)
        ids = search.search(source)[0][:, 0]  # (B, L)
        ended = tf.cumsum(tf.cast(ids == model.eos_id, tf.int32), axis=1) > 0
        blank = tf.strings.regex_full_match(text, _BLANK)
        kept = tf.ragged.boolean_mask(ids, ~ended & tf.gather(said, ids) & ~blank[:, None])
        return {"translation": pieces.detokenize(kept)}

    return translate_text, pieces


def example_inputs(model) -> dict:
    """Small inputs of each signature, for warm-up: {signature: {input: array}}."""
    source = np.array([[model.eos_id]], "int32")
    width = model.d_model // model.num_heads
    shape = (1, model.num_decoder_layers, model.num_heads)
    cache = lambda length: np.zeros((*shape, length, width), model.compute_dtype)  # noqa: E731
    return {
        "serving_default": {"source": source},
        "encode": {"source": source},
        "decode_step": {
            "source": source,
            "encoder_keys": cache(1),
            "encoder_values": cache(1),
            "target": np.array([model.bos_id], "int32"),
            "keys": cache(0),
            "values": cache(0),
        },
        "score": {"source": source, "labels": source},
    }
