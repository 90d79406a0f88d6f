"""Copying files between this host and a box, as `docker cp` does: which name lands where.

The destination is a directory that exists: the source lands in it. Else the source becomes the
destination. "DIR/." is what is in DIR. A destination that ends in "/" has to be a directory.
Written once, blocking; the asynchronous client runs it in a thread.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Literal, NamedTuple, Protocol

from boxlited.client.tars import Archive, Unpacker, packed, parts_of
from boxlited.errors import InvalidArgument, NotFound

Kind = Literal["file", "directory"]
_SHAPE_HEADER = "x-boxlite-source-is-dir"


class TarStream(Protocol):
    """An open archive from a box."""

    @property
    def headers(self) -> dict[str, str]: ...
    def __iter__(self) -> Iterator[bytes]: ...
    def __enter__(self) -> TarStream: ...
    def __exit__(self, *_: object) -> None: ...


class Files(Protocol):
    """What copying needs of a client."""

    def put_files(self, ref: str, path: str, content: Iterable[bytes]) -> None: ...
    def get_files(self, ref: str, path: str, *, follow_symlinks: bool = False) -> TarStream: ...


class Place(NamedTuple):
    """`name` in `directory`; without a name the directory itself, into which contents go."""

    directory: str
    name: str


class BoxPath(NamedTuple):
    """A path in a box; relative ones begin at the root."""

    path: str
    is_directory: bool  # it ends in "/": it has to be one
    contents: bool  # it ends in "/.": what is in it

    @classmethod
    def parse(cls, text: str) -> BoxPath:
        if not text or "\0" in text:
            raise InvalidArgument(f"{text!r} is not a path in a box")
        path = posixpath.normpath("/" + text).replace("//", "/")
        return cls(path, text.endswith("/"), _is_contents(text))


def copy_in(files: Files, host_path: str, ref: str, box_path: str, follow_symlinks: bool = False) -> None:
    """Raises InvalidArgument when the two do not fit each other."""
    source = os.path.realpath(host_path) if follow_symlinks else host_path
    if not os.path.lexists(source):
        raise InvalidArgument(f"{host_path}: no such file or directory")
    is_link = os.path.islink(source) and not source.endswith("/")
    kind: Kind = "directory" if os.path.isdir(source) and not is_link else "file"
    target = BoxPath.parse(box_path)
    name = "" if _is_contents(host_path) else os.path.basename(os.path.abspath(host_path))
    found = "directory" if target.path == "/" else kind_in_box(files, ref, target.path)
    place = placed(kind, name, found, Place(*posixpath.split(target.path)), target.is_directory, box_path)
    files.put_files(ref, place.directory.rstrip("/") + "/", packed(source.rstrip("/") or "/", place.name))


def copy_out(files: Files, ref: str, box_path: str, host_path: str, follow_symlinks: bool = False) -> None:
    """Raises InvalidArgument when the two do not fit each other, or what comes cannot be trusted."""
    source = BoxPath.parse(box_path)
    name = posixpath.basename(source.path)
    with files.get_files(ref, source.path, follow_symlinks=follow_symlinks) as stream:
        archive = Archive(stream)
        shape = shape_of(archive, name, stream.headers.get(_SHAPE_HEADER))
        if source.contents and not shape.is_directory:
            raise InvalidArgument(f"{box_path}: {source.path} is no directory")
        target = Place(*os.path.split(os.path.abspath(host_path)))
        kind: Kind = "directory" if shape.is_directory else "file"
        taken = "" if source.contents else name
        place = placed(kind, taken, _found_on_host(host_path), target, host_path.endswith("/"), host_path)
        try:
            _unpack(archive, shape, place)
        except OSError as error:
            raise InvalidArgument(f"cannot write {error.filename or host_path}: {error.strerror}") from error


def placed(kind: Kind, name: str, found: Kind | None, target: Place, must_be_directory: bool, said: str) -> Place:
    """Where a source of this kind and name lands. `found`: what the target is; `said`: its name to
    a user. A source without a name is the contents of a directory."""
    whole = os.path.join(target.directory, target.name)
    if found == "directory":
        return Place(whole, name)
    if kind == "directory" and found == "file":
        raise InvalidArgument(f"{said} is a file: a directory cannot be copied onto it")
    if must_be_directory and (kind == "file" or found == "file"):
        raise InvalidArgument(f"{said}: no such directory; make it first, or leave out the last slash")
    return target


def kind_in_box(files: Files, ref: str, path: str) -> Kind | None:
    """What a path in a box is, links followed; None when it is not there."""
    try:
        with files.get_files(ref, path, follow_symlinks=True) as stream:
            archive = Archive(stream)
            shape = shape_of(archive, posixpath.basename(path), stream.headers.get(_SHAPE_HEADER))
    except NotFound:  # the path, or the box: that is told when something is put there
        return None
    return "directory" if shape.is_directory else "file"


class Shape(NamedTuple):
    """How an archive names what it holds: below `prefix`, or a directory's contents bare."""

    is_directory: bool
    prefix: list[str]


def shape_of(archive: Archive, name: str, said: str | None) -> Shape:
    """Read off the first member, unless the daemon has said it: a directory's archive holds it by
    its name, as ".", or only what is in it."""
    first = archive.first
    if first is None:
        return Shape(True, [])
    parts = parts_of(first.name)
    named = parts[:1] == [name]
    if said is not None:
        is_directory = said.lower() == "true"
    else:
        is_directory = first.isdir() or parts != [name]
    if not is_directory:
        return Shape(False, parts)
    return Shape(True, [name] if named and (first.isdir() or len(parts) > 1) else [])


def _unpack(archive: Archive, shape: Shape, place: Place) -> None:
    base = [place.name] if place.name else []
    if shape.is_directory and base:
        with suppress(FileExistsError):
            os.mkdir(os.path.join(place.directory, place.name))
    unpacker = Unpacker(place.directory)
    for member in archive:
        parts = base + _below(shape, parts_of(member.name))
        linked = base + _below(shape, parts_of(member.linkname)) if member.islnk() else None
        unpacker.add(archive, member, parts, linked)
    unpacker.finish()


def _below(shape: Shape, parts: list[str]) -> list[str]:
    if parts[: len(shape.prefix)] != shape.prefix:
        raise InvalidArgument(f"the archive of the box holds {'/'.join(parts)!r} beside what was asked for")
    return parts[len(shape.prefix) :]


def _found_on_host(path: str) -> Kind | None:
    if os.path.isdir(path):
        return "directory"
    return "file" if os.path.lexists(path) else None


def _is_contents(path: str) -> bool:
    return path == "." or path.endswith("/.")
