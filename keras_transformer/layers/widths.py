"""The width that a layer is made for, compared with that of what it gets."""


def check_width(layer, name: str, shape: tuple) -> None:
    """Raises ValueError unless ``shape`` (..., D) ends with the layer's d_model.

    Args:
        layer: a layer with an attribute d_model.
        name: what the shape belongs to, for the message.
        shape: tuple.

    Example:

    >>> from keras_transformer.layers import FeedForward
    >>> from keras_transformer.layers.widths import check_width
    >>> check_width(FeedForward(8), "x", (1, 3, 8))
    """
    if shape[-1] != layer.d_model:
        kind = type(layer).__name__
        raise ValueError(
            f"{kind} was made for d_model={layer.d_model}. Received: {name} of shape {tuple(shape)}. Expected: "
            f"(..., {layer.d_model}). Make the layer with d_model={shape[-1]}, or project {name} first."
        )
