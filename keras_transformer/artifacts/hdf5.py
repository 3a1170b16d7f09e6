"""Checks a .weights.h5 of Keras before anything is read from it: HDF5 can hold far more than arrays."""

import h5py

from keras_transformer.artifacts.errors import ArtifactError


def check_hdf5(path):
    """The arrays that an HDF5 file holds, once it is known to hold nothing but arrays.

    Links to other places or files, arrays stored elsewhere, packed or promised (a file of 12 kB can declare 4 GB that HDF5 would
    fill up) and types other than numbers are refused.

    Args:
        path: of the file.

    Returns:
        {name: (shape, NumPy dtype)}.

    Raises:
        ArtifactError: it is no HDF5 file, or not a plain one.

    Example:

    >>> import os, tempfile
    >>> import h5py, numpy as np
    >>> from keras_transformer.artifacts import check_hdf5
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "a.h5")
    ...     with h5py.File(path, "w") as file:
    ...         _ = file.create_dataset("layer/vars/0", data=np.zeros((2, 3)))
    ...     [(name, shape) for name, (shape, dtype) in check_hdf5(path).items()]
    [('layer/vars/0', (2, 3))]
    """
    arrays = {}
    try:
        with h5py.File(path, "r") as file:
            _walk(file, "", arrays, path, seen=set())
            most = file.id.get_filesize()
    except ArtifactError:
        raise
    except Exception as error:  # h5py raises OSError, RuntimeError, KeyError, ValueError, as the damage has it
        raise ArtifactError(path, f"corrupt or incomplete: it is damaged: {error}") from None
    stored = sum(size for _, _, size in arrays.values())
    if stored > most:
        raise ArtifactError(path, f"its arrays take {stored} bytes, more than the {most} of the file")
    return {name: (shape, dtype) for name, (shape, dtype, _) in arrays.items()}


def _walk(group, prefix, arrays, path, seen):
    place = h5py.h5o.get_info(group.id)
    if (place.fileno, place.addr) in seen:
        raise ArtifactError(path, f"{prefix or '/'} holds itself")
    seen.add((place.fileno, place.addr))
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise ArtifactError(path, f"{prefix}{name} is a link to another place")
        item = group[name]
        if isinstance(item, h5py.Group):
            _walk(item, f"{prefix}{name}/", arrays, path, seen)
        elif isinstance(item, h5py.Dataset):
            arrays[prefix + name] = _array(item, prefix + name, path)
        else:
            raise ArtifactError(path, f"{prefix}{name} is no array")


def _array(dataset, name, path):
    if dataset.dtype.kind not in "fiub" and dataset.dtype.kind != "V":
        raise ArtifactError(path, f"{name} holds {dataset.dtype}, no numbers")
    if dataset.dtype.kind == "V" and dataset.dtype.fields:
        raise ArtifactError(path, f"{name} holds records, no numbers")
    if dataset.external or dataset.is_virtual:
        raise ArtifactError(path, f"{name} lies in another file")
    if dataset.chunks is not None or dataset.compression is not None:
        raise ArtifactError(path, f"{name} is packed, so that its size cannot be known")
    if dataset.shape is None:
        raise ArtifactError(path, f"{name} has no shape")
    size = dataset.size * dataset.dtype.itemsize
    if dataset.id.get_storage_size() != size:
        raise ArtifactError(path, f"{name} declares {size} bytes and holds {dataset.id.get_storage_size()}")
    return dataset.shape, dataset.dtype, size
