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
    """Translates standard input to standard output, line by line; what a user can mend is told in one line.

    A line of more pieces than --longest costs no other its translation: it is told, a blank line stands for it, and the exit
    status is 1.
    """
    parser = argparse.ArgumentParser(description="Translates standard input, line by line.")
    parser.add_argument("--beam-size", type=int, default=4)
    parser.add_argument("--length-penalty", type=float, default=0.6)
    parser.add_argument("--longest", type=int, default=1024, help="most pieces of a line, its end counted")
    parser.add_argument("--chunk", type=int, default=1000, help="lines at a time; 1 answers each at once")
    arguments = parser.parse_args()
    for name in ("beam_size", "longest", "chunk"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1. Received: {getattr(arguments, name)}.")
    try:
        texts, translator = read_texts(sys.stdin.buffer), translator_class(pathlib.Path(folder))
        longest = min(arguments.longest, translator.positions)
        too_long = {i for i, text in enumerate(texts) if translator.count_pieces(text) > longest}
        for i in sorted(too_long):
            _tell(
                f"Line {i + 1} has {translator.count_pieces(texts[i])} pieces. At most {longest} are translated at a time: split "
                "it into sentences. It is left blank."
            )
        texts = ["" if i in too_long else text for i, text in enumerate(texts)]
        for first in range(0, len(texts), arguments.chunk):
            chunk = texts[first : first + arguments.chunk]
            for translation in translator.translate(chunk, arguments.beam_size, arguments.length_penalty):
                sys.stdout.buffer.write(translation.replace("\n", " ").encode("utf-8") + b"\n")
            sys.stdout.buffer.flush()
    except ValueError as error:
        sys.exit(f"Error: {error}")
    if too_long:
        sys.exit(1)


def _tell(message):
    print(message, file=sys.stderr, flush=True)
