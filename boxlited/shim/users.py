"""The user of a workload: `user` or `user:group`, each a number or a name of the host."""

from boxlited.shim.engines.base import EngineError

MAX_ID = 2**32 - 2


def identity_arguments(user: str | None) -> list[str]:
    """bubblewrap's --uid and --gid in a user namespace of its own. Raises EngineError."""
    if user is None:
        return []
    uid, gid = resolve(user)
    return ["--unshare-user", "--uid", str(uid), "--gid", str(gid)]


def resolve(user: str) -> tuple[int, int]:
    """(uid, gid) of a user as a box has it. Raises EngineError."""
    name, colon, group = user.partition(":")
    uid, gid = _number(name), _group(group) if colon else None
    if uid is None:
        uid, default_gid = _lookup(name)
        gid = default_gid if gid is None else gid
    return uid, uid if gid is None else gid


def check_user(asked: str | None, uid: int, gid: int) -> None:
    """A box has one user, in whose user namespace no other exists. Raises EngineError for another."""
    if asked is None:
        return
    name, colon, group = asked.partition(":")
    number = _number(name)
    if number is None:
        number = _lookup(name)[0]
    if number != uid or (colon and _group(group) != gid):
        raise EngineError(
            "unsupported",
            f"user {asked!r} does not exist in this box: its commands run as {uid}:{gid}. Leave `user` out,"
            " or create a box with that user",
        )


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and int(text) <= MAX_ID else None


def _lookup(name: str) -> tuple[int, int]:
    import pwd

    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise EngineError("config", f"user {name!r} does not exist: give a number or a name of the host") from None
    return entry.pw_uid, entry.pw_gid


def _group(name: str) -> int:
    import grp

    number = _number(name)
    try:
        return grp.getgrnam(name).gr_gid if number is None else number
    except KeyError:
        raise EngineError("config", f"group {name!r} does not exist: give a number or a name of the host") from None
