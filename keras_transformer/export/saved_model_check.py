"""Whether a SavedModel answers as Python does; at every export, and what the card says of it."""

from pathlib import Path

import numpy as np

SENTENCES = 50
_TOLERANCE = 1e-4  # of scores: what rounding does on another backend


def sources(model, tokenizer=None, sentences: list[str] | None = None) -> np.ndarray:
    """Sources (50, S) of different lengths, ended by eos and filled up with pad.

    Args:
        model: a Transformer.
        tokenizer: for ``sentences``.
        sentences: texts, blank ones left out, of which 50 at most are taken at even distances; None for made-up ids.

    Raises:
        ValueError: there are sentences, but all are blank.
    """
    if sentences:
        rows = tokenizer.encode([text for text in sentences if text.strip()], add_eos=True)
        if not rows:
            raise ValueError("sentences to compare the export with must hold text. All that were given are blank.")
        rows = rows[:: max(len(rows) // SENTENCES, 1)][:SENTENCES]
    else:
        rows = _made_up(model)
    source = np.full((len(rows), max(map(len, rows))), model.pad_id, "int32")
    for row, ids in zip(source, rows, strict=True):
        row[: len(ids)] = ids
    return source


def _made_up(model):
    generator = np.random.default_rng(0)
    special = (model.pad_id, model.bos_id, model.eos_id)
    words = [word for word in range(model.num_source_pieces) if word not in special] or [model.eos_id]
    lengths = generator.integers(1, 12, SENTENCES)
    return [[*generator.choice(words, length).tolist(), model.eos_id] for length in lengths]


def compare(model, folder: Path, expected: dict) -> dict:
    """Loads the SavedModel in ``folder`` and compares each signature with the model, on the TensorFlow backend.

    Args:
        model: the Transformer that was exported.
        folder: where saved_model.pb lies.
        expected: {"source", "ids", "scores"}: what the search in Python found.

    Returns:
        dict for the card: how many sentences, the shapes tried, the largest difference of a score, the kinds of operations.

    Raises:
        ValueError: an answer differs.
    """
    import tensorflow as tf

    loaded = tf.saved_model.load(str(folder))
    signatures = loaded.signatures
    source, ids, scores = (expected[name] for name in ("source", "ids", "scores"))
    serve = signatures["serving_default"]
    difference = _compare_search(serve, model.pad_id, source, ids, scores)
    # Other shapes, unseen until now: neither batch nor padding may change what a sentence gets.
    lengths = (source != model.pad_id).sum(axis=1)
    shapes = [source.shape]
    for rows in ([0], np.argsort(lengths)[: len(lengths) // 7 + 1]):
        part = source[rows][:, : lengths[rows].max()]
        _compare_search(serve, model.pad_id, part, ids[rows], scores[rows])
        shapes.append(part.shape)
    _compare_parts(model, signatures, source, ids[:, 0])
    return {
        "sentences": len(source),
        "sentences_with_other_ids": 0,
        "largest_difference_of_a_score": difference,
        "shapes": [list(shape) for shape in shapes],
        "operations": sorted(_operations(folder)),
    }


def compare_texts(folder: Path, folder_of_texts: Path, tokenizer, source: np.ndarray) -> int:
    """Raises unless translate_text gives what serving_default and the tokenizer give; returns for how many texts.

    Args:
        folder: of the SavedModel that takes ids.
        folder_of_texts: of the one that takes texts.
        tokenizer: the Tokenizer of both.
        source: (B, S) ids, from which the texts are made.
    """
    import tensorflow as tf

    texts = ["", " ", "\u3000", *(tokenizer.decode(row) for row in source)]
    rows = [tokenizer.encode(text, add_eos=True) for text in texts]
    padded = np.full((len(rows), max(map(len, rows))), tokenizer.pad_id, "int32")
    for row, ids in zip(padded, rows, strict=True):
        row[: len(ids)] = ids
    ids = tf.saved_model.load(str(folder)).signatures["serving_default"](source=tf.constant(padded))["ids"].numpy()
    expected = [tokenizer.decode(row) if text.strip() else "" for text, row in zip(texts, ids[:, 0], strict=True)]
    translate = tf.saved_model.load(str(folder_of_texts)).signatures["translate_text"]
    found = [text.decode("utf-8", "replace") for text in translate(text=tf.constant(texts))["translation"].numpy()]
    for text, one, other in zip(texts, found, expected, strict=True):
        if one != other:
            raise ValueError(
                f"translate_text of the exported SavedModel gives {one!r} for {text!r}, serving_default and the tokenizer give "
                f"{other!r}. Please report this, and export without text."
            )
    return len(texts)


def _compare_search(serve, pad_id, source, ids, scores):
    """Raises if ids differ or scores do by more than rounding; returns their largest difference."""
    import tensorflow as tf

    served = {name: value.numpy() for name, value in serve(source=tf.constant(source)).items()}
    # Shorter answers may be filled up to another length, where the batch is another.
    length = max(ids.shape[2], served["ids"].shape[2])
    fill = lambda x: np.pad(x, [(0, 0), (0, 0), (0, length - x.shape[2])], constant_values=pad_id)  # noqa: E731
    wrong = (fill(served["ids"]) != fill(ids)).any(axis=(1, 2))
    close = np.isclose(scores, served["scores"], atol=_TOLERANCE, rtol=_TOLERANCE).all(axis=1)
    if wrong.any() or not close.all():
        row = int(np.flatnonzero(wrong | ~close)[0])
        raise ValueError(
            f"The exported SavedModel does not answer as the model does for {int((wrong | ~close).sum())} of {len(source)} "
            f"sentences, first for source {source[row].tolist()}: {served['ids'][row].tolist()}, scores "
            f"{served['scores'][row].tolist()}, instead of {ids[row].tolist()}, {scores[row].tolist()}. Do not use it; please "
            "report this."
        )
    return float(np.abs(scores - served["scores"]).max())


def _compare_parts(model, signatures, source, labels):
    """encode and decode_step, one token at a time, must give the log-probabilities that score gives for whole translations."""
    import tensorflow as tf

    length = max(int((labels != model.pad_id).sum(axis=1).max()), 1)
    labels = labels[:, :length].astype("int32")
    scored = signatures["score"](source=tf.constant(source), labels=tf.constant(labels))
    encoded = signatures["encode"](source=tf.constant(source))
    encoder = {name: encoded[name] for name in ("encoder_keys", "encoder_values")}
    width = model.d_model // model.num_heads
    empty = tf.zeros((len(source), model.num_decoder_layers, model.num_heads, 0, width), model.compute_dtype)
    cache, token = {"keys": empty, "values": empty}, np.full(len(source), model.bos_id, "int32")
    for step in range(length):
        answer = signatures["decode_step"](source=tf.constant(source), target=tf.constant(token), **encoder, **cache)
        cache, token = {name: answer[name] for name in cache}, labels[:, step]
        stepped = tf.nn.log_softmax(answer["logits"]).numpy()[np.arange(len(source)), token]
        real = token != model.pad_id
        if not np.allclose(stepped[real], scored["log_probabilities"].numpy()[real, step], atol=1e-3, rtol=1e-3):
            raise ValueError(
                f"The exported SavedModel contradicts itself: decode_step and score differ at token {step}: "
                f"{stepped[real].tolist()} and {scored['log_probabilities'].numpy()[real, step].tolist()}. Please report this."
            )


def _operations(folder):
    """The kinds of operations in a SavedModel's graph and all its functions."""
    from tensorflow.core.protobuf import saved_model_pb2

    graph = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes()).meta_graphs[0].graph_def
    return {node.op for nodes in (graph.node, *(one.node_def for one in graph.library.function)) for node in nodes}
