"""An exported SavedModel as an object: what the server runs when it is given an artefact instead of a run."""

import json
from pathlib import Path

import numpy as np

from keras_transformer.artifacts import ArtifactError
from keras_transformer.decoding.errors import check_finite
from keras_transformer.export.folders import CARD_FILE, verify_export
from keras_transformer.model_files import TOKENIZER_FILE
from keras_transformer.text.tokenizer_files import load_tokenizer


def newest_version(folder) -> int:
    """The highest number among the folders of an export; 0 where there is none."""
    folder = Path(folder)
    return (
        max((int(path.name) for path in folder.iterdir() if path.name.isdecimal()), default=0) if folder.is_dir() else 0
    )


def load_saved_model(folder):
    """tf.saved_model.load of the newest version in an export, once every byte has been compared with the manifest.

    Args:
        folder: what export_saved_model wrote.

    Returns:
        What TensorFlow loads; ``.signatures["serving_default"]`` decodes.

    Raises:
        ArtifactError: a ValueError: there is no manifest, a file is missing or damaged, or no version is listed.
        ValueError: TensorFlow is not installed.

    Example:

        serve = kt.export.load_saved_model("saved_models/en-de").signatures["serving_default"]
    """
    files = verify_export(folder)
    version = newest_version(folder)
    if not version:
        raise ArtifactError(folder, "it holds no SavedModel", "Expected what export_saved_model wrote.")
    if f"{version}/saved_model.pb" not in files:
        raise ArtifactError(
            Path(folder, str(version)),
            "the manifest does not list it, so that nobody knows what it is",
            "Take it out of the folder, or export anew.",
        )
    try:
        import tensorflow as tf
    except ModuleNotFoundError:
        raise ValueError("A SavedModel is run by TensorFlow: pip install 'keras-transformer[tensorflow]'.") from None
    return tf.saved_model.load(str(Path(folder) / str(version)))


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
        self._loaded = load_saved_model(folder)
        if not (folder / TOKENIZER_FILE).is_file():
            raise ValueError(
                f"{folder} holds no {TOKENIZER_FILE}, without which it takes ids alone. Export it with its tokenizer."
            )
        self.card = json.loads((folder / CARD_FILE).read_text(encoding="utf-8"))
        self.tokenizer = load_tokenizer(folder / TOKENIZER_FILE)
        self.version = newest_version(folder)

    def _run(self, signature, **inputs):
        import tensorflow as tf

        tensors = {name: tf.constant(x) if isinstance(x, np.ndarray) else x for name, x in inputs.items()}
        return self._loaded.signatures[signature](**tensors)

    def search(self, source):
        """source (B, S) int32 -> ids (B, W, L) and scores (B, W), as NumPy arrays; ValueError where the scores are no numbers."""
        answer = self._run("serving_default", source=np.asarray(source, "int32"))
        scores = answer["scores"].numpy()
        check_finite(scores)
        return answer["ids"].numpy(), scores

    def attention(self, source, labels):
        """What each of ``labels`` (B, T), ended by eos, attends to in source (B, S): (B, T, S)."""
        answer = self._run("score", source=np.asarray(source, "int32"), labels=np.asarray(labels, "int32"))
        return answer["attention"].numpy()

    def start(self, source):
        """What ``step`` needs for source (1, S)."""
        encoded = self._run("encode", source=np.asarray(source, "int32"))
        kept = {name: encoded[name] for name in ("encoder_keys", "encoder_values")}
        shape = list(encoded["encoder_keys"].shape)
        empty = np.zeros([*shape[:3], 0, shape[4]], encoded["encoder_keys"].dtype.as_numpy_dtype)
        return kept | {"source": np.asarray(source, "int32"), "keys": empty, "values": empty}

    def step(self, state, token):
        """(logits (V,) of the token after ``token``, the state after it)."""
        answer = self._run("decode_step", target=np.array([token], "int32"), **state)
        return answer["logits"].numpy()[0], state | {"keys": answer["keys"], "values": answer["values"]}
