"""A file of another format with its size and sha256 beside it, as FILE.sha256.json."""

import json
import os
from pathlib import Path

from keras_transformer.artifacts.disk import to_disk, write_file
from keras_transformer.artifacts.errors import ArtifactError
from keras_transformer.artifacts.manifest import file_sha256, parse_json

SIDECAR_SUFFIX = ".sha256.json"
_MOST_BYTES = 10_000


def write_with_sidecar(path, write):
    """Writes a file and its sidecar so that a kill leaves the old file or the new one, and a sidecar that matches it.

    Two files cannot be renamed in one step; so the sidecar names the old and the new while the file changes.

    Args:
        path: of the file.
        write: called with the path of a new file to write, whose name ends as that of ``path``.

    Example:

    >>> import os, tempfile
    >>> from keras_transformer.artifacts import check_sidecar, write_with_sidecar
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "a.txt")
    ...     _ = write_with_sidecar(path, lambda new: new.write_text("abc"))
    ...     check_sidecar(path)
    """
    path = Path(path)
    new = path.with_name(f".new-{path.name}")
    new.unlink(missing_ok=True)
    try:
        write(new)
        to_disk(new)
        entry = {"bytes": new.stat().st_size, "sha256": file_sha256(new)}
        before = [] if not path.exists() else [{"bytes": path.stat().st_size, "sha256": file_sha256(path)}]
        write_file(_sidecar(path), _spell([*before, entry]))
        os.rename(new, path)
        to_disk(path.parent)
        write_file(_sidecar(path), _spell([entry]))
    finally:
        new.unlink(missing_ok=True)


def check_sidecar(path):
    """Compares a file with its sidecar.

    Raises:
        ArtifactError: the file or the sidecar is missing or changed.
    """
    path, sidecar = Path(path), _sidecar(path)
    for file in (path, sidecar):
        if not file.is_file():
            raise ArtifactError(file, "corrupt or incomplete: it is missing")
    if sidecar.stat().st_size > _MOST_BYTES:
        raise ArtifactError(sidecar, f"its size, {sidecar.stat().st_size} bytes, is none of a sidecar")
    content = sidecar.read_bytes()
    entries = parse_json(content, sidecar)
    if (
        not isinstance(entries, list)
        or not all(isinstance(entry, dict) for entry in entries)
        or _spell(entries) != content
    ):
        raise ArtifactError(sidecar, "corrupt: it is not as it was written")
    size = path.stat().st_size
    same_size = [entry for entry in entries if entry.get("bytes") == size]
    if not same_size:
        raise ArtifactError(path, f"corrupt or incomplete: it has {size} bytes, {sidecar.name} tells of another size")
    digest = file_sha256(path)
    if not any(entry.get("sha256") == digest for entry in same_size):
        raise ArtifactError(path, f"corrupt: its sha256 is not that of {sidecar.name}")


def _sidecar(path):
    path = Path(path)
    return path.with_name(path.name + SIDECAR_SUFFIX)


def _spell(entries):
    return (json.dumps(entries, indent=1, sort_keys=True) + "\n").encode()
