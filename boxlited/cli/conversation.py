"""boxctl attached to a command: its output is ours, our input is its, and so are our signals.

Four hands work at once, so that none waits for another: the main thread shows output, one thread
sends input, one sends signals and sizes over connections of its own (a command that does not read
its stdin can still be interrupted), and signal handlers only write a byte that wakes that one.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, TextIO

from boxlited.cli import exits, terminal
from boxlited.cli.escape import StreamFilter
from boxlited.cli.follow import RESET
from boxlited.cli.session import Session, complain, complain_of
from boxlited.cli.terminal import DetachKeys, RawTerminal
from boxlited.client.errors import ConnectionLost
from boxlited.client.values import STDERR, STDOUT
from boxlited.errors import BoxlitedError, InvalidState, NotFound

if TYPE_CHECKING:
    from boxlited.client import Attachment, Client

INPUT_BYTES = 64 * 1024
RESEND_SECONDS = 0.05
GIVE_UP_AFTER = 3  # the third Ctrl-C says that nobody wants to wait for a command that ignores it
_FORWARDED = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
_HANDLED = (*_FORWARDED, signal.SIGHUP, signal.SIGWINCH, signal.SIGTSTP, signal.SIGCONT)


@dataclass(frozen=True)
class Wiring:
    """How a command is attached. `since`: the output that was seen, None for what nobody saw."""

    interactive: bool
    tty: bool
    since: int | None = None


class Detached(Exception):
    """The user pressed the detach keys: the command goes on."""


def converse(session: Session, box_id: str, execution_id: str, wiring: Wiring) -> int:
    """Returns the exit code of the command, or 128 + n when signal n ended boxctl itself.

    Raises Detached, and what attaching raises. The terminal is then as it was before.
    """
    raw = RawTerminal(wiring.interactive and wiring.tty)
    # What is piped in must not be lost unseen, and what was on its way would be.
    reconnect = raw.active or not wiring.interactive
    attachment = session.client.attach(box_id, execution_id, wiring.since, reconnect=reconnect)
    conversation = _Conversation(session, box_id, execution_id, wiring, raw, attachment)
    try:
        with raw:
            code = conversation.run()
    finally:
        attachment.close()
    for notice in [*attachment.notices, attachment.error_message]:
        if notice:
            complain(notice)
    return code


class _Conversation:
    def __init__(
        self, session: Session, box_id: str, execution_id: str, wiring: Wiring, raw: RawTerminal, attachment: Attachment
    ) -> None:
        self._session = session
        self._box_id, self._execution_id = box_id, execution_id
        self._wiring = wiring
        self._raw = raw
        self._attachment = attachment
        self._over = threading.Event()
        self._left: int | None = None  # the exit code of a boxctl that was ended
        self._detached = False

    def run(self) -> int:
        with self._helping():
            show(self._attachment, self._wiring.tty)
        if self._detached:
            raise Detached
        if self._left is not None:
            return self._left
        code = self._attachment.exit_code
        return exits.FAILED if code is None else code & 0xFF

    @contextmanager
    def _helping(self) -> Iterator[None]:
        """The other threads, and signals: while the output is shown."""
        stop_read, stop_write = os.pipe()
        with _signals() as wakes:
            threads = [threading.Thread(target=self._control, args=(wakes, stop_read), daemon=True)]
            if self._wiring.interactive:
                threads.append(threading.Thread(target=self._send_input, args=(stop_read,), daemon=True))
            elif not self._wiring.tty:
                threads.append(threading.Thread(target=self._no_input, daemon=True))
            for thread in threads:
                thread.start()
            try:
                yield
            finally:
                self._over.set()
                os.close(stop_write)
                self._attachment.close()  # whoever still sends input to a command that has ended is woken
                for thread in threads:
                    thread.join()
                os.close(stop_read)

    def _leave(self, code: int | None) -> None:
        """Ends the conversation from another thread; None is: detached."""
        self._left, self._detached = code, code is None
        self._attachment.close()

    # ---- input

    def _no_input(self) -> None:
        with suppress(ConnectionLost):
            self._attachment.send_eof()

    def _send_input(self, stop: int) -> None:
        keys = DetachKeys() if self._raw.active else None
        descriptor = sys.stdin.fileno()
        unsent, detached = b"", False
        while (found := _wait(descriptor, stop, RESEND_SECONDS if unsent else None)) is not Woken.STOP:
            if found is Woken.READABLE:
                data = _read_or_end(descriptor)
                if not data:
                    self._input_ended()
                    return
                if keys is not None:
                    data, detached = keys.feed(data)
                unsent = (unsent + data)[:INPUT_BYTES]
            unsent = self._send(unsent)
            if detached:
                self._leave(None)
                return

    def _send(self, data: bytes) -> bytes:
        """What is to be sent again: keys that were typed while the daemon was away, and nothing that
        was piped in. That the connection is lost the main thread tells, or opens it again."""
        try:
            self._attachment.send(data)
        except ConnectionLost:
            return data if self._raw.active else b""
        return b""

    def _input_ended(self) -> None:
        if self._raw.active:
            self._leave(128 + signal.SIGHUP)
        else:
            self._no_input()

    # ---- signals and sizes

    def _control(self, wakes: int, stop: int) -> None:
        interrupts = 0
        with self._session.another_client() as client:
            while _wait(wakes, stop) is not Woken.STOP:
                for number in os.read(wakes, 64):
                    interrupts += number in (signal.SIGINT, signal.SIGTERM)
                    if self._is_the_end(number, interrupts):
                        self._leave(128 + number)
                        return
                    with suppress(InvalidState, NotFound):  # it has ended
                        self._act(client, number)

    def _is_the_end(self, number: int, interrupts: int) -> bool:
        if number == signal.SIGHUP or interrupts >= GIVE_UP_AFTER:
            return True
        return number == signal.SIGTERM and self._raw.active

    def _act(self, client: Client, number: int) -> None:
        if number == signal.SIGTSTP:
            self._pause()
        elif number in (signal.SIGWINCH, signal.SIGCONT):
            if number == signal.SIGCONT:
                self._raw.enter()
            now = terminal.size()
            if self._wiring.tty and now is not None:
                with suppress(BoxlitedError):
                    client.resize_execution(self._box_id, self._execution_id, now.cols, now.rows)
        elif number in _FORWARDED:
            try:
                client.signal_execution(self._box_id, self._execution_id, number)
            except (InvalidState, NotFound):
                raise
            except BoxlitedError as error:
                complain_of(error)

    def _pause(self) -> None:
        """Stopped by job control: the shell gets its terminal as it was."""
        self._raw.leave()
        os.kill(os.getpid(), signal.SIGSTOP)


@contextmanager
def _signals() -> Iterator[int]:
    """A descriptor from which the numbers of arriving signals can be read."""
    read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    os.set_blocking(read, True)
    if threading.current_thread() is not threading.main_thread():
        handlers, woken = {}, None
    else:
        handlers = {number: signal.signal(number, _heard) for number in _HANDLED}
        woken = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    try:
        yield read
    finally:
        if woken is not None:
            signal.set_wakeup_fd(woken)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.close(read)
        os.close(write)


def _heard(_number: int, _frame: object) -> None:
    """The wake-up descriptor tells of it."""


class Woken(Enum):
    READABLE = auto()
    STOP = auto()
    LATE = auto()


def _wait(descriptor: int, stop: int, seconds: float | None = None) -> Woken:
    """For something to read, or until `stop` has ended, or for so long."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    poll.register(stop, select.POLLIN)
    found = [ready for ready, _ in poll.poll(None if seconds is None else seconds * 1000)]
    if stop in found:
        return Woken.STOP
    return Woken.READABLE if found else Woken.LATE


def _read_or_end(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, INPUT_BYTES)
    except OSError:  # the terminal is gone
        return b""


# ---- output


def show(attachment: Attachment, tty: bool) -> None:
    """A terminal's output goes to the terminal as it is, for it is meant to; otherwise a command's
    bytes are made harmless to a terminal, and left as they are for a file or a pipe."""
    if tty:
        for _, data in attachment:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        return
    shown = {STDOUT: _Shown(sys.stdout), STDERR: _Shown(sys.stderr)}
    try:
        for channel, data in attachment:
            shown[channel].write(data)
    finally:
        for stream in shown.values():
            stream.finish()


class _Shown:
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._harmless = StreamFilter() if stream.isatty() else None
        self._wrote = False

    def write(self, data: bytes) -> None:
        self._wrote = True
        if self._harmless is None:
            self._stream.buffer.write(data)
        else:
            self._stream.write(self._harmless.feed(data))
        self._stream.flush()

    def finish(self) -> None:
        if self._harmless is not None and self._wrote:
            self._stream.write(self._harmless.feed(b"", final=True) + RESET)
            self._stream.flush()
