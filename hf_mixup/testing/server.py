"""`LocalHub`: starts and stops the server, which runs in a thread on a port of this machine."""

import os
import socket
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from .accounts import Accounts
from .app import make_app
from .faults import Faults, FaultyApp, Request
from .store import Store
from .web import HubState

START_TIMEOUT, STOP_TIMEOUT = 10.0, 5.0  # seconds
# Longer than clients keep idle connections (httpx: 5 s): a connection that both sides close at the same time is reset,
# and with it the request that the client just sent.
KEEP_ALIVE = 600
PART_SIZE = 32 * 2**20  # bytes; longer files are uploaded in parts


class LocalHub:
    """A Hub for huggingface_hub, datasets, transformers and timm, over HTTP and stored in a folder.

    with LocalHub(folder, users={"user": ["org"], "bob": []}) as hub:
        api = HfApi(endpoint=hub.url, token=hub.token)

    `users`: names, or names with their organisations. Each has a write token (`token` is the first user's); `add_token`
    adds others. After a restart, the port is the same. Xet is not supported: set HF_HUB_DISABLE_XET=1, which is part of
    `env`, before huggingface_hub is imported.
    """

    def __init__(
        self,
        folder: str | Path,
        users: Iterable[str] | Mapping[str, Iterable[str]] = ("user",),
        *,
        port: int = 0,
        token: str | None = None,
        part_size: int = PART_SIZE,
    ):
        self.accounts = Accounts(users, token)
        self.store = Store(folder)
        self.faults = Faults()
        self.port = port
        self._connections: dict = {}
        self._app = FaultyApp(make_app(HubState(self.store, self.accounts, part_size)), self.faults, self._connections)
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self._listener: socket.socket | None = None

    @property
    def url(self) -> str:
        """The URL for HF_ENDPOINT."""
        if self._server is None:
            raise RuntimeError("The hub is not running: use `with LocalHub(folder) as hub`, or call start() first.")
        return f"http://127.0.0.1:{self.port}"

    @property
    def token(self) -> str:
        """The first user's first token."""
        return next(iter(self.accounts.tokens))

    @property
    def env(self) -> dict[str, str]:
        """Environment variables of programs that use this hub; set them before huggingface_hub is imported."""
        return {"HF_ENDPOINT": self.url, "HF_TOKEN": self.token, "HF_HUB_DISABLE_XET": "1"}

    @property
    def requests(self) -> list[Request]:
        """The last 10,000 requests, oldest first."""
        return list(self._app.log)

    def add_token(self, user: str, role: str = "write", repos: Mapping[str, str] | None = None, **value: str) -> str:
        """Add a token; see `Accounts.add_token`."""
        return self.accounts.add_token(user, role, repos, **value)

    def start(self) -> "LocalHub":
        """Start the server, and return when it accepts requests."""
        if self._server is not None:
            raise RuntimeError(f"The hub already runs at {self.url}.")
        self.store.lock()
        try:
            listener = self._listen()
            config = uvicorn.Config(
                self._app,
                http=self._protocol(),
                loop="asyncio",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE,
                timeout_graceful_shutdown=1,
            )
            self._server = uvicorn.Server(config)
            run = self._server.run
            self._listener = listener.dup()  # the server closes the other one
            self._thread = threading.Thread(target=run, args=([listener],), name="LocalHub", daemon=True)
            self._thread.start()
            self._wait_for_start()
        except BaseException:
            self.stop()
            raise
        return self

    def _listen(self) -> socket.socket:
        # asyncio sends small responses without delay only for sockets with the TCP protocol number
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", self.port))
        except OSError as error:
            listener.close()
            raise OSError(f"Port {self.port} cannot be used ({error}): choose another, or 0 for a free one.") from error
        self.port = listener.getsockname()[1]
        return listener

    def _protocol(self) -> type[H11Protocol]:
        """uvicorn's protocol, which also records the connection of each client, for faults that close it."""
        connections = self._connections

        class Protocol(H11Protocol):
            def connection_made(self, transport) -> None:
                super().connection_made(transport)
                connections[self.client] = transport

            def connection_lost(self, error) -> None:
                connections.pop(self.client, None)
                _shut_down(self.transport.get_extra_info("socket"))
                super().connection_lost(error)

        return Protocol

    def _wait_for_start(self) -> None:
        until = time.monotonic() + START_TIMEOUT
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > until:
                raise RuntimeError(f"The hub did not start at port {self.port}: see the log.")
            time.sleep(0.002)

    def stop(self) -> None:
        """Close all connections, the port and the folder's lock."""
        if self._server is not None:
            self._server.should_exit = True
            if self._thread is not None and self._thread.ident is not None:
                self._thread.join(STOP_TIMEOUT)
            self._server = self._thread = None
        if self._listener is not None:
            _shut_down(self._listener)
            self._listener.close()
            self._listener = None
        self.store.unlock()

    def __enter__(self) -> "LocalHub":
        return self.start()

    def __exit__(self, *error) -> None:
        self.stop()


def _shut_down(used: socket.socket) -> None:
    """End a connection, or listening; a forked process, such as a loader's worker, may hold a copy that stays open."""
    with suppress(OSError):  # closed already
        used.shutdown(socket.SHUT_RDWR)
