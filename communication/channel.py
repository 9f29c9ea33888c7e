"""Messages between two processes of one host that never block the sender: plain data as JSON, and open files.

Nothing is unpickled: whatever the other process sends, it runs no code here.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import socket
import struct
from collections import deque
from collections.abc import Sequence
from typing import Any

Message = list[Any]  # its first element names its kind

_LENGTH = struct.Struct("!I")
_CHUNK = 1 << 16
_MAX_FILES = 32  # with one piece of data
_WOULD_BLOCK = (errno.EAGAIN, errno.EINTR, errno.ENOBUFS, errno.ENOMEM)


class Channel:
    """One end of a connected pair.

    Attributes:
        is_closed: whether the other end has gone; what it sent before has been received.
    """

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._end = end
        self._outgoing: deque[tuple[memoryview, list[int]]] = deque()
        self._incoming = bytearray()
        self._files: deque[int] = deque()
        self.is_closed = False

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        """Two connected ends."""
        one, other = socket.socketpair()
        return cls(one), cls(other)

    def fileno(self) -> int:
        """The number of the open file, for `select`."""
        return self._end.fileno()

    def send(self, message: Message, file: int | None = None) -> None:
        """Send plain data at once, or as soon as the other end makes room; sends and closes `file`."""
        data = json.dumps(message).encode()
        files = [] if file is None else [file]
        self._outgoing.append((memoryview(_LENGTH.pack(len(data)) + data), files))
        self.flush()

    def flush(self) -> bool:
        """Send as much as there is room for; true if nothing is left."""
        while self._outgoing and not self.is_closed:
            data, files = self._outgoing[0]
            try:
                if files:
                    num_sent = socket.send_fds(self._end, [data], files)
                    _close(files)
                else:
                    num_sent = self._end.send(data)
            except OSError as error:
                if error.errno in _WOULD_BLOCK:
                    return False
                if error.errno not in (errno.EPIPE, errno.ECONNRESET):
                    raise
                self.is_closed = True
                break
            if num_sent == len(data):
                self._outgoing.popleft()
            else:
                self._outgoing[0] = data[num_sent:], []
        if self.is_closed:
            for _, files in self._outgoing:
                _close(files)
            self._outgoing.clear()
        return not self._outgoing

    def receive(self) -> list[Message]:
        """The messages that have arrived; never waits.

        Raises:
            ValueError: for what is no message, such as if user code wrote to the file.
        """
        self.flush()
        while not self.is_closed:
            try:
                data, files, _, _ = socket.recv_fds(self._end, _CHUNK, _MAX_FILES, socket.MSG_CMSG_CLOEXEC)
            except OSError as error:
                if error.errno in _WOULD_BLOCK:
                    break
                if error.errno != errno.ECONNRESET:
                    raise
                data, files = b"", []
            self._files += files
            self._incoming += data
            if not data:
                self.is_closed = True
            if len(data) < _CHUNK and not files:
                break
        return self._whole_messages()

    def _whole_messages(self) -> list[Message]:
        messages, start = [], 0
        while len(self._incoming) - start >= _LENGTH.size:
            first = start + _LENGTH.size
            end = first + _LENGTH.unpack_from(self._incoming, start)[0]
            if end > len(self._incoming):
                break
            message = json.loads(bytes(self._incoming[first:end]))
            if not (isinstance(message, list) and message):
                raise ValueError(f"a message must be a list that begins with its kind; got {type(message).__name__}")
            messages.append(message)
            start = end
        del self._incoming[:start]
        return messages

    def take_file(self) -> int:
        """The next open file that has come with a message.

        Raises:
            ValueError: if there is none.
        """
        if not self._files:
            raise ValueError("a message that comes with an open file came without")
        return self._files.popleft()

    def close(self) -> None:
        """Close this end, with the files that nobody has taken."""
        self.is_closed = True
        self.flush()
        _close(list(self._files))
        self._files.clear()
        self._end.close()

    def _has_unsent(self) -> bool:
        return bool(self._outgoing)


def wait_for(channels: Sequence[Channel], seconds: float | None, *, files: Sequence[int] = ()) -> None:
    """Return when a channel or an open file has something to tell, or after so many seconds; None: only then."""
    readable: list[Channel | int] = [channel for channel in channels if not channel.is_closed]
    readable += files
    unsent = [channel for channel in channels if channel._has_unsent()]
    with contextlib.suppress(InterruptedError):
        select.select(readable, unsent, [], seconds)


def _close(files: list[int]) -> None:
    for file in files:
        with contextlib.suppress(OSError):
            os.close(file)
    files.clear()
