"""What the drivers of ONNX and CTranslate2 exports share: the ranking of hypotheses, and the command line.

``write_driver`` puts this text into each translate.py, which needs nothing beside it: it imports the standard library alone.
"""

import argparse
import pathlib
import sys


def length_divisor(length, length_penalty):
    """What log p is divided by to rank a hypothesis of ``length`` tokens, eos counted: ((5 + length) / 6) ** length_penalty."""
    return ((5 + length) / 6) ** length_penalty


def run_command(translator_class, folder):
    """Translates standard input to standard output, line by line."""
    parser = argparse.ArgumentParser(description="Translates standard input, line by line.")
    parser.add_argument("--beam-size", type=int, default=4)
    parser.add_argument("--length-penalty", type=float, default=0.6)
    arguments = parser.parse_args()
    # Bytes, so that only a line feed ends a line, whatever the platform.
    texts = sys.stdin.buffer.read().decode("utf-8").split("\n")
    texts = texts[:-1] if texts[-1] == "" else texts
    translator = translator_class(pathlib.Path(folder))
    for translation in translator.translate(texts, arguments.beam_size, arguments.length_penalty):
        sys.stdout.buffer.write(translation.replace("\n", " ").encode("utf-8") + b"\n")
