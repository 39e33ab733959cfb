"""TensorBoard's file of a training run.

tensorboardX makes the events; its ``SummaryWriter`` writes them in a thread that dies of a full disk, after which
whoever has more to say waits for ever.
"""

import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c
from tensorboardX.summary import image, scalar

from mallocgame.files import append_bytes


class Board:
    """An event file, each write of which is whole or does not happen."""

    def __init__(self, folder: Path) -> None:
        """Begin a new file in a folder, which is made.

        Raises:
            TraceError: it cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}"
        append_bytes(self._path, _record(Event(wall_time=time.time(), file_version="brain.Event:2")))

    def write(self, step: int, scalars: Mapping[str, float], pictures: Mapping[str, Any]) -> None:
        """Add values and pictures (uint8[H, W, 3]) of a step.

        Raises:
            TraceError: they cannot be written.
        """
        summaries = [scalar(name, value) for name, value in scalars.items()]
        summaries += [image(name, pixels, dataformats="HWC") for name, pixels in pictures.items()]
        now = time.time()
        append_bytes(self._path, b"".join(_record(Event(wall_time=now, step=step, summary=one)) for one in summaries))


def _record(event: Event) -> bytes:
    """Return an event as a record of TensorFlow's: length, its checksum, the data, theirs."""
    data: bytes = event.SerializeToString()
    length = struct.pack("<Q", len(data))
    return b"".join((length, _checksum(length), data, _checksum(data)))


def _checksum(data: bytes) -> bytes:
    return struct.pack("<I", masked_crc32c(data))
