"""Memory that two processes of one host share, for tensors on their way between them.

One process takes and gives back blocks; the other maps the same memory and gets views of the blocks by their places.
The memory has no name in the file system, and ends with the processes.
"""

from __future__ import annotations

import mmap
import os
from collections import defaultdict
from typing import NamedTuple

import torch
from torch import Tensor

from atoll.communication.channel import Channel

SMALLEST, SEGMENT = 1 << 12, 1 << 20  # bytes: of a block; of a segment, which larger blocks have to themselves


class Block(NamedTuple):
    """A part of the shared memory: its segment, where it begins there, and its bytes (n,)."""

    segment: int
    offset: int
    content: Tensor


class SharedBuffers:
    """The side that allocates; blocks are reused.

    Args:
        channel: tells the other side of new segments.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._num_segments = 0
        self._free: dict[int, list[Block]] = defaultdict(list)  # by size

    def take(self, num_bytes: int) -> Block:
        """A block of at least so many bytes; of unknown content."""
        size = max(SMALLEST, 1 << (num_bytes - 1).bit_length() if num_bytes else 0)
        if not self._free[size]:
            self._add_segment(size)
        return self._free[size].pop()

    def give_back(self, block: Block) -> None:
        """The block may be taken again: neither side uses it any more."""
        self._free[len(block.content)].append(block)

    def _add_segment(self, size: int) -> None:
        length = max(size, SEGMENT)
        file = os.memfd_create("atoll", os.MFD_CLOEXEC)
        os.ftruncate(file, length)
        content = _mapped(file, length)
        self._channel.send(["segment", length], file)
        blocks = (Block(self._num_segments, place, content[place : place + size]) for place in range(0, length, size))
        self._free[size] += blocks
        self._num_segments += 1


class MappedBuffers:
    """The side that is told of segments, and sees the blocks by their places."""

    def __init__(self) -> None:
        self._segments: list[Tensor] = []

    def add(self, file: int, length: int) -> None:
        """Map a new segment, and close its file."""
        try:
            self._segments.append(_mapped(file, length))
        finally:
            os.close(file)

    def view(self, segment: int, offset: int, num_bytes: int, dtype: torch.dtype = torch.uint8) -> Tensor:
        """The elements of a block, flat.

        Raises:
            ValueError: for a place outside of the shared memory.
        """
        length = len(self._segments[segment]) if 0 <= segment < len(self._segments) else 0
        if min(offset, num_bytes) < 0 or offset + num_bytes > length:
            raise ValueError(f"bytes {offset} to {offset + num_bytes} of segment {segment} are not shared")
        return self._segments[segment][offset : offset + num_bytes].view(dtype)


def _mapped(file: int, length: int) -> Tensor:
    return torch.frombuffer(mmap.mmap(file, length), dtype=torch.uint8)
