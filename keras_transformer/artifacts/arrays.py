"""Arrays in a file that is data alone: a JSON header of names, types and shapes, then the bytes.

The layout is that of safetensors (https://github.com/huggingface/safetensors), which other tools read too. Own code because arrays
are hashed as they are written, one after the other, and a reader must refuse a header before it takes memory for it.
"""

import json
import math
import struct
from pathlib import Path

import numpy as np

from keras_transformer.artifacts.disk import NewFile
from keras_transformer.artifacts.errors import ArtifactError
from keras_transformer.artifacts.manifest import parse_json

_TYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}
_CODES = {name: code for code, name in _TYPES.items()}
_MOST_HEADER = 2**24  # bytes: 100,000 arrays
_MOST_AXES = 32


def write_arrays(path, arrays):
    """Writes {name: NumPy array} into a new file and brings it to disk.

    Returns:
        (size, sha256) of the file, for write_manifest.

    Example:

    >>> import os, tempfile
    >>> import numpy as np
    >>> from keras_transformer.artifacts import ArrayFile, write_arrays
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "a.safetensors")
    ...     _ = write_arrays(path, {"kernel": np.eye(2, dtype="float32")})
    ...     ArrayFile(path).read("kernel").tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    header, end = {}, 0
    for name, array in arrays.items():
        begin, end = end, end + array.nbytes
        header[name] = {"dtype": _CODES[array.dtype.name], "shape": list(array.shape), "data_offsets": [begin, end]}
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    if len(head) > _MOST_HEADER:
        raise ValueError(f"{path} would hold more arrays than can be read again. Received: {len(arrays)} arrays.")
    with NewFile(path) as file:
        file.write(struct.pack("<Q", len(head)) + head)
        for array in arrays.values():
            if array.size:
                file.write(np.ascontiguousarray(array).reshape(-1).view("uint8"))
    return file.size, file.sha256


class ArrayFile:
    """A file of arrays, opened: names, types and shapes are known and checked, arrays are read one at a time.

    Args:
        path: what write_arrays wrote.

    Attributes:
        shapes: {name: tuple of int}.
        dtypes: {name: NumPy name of the type}.

    Raises:
        ArtifactError: the file is no such file, or its header does not agree with its size.
    """

    def __init__(self, path):
        self.path = Path(path)
        self.shapes, self.dtypes, self._offsets = {}, {}, {}
        try:
            size = self.path.stat().st_size
            with open(self.path, "rb") as file:
                length = int.from_bytes(file.read(8), "little")
                if size < 8 or length > min(size - 8, _MOST_HEADER):
                    raise self._error("its header is longer than the file")
                header = parse_json(file.read(length), self.path)
        except OSError as error:
            raise self._error(f"{error.strerror}") from error
        self._take(header, 8 + length, size)

    def _take(self, header, start, size):
        if not isinstance(header, dict):
            raise self._error("its header is no list of arrays")
        header.pop("__metadata__", None)
        at = start
        for name, entry in header.items():
            shape, dtype, begin, end = self._entry(name, entry)
            if (begin + start, end - begin) != (at, math.prod(shape) * _dtype(dtype).itemsize):
                raise self._error(f"the place of {name!r} is not what its shape {shape} takes")
            at += end - begin
            self.shapes[name], self.dtypes[name], self._offsets[name] = shape, dtype, begin + start
        if at != size:
            raise self._error(f"it has {size} bytes, its header tells of {at}")

    def _entry(self, name, entry):
        try:
            shape, (begin, end) = tuple(entry["shape"]), entry["data_offsets"]
            dtype = _TYPES[entry["dtype"]]
            numbers = (*shape, begin, end)
            if any(type(number) is not int or not 0 <= number < 2**63 for number in numbers) or len(shape) > _MOST_AXES:
                raise ValueError
        except (TypeError, KeyError, ValueError):
            raise self._error(f"its header tells no shape, type and place of {name!r}") from None
        return shape, dtype, begin, end

    def read(self, name):
        """The array of that name."""
        shape, dtype = self.shapes[name], _dtype(self.dtypes[name])
        with open(self.path, "rb") as file:
            array = np.fromfile(file, dtype, math.prod(shape), offset=self._offsets[name])
        if array.size != math.prod(shape):
            raise self._error("it ends too soon")
        return array.reshape(shape)

    def _error(self, reason):
        return ArtifactError(self.path, f"corrupt or incomplete: {reason}")


def _dtype(name):
    if name.startswith(("bfloat", "float8")):
        import ml_dtypes

        return np.dtype(getattr(ml_dtypes, name))
    return np.dtype(name)
