"""A proxy between a client and its PostgreSQL server, which counts the client's messages and can strike at any of them."""

from __future__ import annotations

import socket
import struct
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Callable, Iterator, List, Optional, Tuple

# Of the second connection, which only looks who blocks.
UNCOUNTED = b"(watch)"

SHUTDOWN_SECONDS = 5.0


@dataclass(frozen=True)
class Moment:
    """When to strike: at which message of the client's, and how long after it was passed on."""

    message: int
    phase: str
    """`before` the message is passed on, `during` its work, `after` its answer has come, or when that is `lost` on its way."""
    delay: float = 0.0


Strike = Callable[["Link"], None]


class Link:
    """One connection of the client's, and the one to the server that goes with it."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client, self.server = client, server
        self.backend_pid = 0
        self.counted = True
        self._held: Optional[List[bytes]] = None
        self._ended = False
        self._lock = threading.Lock()
        self.answered = threading.Event()

    def hold(self) -> None:
        """Keep back what the server answers from now on."""
        with self._lock:
            self._held = []
            self.answered.clear()

    def release(self, lose: bool) -> None:
        """Pass on what was kept back; or lose it, and the connection with it."""
        with self._lock:
            held, self._held = self._held or [], None
            if lose:
                self.close()
            else:
                with suppress(OSError):
                    self.client.sendall(b"".join(held))
                if self._ended:
                    self.close()

    def pass_back(self, frames: bytes) -> None:
        """An answer has come from the server."""
        with self._lock:
            if self._held is None:
                self.client.sendall(frames)
            else:
                self._held.append(frames)

    def close_client(self) -> None:
        """Let the client alone believe that the connection is gone."""
        _shut(self.client)

    def end(self) -> None:
        """The server is gone: so is the connection, once what is kept back is passed on."""
        with self._lock:
            self._ended = True
            if self._held is None:
                self.close()

    def close(self) -> None:
        _shut(self.client)
        _shut(self.server)


def _shut(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)


class Proxy:
    """Listens on a port of its own as long as it is entered.

    :param upstream: where the server is; it may come and go.
    """

    def __init__(self, upstream: Tuple[str, int]) -> None:
        self.upstream = upstream
        self.messages = 0
        """How many the client has sent, over all its counted connections."""
        self.commits: List[int] = []
        """Those of them that carry a commit."""
        self.struck = 0
        self._plans: List[Tuple[Moment, Strike]] = []
        self._listener = socket.create_server((upstream[0], 0))
        self.port: int = self._listener.getsockname()[1]
        self._links: List[Link] = []
        self._threads: List[threading.Thread] = []
        self._counting = threading.Lock()

    def plan(self, moment: Moment, strike: Strike) -> None:
        """Strike at this moment; the message counts from the strike before, if one is planned already."""
        self._plans.append((moment, strike))

    def __enter__(self) -> Proxy:
        self._start(self._accept)
        return self

    def __exit__(self, *_unused: object) -> None:
        _shut(self._listener)
        self._listener.close()
        for link in self._links:
            link.close()
        deadline = time.monotonic() + SHUTDOWN_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        for link in self._links:
            link.client.close()
            link.server.close()

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _unused = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self.upstream)
            except OSError:
                client.close()
                continue
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            link = Link(client, server)
            self._links.append(link)
            self._start(self._forward, link)
            self._start(self._answer, link)

    def _forward(self, link: Link) -> None:
        """From the client to the server."""
        with suppress(OSError):
            for startup, message in _messages(link.client):
                if startup:
                    link.counted = UNCOUNTED not in message
                if link.counted:
                    self._pass_on(link, message)
                else:
                    link.server.sendall(message)
        link.close()

    def _pass_on(self, link: Link, message: bytes) -> None:
        planned: Optional[Tuple[Moment, Strike]] = None
        if message.startswith(b"X"):
            # It says goodbye, if it says anything.
            link.server.sendall(message)
            return
        with self._counting:
            self.messages += 1
            if b"commit" in message:
                self.commits.append(self.messages)
            if self._plans and self.messages == self._plans[0][0].message:
                planned = self._plans.pop(0)
                self.messages = 0
                self.struck += 1
        if planned is None:
            link.server.sendall(message)
            return
        moment, strike = planned
        if moment.phase == "before":
            strike(link)
            link.server.sendall(message)
            return
        link.hold()
        link.server.sendall(message)
        link.answered.wait(moment.delay if moment.phase == "during" else None)
        strike(link)
        link.release(lose=moment.phase == "lost")

    def _answer(self, link: Link) -> None:
        """From the server to the client, whole messages at a time."""
        pending = b""
        with suppress(OSError):
            while received := link.server.recv(65536):
                pending += received
                end = 0
                ready = False
                while len(pending) - end >= 5:
                    length = 1 + struct.unpack_from("!i", pending, end + 1)[0]
                    if len(pending) - end < length:
                        break
                    kind = pending[end : end + 1]
                    if kind == b"K":
                        link.backend_pid = struct.unpack_from("!i", pending, end + 5)[0]
                    # Ready for the next query, or for the next step of the log-in.
                    ready = kind in (b"Z", b"R")
                    end += length
                if end:
                    link.pass_back(pending[:end])
                    pending = pending[end:]
                if ready:
                    link.answered.set()
        # There will be no answer any more.
        link.answered.set()
        link.end()


def _messages(client: socket.socket) -> Iterator[Tuple[bool, bytes]]:
    """The client's messages one by one; only the first, which starts the connection, has no type in front."""
    file = client.makefile("rb")
    startup = True
    while head := file.read(4 if startup else 5):
        (length,) = struct.unpack("!i", head[-4:])
        yield startup, head + file.read(length - 4)
        startup = False
