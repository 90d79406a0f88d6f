"""Two hundred places for boxes, what was acknowledged of each, and the clients that act on them.

Owns what is known: a place whose last command was answered is certain, any other is not. Every
choice of a client comes from its own seed, so that the same seed asks for the same.
"""

from __future__ import annotations

import random
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from boxlited.client.client import Client
from boxlited.errors import AlreadyExists, BoxlitedError, NotFound
from tests.faults.truth import Deeds

PLACES = 200
SHORT, CODE = ["/bin/sh", "-c", "sleep 3; exit 3"], 3  # the only one that ends by itself
COMMANDS = (
    ["/bin/sleep", "987651"],
    ["/bin/sh", "-c", "trap '' TERM; while :; do sleep 1; done"],
    ["/bin/sh", "-c", "while :; do echo line; sleep 0.5; done"],
    SHORT,
    ["/bin/sh", "-c", "(setsid sleep 987650 &); exec sleep 987651"],
)
POLICIES = ("no", "no", "on-failure", "always")
ACTS = ("create",) * 3 + ("start",) * 6 + ("stop",) * 3 + ("kill", "remove", "exec", "signal", "get", "list", "leave")


@dataclass(slots=True)
class Place:
    """`box_id` None: no box is known here. `is_stopped`: a stop was answered 2xx and nothing was asked since."""

    number: int
    spec: dict[str, Any]
    lock: threading.Lock = field(default_factory=threading.Lock)
    box_id: str | None = None
    may_be_gone: bool = False
    is_stopped: bool = False
    was_left: bool = False  # a client went away; nobody knows when what it asked for is done

    @property
    def name(self) -> str:
        return f"place-{self.number}"

    @property
    def is_short(self) -> bool:
        """Its workload ends by itself."""
        return bool(self.spec["cmd"] == SHORT)


def places(seed: str) -> list[Place]:
    chance = random.Random(f"{seed}/places")
    return [Place(number, _spec(number, chance)) for number in range(PLACES)]


def _spec(number: int, chance: random.Random) -> dict[str, Any]:
    engine = chance.choice(("sandbox", "sandbox", "process"))
    spec: dict[str, Any] = {
        "name": f"place-{number}",
        "image": "host",
        "engine": engine,
        "cmd": chance.choice(COMMANDS),
        "restart": {"policy": chance.choice(POLICIES), "backoff": {"initial_seconds": 0.2, "max_seconds": 2.0}},
    }
    if chance.random() < 0.15:
        spec |= {"auto_remove": True, "restart": {"policy": "no"}}
    if engine == "sandbox" and chance.random() < 0.3:
        spec |= chance.choice(({"memory_mib": 64}, {"pids": 64}, {"cpus": 0.5}))
    return spec


class Crowd:
    """The places, and what was said to all who asked. `said` counts by what was asked and how it was answered."""

    def __init__(self, seed: str, path: Path) -> None:
        self.places = places(seed)
        self.said: Counter[str] = Counter()
        self.removed: set[str] = set()
        self.deeds = Deeds()
        self.codes: dict[str, int | None] = {}  # of each box that ever was: what its workload ends with by itself
        self.disk_is_bad = False  # then a stop is carried out, and its record waits for the disk
        self._path = path

    def act(self, client: Client, place: Place, act: str, luck: float) -> None:
        try:
            getattr(self, f"_{act}")(client, place, luck)
            self.said[f"{act} yes"] += 1
        except BoxlitedError as error:
            self.said[f"{act} {error.code}"] += 1
            if error.code == "no_daemon":
                time.sleep(0.2)

    # -- what a client does; the place's lock is held

    def _create(self, client: Client, place: Place, _luck: float) -> None:
        if place.box_id is not None:
            return
        try:
            place.box_id = client.create(place.spec)["box_id"]
        except AlreadyExists:  # of a create that was cut off before its answer
            place.box_id = client.get(place.name)["box_id"]
        self.know(place)
        place.is_stopped = False
        place.may_be_gone = place.spec.get("auto_remove", False)

    def _start(self, client: Client, place: Place, _luck: float) -> None:
        place.is_stopped = False
        self._ask(place, client.start)

    def _stop(self, client: Client, place: Place, luck: float) -> None:
        with self.deeds.during("stop", place.box_id):
            self._ask(place, lambda box_id: client.stop(box_id, luck))
        place.is_stopped = not (self.disk_is_bad or place.was_left)

    def _kill(self, client: Client, place: Place, _luck: float) -> None:
        with self.deeds.during("stop", place.box_id):
            self._ask(place, client.kill)
        place.is_stopped = not (self.disk_is_bad or place.was_left)

    def _signal(self, client: Client, place: Place, _luck: float) -> None:
        with self.deeds.during("signal", place.box_id):
            self._ask(place, lambda box_id: client.kill(box_id, signal.SIGUSR2))

    def _remove(self, client: Client, place: Place, _luck: float) -> None:
        if place.box_id is None:
            return
        place.may_be_gone = True
        box_id = place.box_id
        with self.deeds.during("stop", box_id):
            self._ask(place, lambda ref: client.remove(ref, force=True))
        self.removed.add(box_id)
        place.box_id = None

    def _exec(self, client: Client, place: Place, _luck: float) -> None:
        place.is_stopped = False
        self._ask(place, lambda box_id: client.exec(box_id, "/bin/true", timeout_seconds=5))

    def _get(self, client: Client, place: Place, _luck: float) -> None:
        self._ask(place, client.get)

    def _list(self, client: Client, _place: Place, _luck: float) -> None:
        list(client.list())

    def _leave(self, _client: Client, place: Place, luck: float) -> None:
        """Ask, and be gone before the answer."""
        what = "start" if luck < 0.5 else "stop"
        if place.box_id is None:
            return
        place.is_stopped, place.was_left = False, True
        if what == "stop":
            self.deeds.note("stop", place.box_id)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as raw:
            try:
                raw.connect(str(self._path))
                raw.sendall(f"POST /v1/boxes/{place.box_id}/{what} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            except OSError:
                return

    def _ask(self, place: Place, command: Callable[[str], object]) -> None:
        if place.box_id is None:
            return
        try:
            command(place.box_id)
        except NotFound:
            assert place.may_be_gone, f"4: box {place.box_id} of {place.name} is lost"
            place.box_id = None

    # -- what the oracle is told

    def know(self, place: Place) -> None:
        assert place.box_id is not None
        self.codes[place.box_id] = CODE if place.is_short else None

    def acknowledged(self) -> dict[str, str | None]:
        """Boxes that must be there."""
        return {place.box_id: None for place in self.places if place.box_id is not None and not place.may_be_gone}

    def stopped(self) -> list[str]:
        """Boxes that must not run."""
        return [place.box_id for place in self.places if place.box_id is not None and place.is_stopped]

    def settle(self) -> None:
        """Everything that was under way has ended."""
        self.deeds.settle()
        for place in self.places:
            place.was_left = False


class Clients:
    """Threads that act until they are told to stop. `problems`: what they were told and must not have been."""

    def __init__(self, crowd: Crowd, path: Path, seed: str, number: int) -> None:
        self.problems: list[str] = []
        self._crowd = crowd
        self._path = path
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._act, args=(random.Random(f"{seed}/client/{one}"),)) for one in range(number)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _act(self, chance: random.Random) -> None:
        with Client(self._path, retry_seconds=0) as client:
            while not self._over.is_set():
                place, act, luck = chance.choice(self._crowd.places), chance.choice(ACTS), chance.random()
                with place.lock:
                    try:
                        self._crowd.act(client, place, act, luck)
                    except AssertionError as error:
                        self.problems.append(str(error))
                self._over.wait(0.02)
