"""What the drivers of ONNX and CTranslate2 exports share: whether the files are whole, the ranking of hypotheses, the command line.

``write_driver`` puts this text into each translate.py, which needs nothing beside it: it imports the standard library alone.
"""

import argparse
import hashlib
import json
import pathlib
import sys


def length_divisor(length, length_penalty):
    """What log p is divided by to rank a hypothesis of ``length`` tokens, eos counted: ((5 + length) / 6) ** length_penalty."""
    return ((5 + length) / 6) ** length_penalty


def check_files(folder):
    """Raises ValueError unless every file of the export is, bit for bit, what its manifest.json says; names the one that is not."""
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_bytes())
        own = manifest.pop("sha256")
        if hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest() != own:
            raise ValueError("its sha256 is not its own")
        for name, entry in manifest["files"].items():
            path, digest = folder / name, hashlib.sha256()
            with open(path, "rb") as file:
                while chunk := file.read(2**20):
                    digest.update(chunk)
            if digest.hexdigest() != entry["sha256"]:
                raise ValueError("its sha256 is not the manifest's")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} cannot be used: corrupt or incomplete: {error}. Take another copy of the export."
        ) from None


def read_texts(stream):
    """The lines of a binary stream. Only a line feed ends one, whatever the platform; a byte order mark and CR of CRLF go."""
    content = stream.read()
    try:
        texts = content.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"Line {line} of the text is no UTF-8. Convert it first: iconv -t UTF-8.") from None
    return [text.removesuffix("\r") for text in (texts[:-1] if texts[-1] == "" else texts)]


def run_command(translator_class, folder):
    """Translates standard input to standard output, line by line; what a user can mend is told in one line."""
    parser = argparse.ArgumentParser(description="Translates standard input, line by line.")
    parser.add_argument("--beam-size", type=int, default=4)
    parser.add_argument("--length-penalty", type=float, default=0.6)
    arguments = parser.parse_args()
    if arguments.beam_size < 1:
        parser.error(f"--beam-size must be at least 1. Received: {arguments.beam_size}.")
    try:
        texts, translator = read_texts(sys.stdin.buffer), translator_class(pathlib.Path(folder))
        translations = translator.translate(texts, arguments.beam_size, arguments.length_penalty)
    except ValueError as error:
        sys.exit(f"Error: {error}")
    for translation in translations:
        sys.stdout.buffer.write(translation.replace("\n", " ").encode("utf-8") + b"\n")
