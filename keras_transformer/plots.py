"""Pictures of a training run and of attention, drawn with Matplotlib (``pip install 'keras-transformer[plots]'``)."""

from pathlib import Path

# What stands in one panel, from left to right; a panel without a column in the table is left out.
_PANELS = {
    "loss a token": ("loss", "val_loss"),
    "perplexity": ("perplexity", "val_perplexity"),
    "token accuracy": ("token_accuracy", "val_token_accuracy"),
    "BLEU": ("val_bleu",),
    "learning rate": ("learning_rate",),
}
_LOGARITHMIC = {"perplexity"}


def learning_curves(rows: list[dict], path: str | Path) -> None:
    """Draws what LearningCurves recorded as a row of panels over the updates done, into a PNG.

    Args:
        rows: list of dicts with "step" and any of loss, perplexity, token_accuracy, learning_rate, val_bleu and the first
            three with "val_" in front; a value may be missing.
        path: where to write the picture.

    Raises:
        ModuleNotFoundError: Matplotlib is not installed.

    Example:

        from keras_transformer.plots import learning_curves
        learning_curves([{"step": 100, "loss": 5.1}, {"step": 200, "loss": 4.2, "val_loss": 4.4}], "curves.png")
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = {
        title: [name for name in names if any(row.get(name) is not None for row in rows)]
        for title, names in _PANELS.items()
    }
    panels = {title: names for title, names in panels.items() if names}
    figure = Figure(figsize=(3.6 * len(panels), 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, names) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for name in names:
            points = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
            label = "validation" if name.startswith("val_") else "training"
            axes.plot(*zip(*points, strict=True), label=label, marker="." if len(points) < 30 else None)
        axes.set_title(title)
        axes.set_xlabel("update")
        axes.grid(alpha=0.3)
        if title in _LOGARITHMIC:
            axes.set_yscale("log")
        if len(names) > 1:
            axes.legend()
    figure.savefig(path, dpi=110)


def attention_heat_map(maps, path, kind="cross", layer=-1, head=None):
    """Draws what one layer of a model attends to, axes labelled with pieces, into a PNG.

    Args:
        maps: decoding.AttentionMaps, from Translator.attention.
        path: where to write the picture.
        kind: "cross" (target to source), "encoder" (source to itself) or "decoder" (target to itself).
        layer: index of the layer; -1 for the last.
        head: index of the head; None for the mean of all.

    Raises:
        ValueError: there is no such kind, layer or head.
        ModuleNotFoundError: Matplotlib is not installed.

    Example:

        from keras_transformer.plots import attention_heat_map
        attention_heat_map(translator.attention("A dog runs.", "Ein Hund rennt."), "attention.png")
    """
    if kind not in ("cross", "encoder", "decoder"):
        raise ValueError(f'kind must be "cross", "encoder" or "decoder". Received: {kind!r}.')
    layers = getattr(maps, kind)
    if not -len(layers) <= layer < len(layers):
        raise ValueError(f"layer must be below {len(layers)}. Received: layer={layer}.")
    if head is not None and not -layers.shape[1] <= head < layers.shape[1]:
        raise ValueError(f"head must be below {layers.shape[1]}, or None. Received: head={head}.")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    weights = layers[layer].mean(axis=0) if head is None else layers[layer, head]
    # Row t of the cross attention is where the decoder reads piece t and says the next: the reader looks for what it says.
    rows = {"cross": maps.labels, "encoder": maps.source, "decoder": maps.target}[kind]
    columns = maps.target if kind == "decoder" else maps.source
    figure = Figure(figsize=(2 + 0.35 * len(columns), 1.5 + 0.3 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    image = axes.imshow(weights, vmin=0, vmax=1, cmap="Blues", aspect="auto")
    axes.set_xticks(range(len(columns)), columns, rotation=90)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_title(f"{kind}, layer {layer % len(layers)}, {'mean of heads' if head is None else f'head {head}'}")
    figure.colorbar(image)
    figure.savefig(path, dpi=110)
