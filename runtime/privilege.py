"""What root gives up: a program that was called by it becomes the owner of the data folder.

Else a file that root made would stop the daemon, and a bundle would be parsed with every right on
the box. Only the writing of receipts to a stick that root mounted stays behind, in a process that
does nothing else.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import socket
from pathlib import Path

from axlebox.firmware_bundle.stick import Stick

_NAME = re.compile(rb"AX-[A-Z2-7]{4}-[A-Za-z0-9.-]{1,64}-[0-9]{4,12}\.json")
_MAX_MESSAGE_BYTES = 64 * 1024


def user_name() -> str:
    """Login name of whoever called, as far as the box knows; by sudo, the person's own."""
    name = os.environ.get("SUDO_USER", "") if os.getuid() == 0 else ""
    if not name:
        try:
            name = pwd.getpwuid(os.getuid()).pw_name
        except KeyError:
            name = str(os.getuid())
    return name[:64] if name.isprintable() else ""


def would_change(data: Path) -> bool:
    """Whether this is root, and the data folder somebody else's."""
    return os.geteuid() == 0 and data.is_dir() and data.stat().st_uid != 0


def become_owner(data: Path) -> None:
    """Where this is root and the data folder is not root's, become its owner for good."""
    if would_change(data):
        owner = data.stat()
        os.setgroups([])
        os.setgid(owner.st_gid)
        os.setuid(owner.st_uid)


class Keeper:
    """Writes receipts to a stick with the rights that the caller is about to give up."""

    def __init__(self, stick: Stick) -> None:
        self.serial = stick.serial
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._child = os.fork()
        if self._child == 0:
            self._ours.close()
            stick.close()  # it writes by name, and an open file would keep the stick busy
            with contextlib.suppress(BaseException):
                _serve(stick, theirs)
            os._exit(0)
        theirs.close()

    def keep(self, name: str, document: bytes) -> None:
        """Write one receipt file, durably. Raises OSError."""
        self._ours.sendall(name.encode() + b"\n" + document)
        code, _, words = self._ours.recv(_MAX_MESSAGE_BYTES).partition(b" ")
        if code != b"0":
            raise OSError(int(code or b"5"), words.decode() or "the writer of receipts has ended")

    def close(self) -> None:
        self._ours.close()
        os.waitpid(self._child, 0)


def _serve(stick: Stick, asked: socket.socket) -> None:
    """Until the other end closes: one receipt in, one answer out."""
    while message := asked.recv(_MAX_MESSAGE_BYTES):
        name, _, document = message.partition(b"\n")
        try:
            if not _NAME.fullmatch(name):
                raise OSError(22, "not the name of a receipt")
            stick.keep(name.decode(), document)
        except OSError as error:
            asked.send(f"{error.errno or 5} {error.strerror or error}".encode())
        else:
            asked.send(b"0 ")
