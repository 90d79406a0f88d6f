"""The control channel before anyone speaks: a listening socket and nothing else, for pages' sake.

Standard library only.
"""

import _socket  # the plain type: that of `socket` makes an enum of every number, and pages private
import errno
import os

BACKLOG = 512


def listen(path: str) -> int:
    """A non-blocking descriptor that listens at `path`. Raises OSError.

    A home may have any length, a socket's path may not: the directory is named by its descriptor.
    """
    name = path.rpartition("/")
    directory = os.open(name[0], os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        short = f"/proc/self/fd/{directory}/{name[2]}"
        sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC)
        try:
            sock.bind(short)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            os.unlink(short)  # of the run before
            sock.bind(short)
        sock.listen(BACKLOG)
        return sock.detach()
    finally:
        os.close(directory)
