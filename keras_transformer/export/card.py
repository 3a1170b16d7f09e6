"""The card of an export: what it is, how it is used, where it comes from. card.json for programs, README.md for people."""

import hashlib
import json
from pathlib import Path

import keras
import yaml

from keras_transformer._version import __version__
from keras_transformer.artifacts import ArtifactError
from keras_transformer.artifacts.manifest import file_sha256
from keras_transformer.export.folders import CARD_FILE
from keras_transformer.model_files import TOKENIZER_FILE

README_FILE = "README.md"
# What a caller may say of a model beyond what the model itself tells, with the words a reader meets.
FACTS = {
    "made_by": "How it was made",
    "data": "Data it was trained on",
    "scores": "Scores",
    "certificate": "Agreement of the backends",
    "licence": "Licence",
}
_UNKNOWN = "not stated"
_OTHER_WEIGHTS = (
    "none of these weights: the certificate in the run folder is of others, from before more training perhaps"
)


def facts_of_run(run) -> dict:
    """What a run folder tells of how its model was made: {"made_by": ..., "certificate": ...}, or less; {} for another folder.

    The card of a saved translator, where it has one, tells its part of FACTS. A certificate of other files than the translator's is
    not told, but that it is of others.

    Args:
        run: path.

    Raises:
        ArtifactError: a ValueError: run.yaml, card.json or certificate.json is damaged.
    """
    run, facts = Path(run), {}
    if (run / CARD_FILE).is_file():
        card = _read(run / CARD_FILE, json.loads)
        facts |= {name: card[name] for name in FACTS if card.get(name, _UNKNOWN) != _UNKNOWN}
    if (run / "run.yaml").is_file():
        facts["made_by"] = {"command": "keras-transformer train", "settings": _settings(run)}
    if (run / "certificate.json").is_file():
        certificate = _read(run / "certificate.json", json.loads)
        facts["certificate"] = certificate if _is_of(certificate, run) else _OTHER_WEIGHTS
    return facts


def _is_of(certificate, run):
    """Whether a certificate's digests, where it has some, are those of the translator in ``run``."""
    checkpoint = certificate.get("checkpoint")
    digests = checkpoint.get("sha256") if isinstance(checkpoint, dict) else None
    folder = run / "translator" if (run / "translator").is_dir() else run
    return not isinstance(digests, dict) or all(
        (folder / name).is_file() and file_sha256(folder / name) == digest for name, digest in digests.items()
    )


def data_of_run(run) -> dict:
    """{"data": {file: sha256}} of the files that a run was trained and validated on; {} for another folder. Reads them.

    Args:
        run: path.
    """
    if not (Path(run) / "run.yaml").is_file():
        return {}
    settings = _settings(run)
    files = [settings.get(name) for name in ("source", "target", "valid_source", "valid_target")]
    return {"data": {file: _content_sha256(file) for file in files if file}}


def _content_sha256(file):
    if Path(file, "prepared.json").is_file():  # which has the checksum of every shard
        file = Path(file, "prepared.json")
    return file_sha256(file) if Path(file).is_file() else "no longer there"


def _settings(run):
    return _read(Path(run) / "run.yaml", yaml.safe_load)


def _read(path, parse):
    """The dict in a file."""
    try:
        return dict(parse(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise ArtifactError(path, f"damaged: {' '.join(str(error).split())}", "Take it out, or another copy.") from None


def write_card(folder, model, kind: str, use: str, facts: dict) -> dict:
    """Writes card.json and README.md into the folder of an export.

    Args:
        folder: path.
        model: the Transformer that was exported.
        kind: of artefact, as "CTranslate2 model".
        use: how it is used, in a sentence or two.
        facts: dict of what else is known, each value of a type that JSON has; the keys of FACTS get headings of their own in
            README.md. A fact that is not given is said to be unknown, and not left out.

    Example:

    >>> import tempfile
    >>> import keras_transformer as kt
    >>> from keras_transformer.export.card import write_card
    >>> model = kt.Transformer(20, d_model=8, num_heads=2, num_layers=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_card(folder, model, "a trial", "It is not.", {"licence": "Apache-2.0"})["licence"]
    'Apache-2.0'
    """
    folder = Path(folder)
    card = {"kind": kind, "use": use} | dict.fromkeys(FACTS, _UNKNOWN) | facts | _known(model)
    if (folder / TOKENIZER_FILE).is_file():
        card["tokenizer_sha256"] = hashlib.sha256((folder / TOKENIZER_FILE).read_bytes()).hexdigest()
    (folder / CARD_FILE).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    (folder / README_FILE).write_text(_readme(card), encoding="utf-8")
    return card


def _known(model):
    """What the model and this installation tell of themselves."""
    return {
        "pad_id": model.pad_id,
        "bos_id": model.bos_id,
        "eos_id": model.eos_id,
        "model": model.get_config(),
        "parameters": model.count_params(),
        "exported_on": keras.backend.backend(),
        "keras": keras.__version__,
        "keras_transformer": __version__,
    }


def _readme(card):
    """The card in Markdown."""
    sizes = card["model"]
    lines = [
        f"# {card['kind']} of a Transformer",
        f"{card['parameters']:,} parameters: {sizes['num_layers']} + {sizes['num_decoder_layers']} layers of width "
        f"{sizes['d_model']}, {sizes['num_heads']} heads, {sizes['vocabulary_size']:,} pieces, {sizes['norm']}-LN. Written by "
        f"keras_transformer {card['keras_transformer']} on the backend {card['exported_on']}.",
        "## Use",
        card["use"],
    ]
    for name, heading in FACTS.items():
        lines += [f"## {heading}", _certified(card[name]) if name == "certificate" else _shown(card[name])]
    rest = {name: value for name, value in card.items() if name not in (*FACTS, "use", "kind", "model")}
    lines += ["## All else", _shown(rest), "manifest.json has the size and sha256 of every file."]
    return "\n\n".join(lines) + "\n"


def _certified(certificate):
    """The verdict of a certificate and its largest differences; card.json has the rest."""
    if not (isinstance(certificate, dict) and {"verdict", "stages", "reference"} <= certificate.keys()):
        return _shown(certificate)
    lines = [
        f"Verdict: {certificate['verdict']}. Of each stage the bound and the differences from {certificate['reference']}; "
        "card.json has the whole certificate.",
        "",
    ]
    for stage in certificate["stages"]:
        found = ", ".join(f"{name} {one['measured']}" for name, one in stage["differences"].items())
        lines.append(f"- {stage['stage']}: {found}; bound {stage['bound']} ({stage['unit']})")
    return "\n".join(lines)


def _shown(value):
    """A text as it is; anything else as JSON."""
    return value if isinstance(value, str) else f"```json\n{json.dumps(value, indent=2)}\n```"
