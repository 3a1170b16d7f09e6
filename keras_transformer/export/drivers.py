"""translate.py, the program beside an ONNX or CTranslate2 model that translates with it and needs no other file of ours."""

from pathlib import Path

DRIVER_FILE = "translate.py"
_SHARED = "from keras_transformer.export.driver_command import check_files, length_divisor, run_command\n"


def write_driver(name: str, folder) -> None:
    """Writes translate.py: the driver ``name`` of this folder, with the text of driver_command.py in place of its import.

    Args:
        name: "onnx" or "ctranslate2".
        folder: path of the export.

    Example:

    >>> import tempfile
    >>> from pathlib import Path
    >>> from keras_transformer.export.drivers import write_driver
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_driver("onnx", folder)
    ...     "import keras" in (Path(folder) / "translate.py").read_text()
    False
    """
    here = Path(__file__).parent
    driver = (here / f"{name}_driver.py").read_text(encoding="utf-8")
    shared = (here / "driver_command.py").read_text(encoding="utf-8")
    _, _, code = shared.split('"""', 2)  # behind its docstring
    (Path(folder) / DRIVER_FILE).write_text(driver.replace(_SHARED, code.lstrip()), encoding="utf-8")
