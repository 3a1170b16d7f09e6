"""The folder of an export: written as a whole, sealed with SHA-256 sums, and refused when one bit of it has changed.

SHA256SUMS has the format of the command of that name, so that ``sha256sum --check SHA256SUMS`` verifies an artefact where there is
no Python.
"""

import contextlib
import hashlib
from pathlib import Path

from keras_transformer.model_files import new_folder

CARD_FILE = "card.json"
SUMS_FILE = "SHA256SUMS"


@contextlib.contextmanager
def new_export(folder):
    """A folder to write an export into: sealed and moved to ``folder`` when the block ends well; see model_files.new_folder.

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
    """
    with new_folder(folder, mark=CARD_FILE) as new:
        yield new
        files = sorted(path.relative_to(new).as_posix() for path in new.rglob("*") if path.is_file())
        lines = [f"{_sha256(new / file)}  {file}\n" for file in files]
        (new / SUMS_FILE).write_text("".join(lines), encoding="utf-8")


def verify_export(folder):
    """Raises unless every file of an export is, bit for bit, what was exported.

    Args:
        folder: path of the export.

    Raises:
        ValueError: there are no sums, or a file is missing or changed; names it.
    """
    folder = Path(folder)
    advice = "Do not use it; export the model anew or copy the artefact again."
    try:
        lines = (folder / SUMS_FILE).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{folder} cannot be verified: {SUMS_FILE} cannot be read ({error}). {advice}") from None
    if not lines:
        raise ValueError(f"{folder} cannot be verified: {SUMS_FILE} is empty. {advice}")
    for line in lines:
        expected, _, name = line.partition("  ")
        path = folder / name
        if not path.is_file():
            raise ValueError(f"{folder} is not what was exported: {name} is missing. {advice}")
        found = _sha256(path)
        if found != expected:
            raise ValueError(
                f"{folder} is not what was exported: {name} has sha256 {found}, {SUMS_FILE} says {expected}. {advice}"
            )


def _sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checked_tokenizer(model, tokenizer, target):
    """Raises unless there is a tokenizer and it has the model's ids."""
    if tokenizer is None:
        raise ValueError(
            f"{target} holds the tokenizer. Received: tokenizer=None. Give the one the model was trained with."
        )
    names = ("vocabulary_size", "pad_id", "bos_id", "eos_id")
    differing = [name for name in names if getattr(model, name) != getattr(tokenizer, name)]
    if differing:
        shown = ", ".join(f"{name} {getattr(model, name)} and {getattr(tokenizer, name)}" for name in differing)
        raise ValueError(
            f"Model and tokenizer do not belong together: {shown}. Use the tokenizer the model was trained with."
        )
