"""Into a box: a child of the shim joins the workload's namespaces and gives up what the workload does not have.

The child is not dumpable from its first instruction until its exec, so no process of the box can look
into it, and it enters with no descriptor but those that it is given. Nothing here returns to the shim's
program: a failure is told over the channel, and the child ends. Standard library only.

    shim --fork--> entrant (joins, forks, ends) --fork--> guest (in the box's pid namespace; dies with it)

The guest becomes the shim's own child when the entrant ends, because the shim is a subreaper.
"""

import _signal  # the plain functions, see workload.py
import array
import ctypes
import errno
import fcntl
import os
import resource
import signal
import socket
from collections.abc import Callable
from typing import NamedTuple

from boxlited.shim.engines.base import EngineError
from boxlited.shim.frugal import forgo_protection, read_small
from boxlited.shim.workload import PR_SET_PDEATHSIG, UMASK

CLONE_NEWUSER = 0x10000000
NAMESPACES = {  # the mount namespace last: behind it our own paths mean nothing
    "user": CLONE_NEWUSER, "pid": 0x20000000, "ipc": 0x08000000, "uts": 0x04000000, "net": 0x40000000,
    "cgroup": 0x02000000, "mnt": 0x00020000,
}  # fmt: skip
NS_GET_PARENT = 0xB702
MAX_NESTED = 32  # user namespaces; the kernel's own limit

PR_SET_DUMPABLE = 4
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, PR_CAP_AMBIENT_CLEAR_ALL = 47, 2, 4
CAPABILITY_VERSION = 0x20080522
LAST_CAPABILITY = 63


class Capabilities(NamedTuple):
    """Sets of them, each as a number."""

    permitted: int
    inheritable: int
    bounding: int
    ambient: int


_libc = ctypes.CDLL(None, use_errno=True)
_libc.prctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong)
_reaping = False


Body = Callable[[socket.socket], None]


def fork_guest(
    pid: int, pidfd: int, keep: tuple[int, ...], body: Body, prepare: Callable[[], None] | None = None
) -> tuple[int, int]:
    """Start `body` inside the box of the workload `pid`; returns (entrant's pid, our end of its channel).

    `body` gets the channel, with the descriptors `keep` open beside it and nothing else but 0, 1
    and 2; it must exec or exit. `prepare` is called before the box is entered. The channel says `pid N`,
    then `error KIND TEXT` where something failed, and ends when the guest closes it or executes another
    program. Raises OSError when nothing can be forked.
    """
    _be_subreaper()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        shim = os.getpid()
        entrant = os.fork()
        if entrant == 0:
            _enter_and_fork(shim, (pid, pidfd), keep, theirs, body, prepare)
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    ours.setblocking(False)
    return entrant, ours.detach()


def _enter_and_fork(
    shim: int,
    workload: tuple[int, int],
    keep: tuple[int, ...],
    channel: socket.socket,
    body: Body,
    prepare: Callable[[], None] | None,
) -> None:
    """The entrant. Never returns."""
    try:
        _signal.set_wakeup_fd(-1)  # the pipe behind it is the shim's
        _prctl(PR_SET_DUMPABLE, 0)
        forgo_protection()
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != shim:
            os._exit(127)
        if prepare is not None:
            prepare()
        capabilities = _capabilities_of(workload[0])
        _join(*workload)
        guest = os.fork()
        if guest == 0:
            _be_guest(capabilities, keep, channel, body)
        channel.send(b"pid %d" % guest)
        os._exit(0)
    except BaseException as error:
        tell_failure(channel, error)
    finally:
        os._exit(127)


def _be_guest(capabilities: Capabilities, keep: tuple[int, ...], channel: socket.socket, body: Body) -> None:
    """The guest. Never returns."""
    try:
        _prctl(PR_SET_DUMPABLE, 0)
        _close_all_but((0, 1, 2, channel.fileno(), *keep))
        _reset_signals()
        os.setsid()
        os.umask(UMASK)
        give_up_privileges(capabilities)
        body(channel)
        os._exit(0)
    except BaseException as error:
        tell_failure(channel, error)
    finally:
        os._exit(127)


def tell_failure(channel: socket.socket, error: BaseException) -> None:
    kind = error.kind if isinstance(error, EngineError) else "engine"
    text = str(error) if isinstance(error, EngineError) else f"the box could not be entered: {error!r}"
    try:
        channel.send(b"error %b %b" % (kind.encode(), text.encode("utf-8", "replace")[:4000]))
    except OSError:
        pass


# ---- namespaces


def _join(pid: int, pidfd: int) -> None:
    """Join every namespace in which the process differs from us. Raises OSError, EngineError."""
    others: dict[int, int] = {}
    users: list[int] = []
    thread = _living_thread(pid)
    for name, flag in NAMESPACES.items():
        fd = os.open(f"{thread}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)
        if _inode(fd) == os.stat(f"/proc/self/ns/{name}").st_ino:
            os.close(fd)
        elif flag == CLONE_NEWUSER:
            users = _nested(fd)
        else:
            others[flag] = fd
    signal.pidfd_send_signal(pidfd, 0)  # not reaped: the number that was looked up was the workload's
    left = _join_what_lets_us(others)
    for fd in reversed(users):
        _setns(fd, CLONE_NEWUSER)
        left = _join_what_lets_us(left)
    if left:
        raise EngineError("engine", "the box's namespaces could not be joined by this user")
    os.chdir("/")


def _living_thread(pid: int) -> str:
    """Its directory in /proc. The first thread may have ended before the others, and is in no namespace any more."""
    first = f"/proc/{pid}"
    if os.path.exists(f"{first}/ns/mnt"):
        return first
    threads = (f"{first}/task/{thread}" for thread in os.listdir(f"{first}/task"))
    return next((thread for thread in threads if os.path.exists(f"{thread}/ns/mnt")), first)


def _nested(fd: int) -> list[int]:
    """A user namespace and those around it, up to our own: the innermost first."""
    own = os.stat("/proc/self/ns/user").st_ino
    found = [fd]
    while len(found) < MAX_NESTED:
        try:
            parent = fcntl.ioctl(found[-1], NS_GET_PARENT)
        except PermissionError:  # ours is not among them: the outermost that we may see is the first to join
            break
        if _inode(parent) == own:
            os.close(parent)
            break
        found.append(parent)
    return found


def _join_what_lets_us(fds: dict[int, int]) -> dict[int, int]:
    """The ones that are left: each belongs to one user namespace, in which we must be first."""
    left = {}
    for flag, fd in fds.items():
        try:
            _setns(fd, flag)
        except PermissionError:
            left[flag] = fd
    return left


def _inode(fd: int) -> int:
    return os.fstat(fd).st_ino


# ---- privileges


def _capabilities_of(pid: int) -> Capabilities:
    """Raises OSError, ValueError, KeyError."""
    found = {}
    for line in read_small(f"/proc/{pid}/status").splitlines():
        name, _, value = line.partition(b":")
        if name.startswith(b"Cap"):
            found[name] = int(value, 16)
    return Capabilities(found[b"CapPrm"], found[b"CapInh"], found[b"CapBnd"], found[b"CapAmb"])


def give_up_privileges(keep: Capabilities) -> None:
    """Keep these capabilities and no other, for good. Raises OSError."""
    for number in range(LAST_CAPABILITY + 1):
        if keep.bounding >> number & 1 or _libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0) == 0:
            continue
        if ctypes.get_errno() == errno.EINVAL:
            break  # beyond the last that this kernel knows
        raise _error("prctl")
    _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    sets = (keep.permitted, keep.permitted, keep.inheritable)
    data = (ctypes.c_uint32 * 6)(*(number & 0xFFFFFFFF for number in sets), *(number >> 32 for number in sets))
    if _libc.capset(header, data) != 0:
        raise _error("capset")
    for number in range(LAST_CAPABILITY + 1):
        if keep.ambient >> number & 1:
            _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, number)
    _prctl(PR_SET_NO_NEW_PRIVS, 1)


def _reset_signals() -> None:
    _signal.set_wakeup_fd(-1)
    for number in range(1, _signal.NSIG):
        if number in (signal.SIGKILL, signal.SIGSTOP):
            continue
        try:
            _signal.signal(number, _signal.SIG_DFL)
        except (OSError, ValueError):  # the C library's own
            pass
    _signal.pthread_sigmask(_signal.SIG_SETMASK, [])


def _close_all_but(keep: tuple[int, ...]) -> None:
    low = 0
    for fd in sorted(set(keep)):
        if low < fd:  # an empty range at 0 would be everything
            os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, resource.getrlimit(resource.RLIMIT_NOFILE)[1])


def _be_subreaper() -> None:
    global _reaping  # noqa: PLW0603 - a property of this process
    if not _reaping:
        _prctl(PR_SET_CHILD_SUBREAPER, 1)
        _reaping = True


def _setns(fd: int, flag: int) -> None:
    if _libc.setns(fd, flag) != 0:
        raise _error("setns")


def _prctl(option: int, *arguments: int) -> None:
    padded = (*arguments, 0, 0, 0, 0)[:4]
    if _libc.prctl(option, *padded) != 0:
        raise _error("prctl")


def _error(call: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{call}: {os.strerror(number)}")


# ---- what the channel carries


def receive_fd(channel: socket.socket) -> tuple[bytes, int | None]:
    """One message, and a descriptor where one came along. b"" at the end. Raises BlockingIOError."""
    data, ancillary, _flags, _address = channel.recvmsg(8192, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    return data, fds[0] if fds else None
