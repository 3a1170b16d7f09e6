"""Files on disk: written so that nothing is lost, read so that nothing is believed before it is checked.

Below everything: no module here imports Keras or a backend.
"""

from keras_transformer.artifacts.arrays import ArrayFile, write_arrays
from keras_transformer.artifacts.disk import (
    NewFile,
    check_folder,
    new_folder,
    replace_folder,
    to_disk,
    tree_to_disk,
    write_file,
)
from keras_transformer.artifacts.errors import ArtifactError
from keras_transformer.artifacts.hdf5 import check_hdf5
from keras_transformer.artifacts.lock import LOCK_FILE, FolderInUse, FolderLock
from keras_transformer.artifacts.manifest import MANIFEST_FILE, check_manifest, file_sha256, parse_json, write_manifest
from keras_transformer.artifacts.sidecar import SIDECAR_SUFFIX, check_sidecar, write_with_sidecar
from keras_transformer.artifacts.steps import (
    latest_step,
    list_steps,
    open_step,
    prune_steps,
    read_state,
    remove_step,
    write_step,
)

__all__ = [
    "LOCK_FILE",
    "MANIFEST_FILE",
    "SIDECAR_SUFFIX",
    "ArrayFile",
    "ArtifactError",
    "FolderInUse",
    "FolderLock",
    "NewFile",
    "check_folder",
    "check_hdf5",
    "check_manifest",
    "check_sidecar",
    "file_sha256",
    "latest_step",
    "list_steps",
    "new_folder",
    "open_step",
    "parse_json",
    "prune_steps",
    "read_state",
    "remove_step",
    "replace_folder",
    "to_disk",
    "tree_to_disk",
    "write_arrays",
    "write_file",
    "write_manifest",
    "write_step",
    "write_with_sidecar",
]
