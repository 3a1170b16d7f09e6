"""What both drivers share, alone and within them. What they translate is compared in test_onnx_driver.py and
test_ctranslate2_driver.py."""

import importlib
import io
import subprocess
import sys

import keras
import pytest

from keras_transformer.export.driver_command import check_files, length_divisor, read_texts, run_command
from keras_transformer.export.folders import new_export

pytestmark = pytest.mark.skipif(keras.backend.backend() != "torch", reason="does not depend on the backend")


def test_the_divisor_is_wu_et_als():
    assert length_divisor(1, 0.6) == 1
    assert length_divisor(7, 1) == 2
    assert length_divisor(7, 0) == 1


@pytest.fixture
def export(tmp_path):
    with new_export(tmp_path / "export") as folder:
        (folder / "card.json").write_text("{}")
        (folder / "model.bin").write_bytes(bytes(range(256)))
    return tmp_path / "export"


def test_every_flipped_bit_is_refused_with_the_file_it_is_in(export):
    check_files(export)
    for name in ("card.json", "model.bin", "manifest.json"):
        whole = (export / name).read_bytes()
        for bit in range(3, 8 * len(whole), 37):
            damaged = bytearray(whole)
            damaged[bit // 8] ^= 1 << bit % 8
            (export / name).write_bytes(damaged)
            with pytest.raises(ValueError, match=r"cannot be used: corrupt or incomplete: .* Take another copy"):
                check_files(export)
        (export / name).write_bytes(whole)
    check_files(export)
    (export / "model.bin").unlink()
    with pytest.raises(ValueError, match=r"model.bin cannot be used: corrupt or incomplete: .*No such file"):
        check_files(export)


@pytest.mark.parametrize(("name", "package"), [("onnx", "onnxruntime"), ("ctranslate2", "ctranslate2")])
def test_drivers_look_before_they_load(export, name, package):
    pytest.importorskip(package)
    driver = importlib.import_module(f"keras_transformer.export.{name}_driver")
    content = (export / "model.bin").read_bytes()
    (export / "model.bin").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(
        ValueError, match="model.bin cannot be used: corrupt or incomplete: its sha256 is not the manifest"
    ):
        driver.Translator(export)


def test_lines_are_those_of_our_other_readers():
    assert read_texts(io.BytesIO(b"\xef\xbb\xbfa dog\r\ntwo\x0bcats\r\n\n")) == ["a dog", "two\x0bcats", ""]
    assert read_texts(io.BytesIO(b"no line feed")) == ["no line feed"]
    assert read_texts(io.BytesIO(b"")) == []
    with pytest.raises(ValueError, match="Line 2 of the text is no UTF-8"):
        read_texts(io.BytesIO(b"a\n\xff\n"))


def test_what_a_user_can_mend_is_one_line():
    code = "from driver_command import run_command; run_command(None, '.')"
    folder = importlib.import_module("keras_transformer.export.driver_command").__file__.rpartition("/")[0]
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {folder!r}); {code}"]
    child = subprocess.run(command, input=b"\xff\n", capture_output=True, check=False)
    assert (child.returncode, child.stdout) == (1, b"")
    assert child.stderr == b"Error: Line 1 of the text is no UTF-8. Convert it first: iconv -t UTF-8.\n"
    for option in ("--beam-size", "--longest", "--chunk"):
        child = subprocess.run([*command, option, "0"], input=b"", capture_output=True, check=False)
        assert child.returncode == 2 and f"{option} must be at least 1. Received: 0." in child.stderr.decode()


def test_a_line_that_is_too_long_costs_no_other_its_translation(monkeypatch, capfdbinary):
    class Shouting:
        positions = 3

        def __init__(self, folder):
            self.chunks = []

        def count_pieces(self, text):
            return len(text.split())

        def translate(self, texts, beam_size, length_penalty):
            if "stop" in texts:
                raise ValueError("no more")
            return [text.upper() for text in texts]

    def run(text, *options):
        monkeypatch.setattr(sys, "argv", ["translate.py", *options])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
        with pytest.raises(SystemExit) as ended:
            run_command(Shouting, ".")
        return ended.value.code, *(stream.decode() for stream in capfdbinary.readouterr())

    status, out, told = run(b"a dog\na cat sits there\n\ntwo cats\n")
    assert (status, out) == (1, "A DOG\n\n\nTWO CATS\n")
    assert (
        told == "Line 2 has 4 pieces. At most 3 are translated at a time: split it into sentences. It is left blank.\n"
    )
    assert run(b"a dog\ncats\n", "--longest", "1")[:2] == (1, "\nCATS\n")
    assert run(b"a dog\nstop\n", "--chunk", "1") == ("Error: no more", "A DOG\n", "")
