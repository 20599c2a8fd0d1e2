"""Something between a client and a server's socket that notes every message which the client sends."""

from __future__ import annotations

import socket
import struct
import tempfile
import threading
from pathlib import Path
from typing import List

from .postgres import Server

_LENGTH = struct.Struct("!i")
_TERMINATE = b"X"


class Relay:
    """Listens in a directory of its own; leaving it ends every connection.

    Over a socket libpq asks for no encryption, so the first message is the startup, and every later one has a type.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self.port = server.port
        self.conversations: List[List[str]] = []
        """What each connection sent after its startup: the text of a query, or the type of another message."""

    def __enter__(self) -> Relay:
        self._scratch = tempfile.TemporaryDirectory()
        self.directory = Path(self._scratch.name)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.directory / f".s.PGSQL.{self.port}"))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_unused: object) -> None:
        # Closing alone would not wake the thread that waits in accept.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._scratch.cleanup()

    @property
    def messages(self) -> List[str]:
        """What all connections sent."""
        return [message for conversation in self.conversations for message in conversation]

    def _accept(self) -> None:
        while True:
            try:
                client, _address = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(str(self._server.socket_directory / f".s.PGSQL.{self.port}"))
            conversation: List[str] = []
            self.conversations.append(conversation)
            threading.Thread(target=self._forward, args=(client, server, conversation), daemon=True).start()
            threading.Thread(target=self._return, args=(server, client), daemon=True).start()

    def _forward(self, client: socket.socket, server: socket.socket, conversation: List[str]) -> None:
        with client, server, client.makefile("rb") as stream:
            length = stream.read(_LENGTH.size)
            server.sendall(length + stream.read(_LENGTH.unpack(length)[0] - _LENGTH.size))
            while kind := stream.read(1):
                length = stream.read(_LENGTH.size)
                body = stream.read(_LENGTH.unpack(length)[0] - _LENGTH.size)
                if kind != _TERMINATE:
                    conversation.append(body[:-1].decode() if kind == b"Q" else kind.decode())
                server.sendall(kind + length + body)

    @staticmethod
    def _return(server: socket.socket, client: socket.socket) -> None:
        try:
            while data := server.recv(65536):
                client.sendall(data)
        except OSError:
            # The client has closed its end.
            pass
