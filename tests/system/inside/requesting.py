"""Asks the daemon without a pause, each request on a connection of its own; counts what was answered and what was lost.

requesting.py THREADS FILE: until FILE exists. Makes FILE's neighbour `under-way` after the first answers.
"""

import http.client
import json
import os
import socket
import sys
import threading

SOCKET = "/run/boxlited/boxlited.sock"
ANSWER_SECONDS = 60.0


class Connection(http.client.HTTPConnection):
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(ANSWER_SECONDS)
        self.sock.connect(SOCKET)


class Asker(threading.Thread):
    """Every tenth request creates a box; the others look."""

    def __init__(self, number: int, enough: str) -> None:
        super().__init__()
        self.number = number
        self.enough = enough
        self.answered = 0
        self.created = 0
        self.lost: list[str] = []

    def run(self) -> None:
        while not os.path.exists(self.enough):
            creates = self.answered % 10 == 9
            try:
                self.ask(creates)
            except (OSError, http.client.HTTPException) as error:
                self.lost.append(f"{'POST' if creates else 'GET'}: {type(error).__name__}: {error}")

    def ask(self, creates: bool) -> None:
        connection = Connection("localhost")
        try:
            if creates:
                name = f"asked-{self.number}-{self.answered}"
                connection.request("POST", "/v1/boxes", json.dumps({"image": "host", "cmd": ["true"], "name": name}))
            else:
                connection.request("GET", "/v1/boxes?pageSize=1")
            reply = connection.getresponse()
            reply.read()
        finally:
            connection.close()
        if reply.status != (201 if creates else 200):
            self.lost.append(f"status {reply.status}")
        self.answered += 1
        self.created += creates


def main() -> None:
    enough = sys.argv[2]
    askers = [Asker(number, enough) for number in range(int(sys.argv[1]))]
    for asker in askers:
        asker.start()
    while not all(asker.answered for asker in askers):
        pass
    open(os.path.join(os.path.dirname(enough), "under-way"), "w").close()
    for asker in askers:
        asker.join()
    report = {
        "answered": sum(asker.answered for asker in askers),
        "created": sum(asker.created for asker in askers),
        "lost": [text for asker in askers for text in asker.lost],
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
