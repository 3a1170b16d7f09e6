"""Which source pieces the decoder looks at while it writes each target piece: the map that the page draws.

One pass over a finished translation, on any backend and inside a SavedModel.
"""

from keras import ops

from keras_transformer.layers.masking import causal_mask, padding_mask


def forced_pass(model, source, target) -> tuple:
    """Runs ``model`` over given targets as training does, and keeps the attention of the last decoder layer.

    Args:
        model: a Transformer.
        source: (B, S) integer ids.
        target: (B, T) integer ids; begins with bos.

    Returns:
        Logits (B, T, V), and attention (B, T, S): the last layer's to the encoder's output, mean over its heads; a row sums to 1.

    Example:

    >>> import numpy as np
    >>> import keras_transformer as kt
    >>> from keras_transformer.export.attention_map import forced_pass
    >>> model = kt.Transformer(vocabulary_size=20, d_model=8, num_heads=2, num_layers=1)
    >>> logits, attention = forced_pass(model, np.array([[5, 6, 3]]), np.array([[2, 7]]))
    >>> tuple(logits.shape), tuple(attention.shape)
    ((1, 2, 20), (1, 2, 3))
    """
    source_mask = padding_mask(source, model.pad_id)  # (B, 1, 1, S)
    encoder_output = model.encode(source, source_mask)
    x = model._embed(model.target_embedding, target)  # (B, T, D)
    mask = causal_mask(ops.shape(target)[1])
    looked = []

    def attend_to_encoder(layer):
        def attend(y):
            looked.append(layer.cross_attention.attention_scores(y, encoder_output, attention_mask=source_mask))
            return layer.cross_attention(y, encoder_output, attention_mask=source_mask)

        return attend

    for layer in model.decoder.layers:
        attend_to_self = lambda y, layer=layer: layer.self_attention(y, attention_mask=mask)  # noqa: E731
        x = layer._body(x, attend_to_self, attend_to_encoder(layer))
    return model.logits(model.decoder._finish(x)), ops.mean(looked[-1], axis=1)
