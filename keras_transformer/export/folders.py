"""The folder of an export: written as a whole, with a manifest, and refused when one bit of it has changed."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from keras_transformer.artifacts import check_folder, check_manifest, new_folder, write_manifest
from keras_transformer.model_files import CONFIG_FILE
from keras_transformer.text.pair import TokenizerPair
from keras_transformer.text.tokenizer import Tokenizer

CARD_FILE = "card.json"
_KIND = "export"


@contextlib.contextmanager
def new_export(folder) -> Iterator[Path]:
    """A folder to write an export into: gets its manifest and becomes ``folder`` when the block ends well; see new_folder.

    Args:
        folder: path; an earlier export there, known by its card.json, is replaced as a whole.

    Raises:
        ValueError: ``folder`` holds other things, which would be lost.

    Example:

    >>> import tempfile
    >>> from keras_transformer.export.folders import new_export, verify_export
    >>> with tempfile.TemporaryDirectory() as parent:
    ...     with new_export(parent + "/a") as folder:
    ...         _ = (folder / "card.json").write_text("{}")
    ...     verify_export(parent + "/a")
    ['card.json']
    """
    check_export_folder(folder)
    with new_folder(folder, mark=CARD_FILE, complete=lambda new: write_manifest(new, _KIND)) as new:
        yield new


def check_export_folder(folder) -> None:
    """Raises ValueError if new_export would refuse ``folder``: called before long work whose result goes there.

    A saved translator is refused too: it may have a card as exports do, and be the only copy of the model.
    """
    check_folder(folder, CARD_FILE)
    if (Path(folder) / CONFIG_FILE).is_file():
        raise ValueError(
            f"{folder} holds a saved model, which would be lost: there is a {CONFIG_FILE}. Name a new folder."
        )


def verify_export(folder) -> list[str]:
    """Raises unless every file of an export is, bit for bit, what was exported.

    The manifest tells damage, not intent: a SavedModel is a program, load none that you do not trust.

    Args:
        folder: path of the export.

    Returns:
        Names of the files that the manifest lists, with "/" between folders.

    Raises:
        ArtifactError: a ValueError: there is no manifest, or a file is missing or changed; names it.
    """
    return check_manifest(folder, _KIND)


def checked_tokenizer(model, tokenizer, target: str, sentencepiece: bool = True) -> None:
    """Raises unless there is a tokenizer, it has the model's ids and, if ``sentencepiece``, is a kt.Tokenizer.

    Args:
        model: a Transformer.
        tokenizer: to check.
        target: the name of what is written, for messages.
        sentencepiece: whether users of the export read the tokenizer as a SentencePiece model.

    Example:

    >>> import keras_transformer as kt
    >>> from keras_transformer.export.folders import checked_tokenizer
    >>> tokenizer = kt.Tokenizer.train(["a dog runs"], vocabulary_size=270)
    >>> checked_tokenizer(kt.Transformer(tokenizer.vocabulary_size, d_model=8, num_heads=2, num_layers=1), tokenizer, "An export")
    """
    if tokenizer is None:
        raise ValueError(
            f"{target} holds the tokenizer. Received: tokenizer=None. Give the one the model was trained with."
        )
    if isinstance(tokenizer, TokenizerPair):
        raise ValueError(
            f"{target} holds one tokenizer, for both sides. Received: a TokenizerPair. Export a SavedModel of ids with "
            "export_saved_model(model, None, folder), or serve the translator itself with keras-transformer serve."
        )
    if sentencepiece and not isinstance(tokenizer, Tokenizer):
        raise ValueError(
            f"{target} holds its tokenizer as a SentencePiece model. Received: a {type(tokenizer).__name__}. Train the model "
            "with a kt.Tokenizer, or export a SavedModel, which takes ids."
        )
    names = ("vocabulary_size", "pad_id", "bos_id", "eos_id")
    differing = [name for name in names if getattr(model, name) != getattr(tokenizer, name)]
    if differing:
        shown = ", ".join(f"{name} {getattr(model, name)} and {getattr(tokenizer, name)}" for name in differing)
        raise ValueError(
            f"Model and tokenizer do not belong together: {shown}. Use the tokenizer the model was trained with."
        )
