"""The error hierarchy: one class for each error code of the HTTP API.

Owns the mapping code -> HTTP status, once. Standard library only, because the
shim and the spawner import it through the codecs. A message names the operation,
the object and what to do next; it never holds a traceback.
"""


class BoxlitedError(Exception):
    """Base of every error that may reach a user. `code` and `status` are the API's."""

    code = "internal"
    status = 500

    @property
    def message(self) -> str:
        return str(self)


class InvalidArgument(BoxlitedError):
    code = "invalid_argument"
    status = 400


class Unauthenticated(BoxlitedError):
    code = "unauthenticated"
    status = 401


class PermissionDenied(BoxlitedError):
    code = "permission_denied"
    status = 403


class NotFound(BoxlitedError):
    code = "not_found"
    status = 404


class AlreadyExists(BoxlitedError):
    code = "already_exists"
    status = 409


class InvalidState(BoxlitedError):
    code = "invalid_state"
    status = 409


class Stopped(BoxlitedError):
    code = "stopped"
    status = 409


class Unsupported(BoxlitedError):
    code = "unsupported"
    status = 422


class ImagePullFailed(BoxlitedError):
    code = "image_pull_failed"
    status = 422


class ResourceExhausted(BoxlitedError):
    code = "resource_exhausted"
    status = 429


class StorageError(BoxlitedError):
    code = "storage_error"
    status = 500


class DatabaseError(BoxlitedError):
    code = "database_error"
    status = 500


class Internal(BoxlitedError):
    code = "internal"
    status = 500


class EngineUnavailable(BoxlitedError):
    code = "engine_unavailable"
    status = 503


class Timeout(BoxlitedError):
    code = "timeout"
    status = 504


class StartupError(BoxlitedError):
    """The daemon cannot start. `exit_code` follows sysexits.h."""

    exit_code = 1

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class ConfigError(StartupError):
    """The configuration is wrong: names file, key and allowed values. Exit code 78 (EX_CONFIG)."""

    def __init__(self, message: str) -> None:
        super().__init__(message, exit_code=78)


BY_CODE: dict[str, type[BoxlitedError]] = {
    cls.code: cls
    for cls in (
        InvalidArgument, Unauthenticated, PermissionDenied, NotFound, AlreadyExists, InvalidState,
        Stopped, Unsupported, ImagePullFailed, ResourceExhausted, StorageError, DatabaseError,
        Internal, EngineUnavailable, Timeout,
    )
}  # fmt: skip
