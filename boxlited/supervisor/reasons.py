"""Why a box is not running, in words: gathers evidence for `CrashReport`.

Reads bounded tails of the box's logs; changes nothing.
"""

from __future__ import annotations

from pathlib import Path

from boxlited.model import Box, StopCause
from boxlited.supervisor.crash import CrashReport, tail
from boxlited.supervisor.directories import storage_error
from boxlited.supervisor.exitfile import ExitFileUnreadable, ExitInfo, read_exit_file
from boxlited.supervisor.layout import HomeLayout
from boxlited.supervisor.observe import Sight

TAIL_BYTES = 4096


class Reasons:
    def __init__(self, home: HomeLayout) -> None:
        self._home = home

    def report(self, box: Box, sight: Sight, cause: StopCause | None) -> CrashReport:
        """The report of an end that was just observed."""
        report = self._build(box, sight.own_exit, sight, oom=cause is StopCause.OOM)
        if sight.exit_problem is None:
            return report
        return CrashReport(
            user_message=f"box {box.name} ended and its exit file was refused: {sight.exit_problem}",
            debug_info=report.debug_info,
            error_kind="engine",
        )

    def active(self, box: Box) -> CrashReport | None:
        """The report of the active slot; None when there is nothing to report.

        Raises StorageError or ResourceExhausted when that cannot be seen.
        """
        info, _ = _read(self._home.box(box.box_id).exit_file)
        if info is not None and info.run_id is not None and box.run_id not in (None, info.run_id):
            info = None  # another run's, on its way to be stashed
        if info is None and box.failure_reason is None:
            return None
        report = self._build(box, info, None, oom=box.stop_cause is StopCause.OOM)
        if box.failure_reason is not None:  # said when all the evidence was at hand
            return CrashReport(
                user_message=box.failure_reason, debug_info=report.debug_info, error_kind=report.error_kind
            )
        return report

    def previous(self, box: Box) -> CrashReport | None:
        """The report of the lifecycle before this one; None when it left nothing.

        Raises StorageError or ResourceExhausted when that cannot be seen.
        """
        path = self._home.box(box.box_id).exit_previous
        info, refused = _read(path)
        if refused is None:
            return None if info is None else self._build(box, info, None, oom=False)
        return CrashReport(
            user_message=f"the exit file of the run before was refused: {refused}. It is kept: {path}",
            debug_info=self._build(box, None, None, oom=False).debug_info,
            error_kind="engine",
        )

    def _build(self, box: Box, info: ExitInfo | None, sight: Sight | None, *, oom: bool) -> CrashReport:
        layout = self._home.box(box.box_id)
        return CrashReport.build(
            box.name,
            info,
            sight.shim_status if sight is not None else None,
            oom,
            tail(layout.shim_stderr, TAIL_BYTES),
            tail(layout.console_log, TAIL_BYTES),
            layout.shim_stderr,
            layout.console_log,
        )


def _read(path: Path) -> tuple[ExitInfo | None, str | None]:
    """The record, or why what lies there is refused."""
    try:
        return read_exit_file(path), None
    except ExitFileUnreadable as problem:
        return None, problem.message
    except OSError as error:
        raise storage_error("read the exit file of a box", path, error) from error
