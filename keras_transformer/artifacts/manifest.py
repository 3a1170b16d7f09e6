"""A manifest: which files belong to a folder, with sizes and sha256, so that one flipped bit in any of them is found.

The manifest carries its own hash, and has one spelling only: what differs from it by a byte is refused.
"""

import hashlib
import json
import os
import stat
from pathlib import Path, PurePosixPath

from keras_transformer.artifacts.disk import NewFile
from keras_transformer.artifacts.errors import ArtifactError

MANIFEST_FILE = "manifest.json"
MANIFEST_VERSION = 1
_MOST_BYTES = 2**24  # of a manifest: 100,000 files
_CHUNK = 2**20
_MOST_VALUES = 2**20  # of JSON: Python makes up to 72 bytes of an empty list's three


def write_manifest(folder, kind, known=()):
    """Writes manifest.json into a folder whose other files are complete.

    Args:
        folder: path.
        kind: what the folder is, as "checkpoint"; a folder of another kind will be refused by check_manifest.
        known: {file name: (size, sha256)} of files that need not be read again.

    Example:

    >>> import tempfile
    >>> from pathlib import Path
    >>> from keras_transformer.artifacts import check_manifest, write_manifest
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = (Path(folder) / "a.txt").write_text("abc")
    ...     write_manifest(folder, "example")
    ...     sorted(check_manifest(folder, "example"))
    ['a.txt']
    """
    folder, known = Path(folder), dict(known)
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != MANIFEST_FILE:
            size, digest = known.get(name) or (path.stat().st_size, file_sha256(path))
            files[name] = {"bytes": size, "sha256": digest}
    body = {"format": f"keras-transformer {kind}", "version": MANIFEST_VERSION, "files": files}
    with NewFile(folder / MANIFEST_FILE) as file:
        file.write(_spell(body))


def check_manifest(folder, kind):
    """Compares every file of a folder with its manifest; returns the names of those listed.

    Args:
        folder: path.
        kind: as in write_manifest.

    Raises:
        ArtifactError: the folder is of another kind or version, or a file is missing, of another size, changed, or outside.
    """
    folder = Path(folder)
    body = _read(folder, kind)
    for name, entry in body["files"].items():  # sizes first, for they cost nothing
        _check_size(folder, name, entry["bytes"])
    for name, entry in body["files"].items():
        try:
            same = file_sha256(folder / name) == entry["sha256"]
        except OSError as error:
            raise ArtifactError(folder / name, f"it cannot be read: {error.strerror}") from None
        if not same:
            raise ArtifactError(folder / name, "corrupt: its sha256 is not the manifest's")
    return list(body["files"])


def file_sha256(path):
    """The sha256 of a file, as hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def parse_json(content, path):
    """Parses JSON; refuses a name given twice, NaN, and whatever else only Python accepts.

    They must be ASCII, as json.dumps writes it, and hold no more than a million values, so that what Python makes of them is not
    many times their size. A million are 60,000 epochs of a run's history, or 100,000 arrays.

    Raises:
        ArtifactError: they are no such JSON.
    """

    def once(pairs):
        if len({name for name, _ in pairs}) != len(pairs):
            raise ValueError("a name is given twice")
        return dict(pairs)

    def refuse(word):
        raise ValueError(f"{word} is not JSON")

    try:
        if sum(map(content.count, (b",", b"[", b"{"))) > _MOST_VALUES:
            raise ValueError(f"it holds more than {_MOST_VALUES} values")
        return json.loads(content.decode("ascii"), object_pairs_hook=once, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(path, f"corrupt or incomplete: {str(error).rstrip('.')}") from None


def _spell(body):
    """The bytes of a manifest, with its own hash as the last entry."""
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return (json.dumps(body | {"sha256": digest}, indent=1, sort_keys=True) + "\n").encode()


def _read(folder, kind):
    path = folder / MANIFEST_FILE
    if not os.path.lexists(path):
        raise ArtifactError(folder, f"corrupt or incomplete: {MANIFEST_FILE} is missing")
    _check_regular(path)
    if path.stat().st_size > _MOST_BYTES:
        raise ArtifactError(path, f"its size, {path.stat().st_size} bytes, is none of a manifest")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ArtifactError(path, f"it cannot be read: {error.strerror}") from None
    body = parse_json(content, path)
    try:
        agrees = isinstance(body, dict) and isinstance(body.pop("sha256", None), str) and _spell(body) == content
    except RecursionError:
        agrees = False
    if not agrees:
        raise ArtifactError(path, "corrupt: it does not agree with its own sha256")
    _check_body(path, body, kind)
    return body


def _check_body(path, body, kind):
    expected = f"keras-transformer {kind}"
    if body.get("format") != expected:
        raise ArtifactError(path, f"it is a {body.get('format')!r}, where a {expected!r} was expected")
    if body.get("version") != MANIFEST_VERSION:
        raise ArtifactError(
            path,
            f"it has version {body.get('version')!r}, this release reads {MANIFEST_VERSION}",
            "Install the release that wrote it.",
        )
    files = body.get("files")
    if not isinstance(files, dict) or body.keys() != {"format", "version", "files"}:
        raise ArtifactError(path, "it does not list files")
    for name, entry in files.items():
        if not isinstance(entry, dict) or entry.keys() != {"bytes", "sha256"} or type(entry["bytes"]) is not int:
            raise ArtifactError(path, f"it lists {name!r} without size and sha256")
        parts = PurePosixPath(name).parts
        if not parts or name != "/".join(parts) or ".." in parts or "\\" in name or "\0" in name or parts[0] == "/":
            raise ArtifactError(path, f"it lists {name!r}, which is outside of the folder")


def _check_size(folder, name, size):
    path = folder
    for part in PurePosixPath(name).parts:
        path = path / part
        _check_regular(path, last=path == folder / name)
    if path.stat().st_size != size:
        raise ArtifactError(
            path, f"corrupt or incomplete: it has {path.stat().st_size} bytes, the manifest says {size}"
        )


def _check_regular(path, last=True):
    """A file may be no link, device or pipe, and lie in no linked folder."""
    try:
        mode = os.lstat(path).st_mode
    except (OSError, ValueError):
        raise ArtifactError(path, f"corrupt or incomplete: {path.name} is missing") from None
    if not (stat.S_ISREG(mode) if last else stat.S_ISDIR(mode)):
        raise ArtifactError(path, f"it is no plain {'file' if last else 'folder'}")
