"""An ONNX export: encoder.onnx and decoder_step.onnx, with a driver that searches; for runtimes in any language."""

import importlib.util

from keras_transformer.export.card import write_card
from keras_transformer.export.drivers import write_driver
from keras_transformer.export.folders import checked_tokenizer, new_export
from keras_transformer.export.weights import Weights
from keras_transformer.model_files import TOKENIZER_FILE

_USE = (
    "python translate.py < source > translation needs onnxruntime, numpy and sentencepiece alone (--help: its options): "
    "it searches as the Python decoder does. encoder.onnx takes source (B, S) int32, rows ended by eos_id and filled up with "
    "pad_id, and gives encoder_keys and encoder_values (B, N, H, S, K), N decoder layers. decoder_step.onnx takes these, source, "
    "target (B W,) int32, the token before (first bos_id), and keys, values (B W, N, H, T, K) of the T tokens before (first "
    "T = 0); it gives logits (B W, V), grown_keys and grown_values (B W, N, H, T + 1, K)."
)


def export_onnx(model, tokenizer, folder, facts: dict | None = None) -> None:
    """Writes ``model`` as two ONNX graphs with its tokenizer, a driver and a card.

    The graphs are written from the weights, operator by operator (opset 20, float32), so that every backend gives the same files.
    ``python FOLDER/translate.py < text`` translates, greedily or by beam search, with the ids and scores of decoding.BeamSearch.

    Args:
        model: a Transformer, on any backend.
        tokenizer: its Tokenizer.
        folder: where to; made if it is missing. An earlier export there is replaced as a whole.
        facts: dict of what else the card is to say; see export.card.

    Raises:
        ValueError: onnx is not installed, ``folder`` holds something else, the activation is unknown, or the weights are not
            those of a kt.Transformer.

    Example:

        translator = kt.Translator.load("run/translator")
        kt.export.export_onnx(translator.model, translator.tokenizer, "saved_models/en-de-onnx")
    """
    if importlib.util.find_spec("onnx") is None:
        raise ValueError(
            "An ONNX model is written by the package onnx, which is not installed: pip install 'keras-transformer[onnx]'."
        )
    import onnx

    from keras_transformer.export.onnx_graph import OPSET, decoder_step_graph, encoder_graph

    checked_tokenizer(model, tokenizer, "An ONNX export")
    weights = Weights(model, "An ONNX model")
    graphs = {"encoder.onnx": encoder_graph(model, weights), "decoder_step.onnx": decoder_step_graph(model, weights)}
    weights.finish()
    with new_export(folder) as new:
        for name, graph in graphs.items():
            onnx.save(graph, str(new / name))
        tokenizer.save(new / TOKENIZER_FILE)
        write_driver("onnx", new)
        write_card(
            new,
            model,
            "ONNX model",
            _USE,
            {"opset": OPSET, "special_ids": tokenizer.special_ids.tolist()} | (facts or {}),
        )
