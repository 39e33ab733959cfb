"""Arrays of an npz archive, of which every byte is checked."""

import io
import zipfile
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

MAX_ARRAY_BYTES = 2**33  # of all arrays of a file together


def load_arrays(file: BinaryIO) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of an npz archive by name.

    As ``np.load``, which reads of each array what its header says, and so meets no checksum where damage made that
    less than there is: here members are read to their ends.

    Raises:
        OSError, EOFError, ValueError, NotImplementedError, zipfile.BadZipFile, zlib.error: damage, something else than
            arrays, objects that would have to be unpickled, or more than ``MAX_ARRAY_BYTES``.
    """
    found = {}
    try:
        with zipfile.ZipFile(file) as archive:
            if sum(member.file_size for member in archive.infolist()) > MAX_ARRAY_BYTES:
                raise ValueError(f"arrays of more than {MAX_ARRAY_BYTES} bytes")
            for name in archive.namelist():
                content = io.BytesIO(archive.read(name))
                found[name.removesuffix(".npy")] = np.lib.format.read_array(content, allow_pickle=False)
                if content.read(1):
                    raise ValueError(f"{name[:40]!a} holds more than its array")
    except (RuntimeError, MemoryError) as error:  # encrypted, or a shape out of all reason
        raise ValueError(str(error)) from None
    return found
