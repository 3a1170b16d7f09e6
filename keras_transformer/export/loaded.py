"""An exported SavedModel as an object: what the server runs when it is given an artefact instead of a run."""

import json
from pathlib import Path

import numpy as np

from keras_transformer.export.folders import CARD_FILE, verify_export
from keras_transformer.model_files import TOKENIZER_FILE
from keras_transformer.text.tokenizer import Tokenizer


class LoadedSavedModel:
    """A verified export, loaded with TensorFlow.

    Args:
        folder: what export_saved_model wrote.

    Attributes:
        card: dict, the export's card.json.
        tokenizer: its Tokenizer.
        version: int, the newest in the folder.

    Raises:
        ValueError: a file differs from what was exported, the folder holds no SavedModel with a tokenizer, or TensorFlow is not
            installed.

    Example:

        model = LoadedSavedModel("saved_models/en-de")
        ids, scores = model.search(np.array([[5, 6, 3]]))
    """

    def __init__(self, folder):
        folder = Path(folder)
        verify_export(folder)
        versions = [int(path.name) for path in folder.iterdir() if path.name.isdecimal()]
        if not versions or not (folder / TOKENIZER_FILE).is_file():
            raise ValueError(
                f"{folder} holds no SavedModel with its tokenizer. Expected what export_saved_model wrote."
            )
        try:
            import tensorflow as tf
        except ModuleNotFoundError:
            raise ValueError(
                "A SavedModel is run by TensorFlow: pip install 'keras-transformer[tensorflow]'."
            ) from None
        self.card = json.loads((folder / CARD_FILE).read_text(encoding="utf-8"))
        self.tokenizer = Tokenizer.load(folder / TOKENIZER_FILE)
        self.version = max(versions)
        self._tf = tf
        self._loaded = tf.saved_model.load(str(folder / str(self.version)))

    def _run(self, signature, **inputs):
        tensors = {name: self._tf.constant(x) if isinstance(x, np.ndarray) else x for name, x in inputs.items()}
        return self._loaded.signatures[signature](**tensors)

    def search(self, source):
        """source (B, S) int32 -> ids (B, W, L) and scores (B, W), as NumPy arrays."""
        answer = self._run("serving_default", source=np.asarray(source, "int32"))
        return answer["ids"].numpy(), answer["scores"].numpy()

    def attention(self, source, labels):
        """The attention (B, T, S) with which ``labels`` (B, T), ended by eos, are written."""
        answer = self._run("score", source=np.asarray(source, "int32"), labels=np.asarray(labels, "int32"))
        return answer["attention"].numpy()

    def start(self, source):
        """What ``step`` needs for source (1, S)."""
        encoded = self._run("encode", source=np.asarray(source, "int32"))
        kept = {name: encoded[name] for name in ("encoder_keys", "encoder_values")}
        shape = list(encoded["encoder_keys"].shape)
        empty = self._tf.zeros([shape[0], shape[1], shape[2], 0, shape[4]])
        return kept | {"source": np.asarray(source, "int32"), "keys": empty, "values": empty}

    def step(self, state, token):
        """(logits (V,) of the token after ``token``, the state after it)."""
        answer = self._run("decode_step", target=np.array([token], "int32"), **state)
        return answer["logits"].numpy()[0], state | {"keys": answer["keys"], "values": answer["values"]}
