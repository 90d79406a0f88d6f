"""HTTP to the daemon: one httpx client, and the translation of its failures into ours.

httpx is imported on the first request and not before, because `boxctl --help` and shell
completion must not pay for it. Every request has a deadline except a followed stream, which lasts
as long as its reader wants.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boxlited.client.errors import ConnectionLost, connection_lost, from_reply, no_daemon, socket_forbidden
from boxlited.errors import BoxlitedError, Internal

if TYPE_CHECKING:
    import httpx

CONNECT_SECONDS = 5.0


class Transport:
    """Not for threads to share while one of them closes it."""

    def __init__(self, socket: Path, base_url: str | None, token: str | None) -> None:
        self.where = base_url or str(socket)
        self._socket = socket
        self._base_url = base_url
        self._token = token
        self._http: httpx.Client | None = None

    def request(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        params: Mapping[str, str | int] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_seconds: float,
    ) -> Any:
        """One call; the decoded JSON of a success, or None when it has no body."""
        operation = f"{method} {path}"
        with self._translated(operation):
            reply = self._client().request(
                method,
                path,
                json=body,
                params=_present(params),
                headers=dict(headers or {}),
                timeout=self._timeout(timeout_seconds),
            )
        if not reply.is_success:
            raise from_reply(reply.status_code, _json_or_none(reply.content), operation)
        return _decode(reply.content, operation) if reply.content else None

    def stream(
        self, path: str, params: Mapping[str, str | int] | None = None, *, quiet_seconds: float | None = None
    ) -> ByteStream:
        """Open a streamed GET. Returns once the reply's head is here, so that nothing said
        after this call is missed. The caller closes it.

        With `quiet_seconds` the stream ends, without an error, when so long nothing came.
        """
        operation = f"GET {path}"
        with self._translated(operation):
            opened = self._client().stream("GET", path, params=_present(params), timeout=self._timeout(None))
            reply = opened.__enter__()
        if reply.is_success:
            return ByteStream(opened, reply, lambda: self._translated(operation), quiet_seconds is not None)
        with self._translated(operation):
            content = reply.read()
            opened.__exit__(None, None, None)
        raise from_reply(reply.status_code, _json_or_none(content), operation)

    def close(self) -> None:
        if self._http is not None:
            self._http.close()
            self._http = None

    def _client(self) -> httpx.Client:
        if self._http is not None:
            return self._http
        import httpx

        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        if self._base_url is not None:
            self._http = httpx.Client(base_url=self._base_url, headers=headers, trust_env=False)
        else:
            # verify=False: there is no TLS on a unix socket, and loading certificates costs 20 ms
            transport = httpx.HTTPTransport(uds=str(self._socket), verify=False)
            self._http = httpx.Client(base_url="http://boxlited", transport=transport, headers=headers, trust_env=False)
        return self._http

    def _timeout(self, seconds: float | None) -> httpx.Timeout:
        import httpx

        return httpx.Timeout(seconds, connect=CONNECT_SECONDS)

    @contextmanager
    def _translated(self, operation: str) -> Iterator[None]:
        import httpx

        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise self._not_connected(error) from error
        except httpx.TransportError as error:
            cause = str(error) or type(error).__name__
            raise connection_lost(operation, cause) from error
        except httpx.InvalidURL as error:
            raise Internal(f"{self.where!r} is not a usable address: {error}") from error

    def _not_connected(self, error: BaseException) -> BoxlitedError:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, PermissionError):
                return socket_forbidden(self.where)
            cause = cause.__cause__ or cause.__context__
        return no_daemon(self.where)


class ByteStream:
    """The body of a streamed reply: iterate over it, or close it early from any thread."""

    def __init__(
        self,
        opened: AbstractContextManager[httpx.Response],
        reply: httpx.Response,
        translated: Callable[[], AbstractContextManager[None]],
        ends_when_quiet: bool,
    ) -> None:
        self._ends_when_quiet = ends_when_quiet
        self._opened = opened
        self._reply = reply
        self._translated = translated

    def __iter__(self) -> Iterator[bytes]:
        import httpx

        try:
            with self._translated():
                yield from self._reply.iter_bytes()
        except ConnectionLost as error:
            if not (self._ends_when_quiet and isinstance(error.__cause__, httpx.ReadTimeout)):
                raise

    def __enter__(self) -> ByteStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._opened.__exit__(None, None, None)


def _present(params: Mapping[str, str | int] | None) -> dict[str, str | int] | None:
    return dict(params) if params else None


def _json_or_none(content: bytes) -> object:
    try:
        value: object = json.loads(content)
    except ValueError:
        return None
    return value


def _decode(content: bytes, operation: str) -> Any:
    try:
        return json.loads(content)
    except ValueError as error:
        raise Internal(f"{operation}: the answer is not JSON; is this really boxlited?") from error
