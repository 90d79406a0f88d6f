"""Clients that create, start and remove boxes until the power goes; each acknowledgement leaves the machine at once.

creating.py ROUND CLIENTS. A line on the port is written after the daemon's reply was read, except "asked to remove",
which is written before the request. One more client follows the events and acknowledges each.
"""

import json
import os
import sys
import threading

from recipe import spec_of

from boxlited.client.client import Client

PORT = "/dev/virtio-ports/boxlited.acknowledged"
SOCKET = "/run/boxlited/boxlited.sock"
STARTERS = 4  # clients that start what they create, a few boxes each
STARTS_EACH = 2


class Port:
    def __init__(self) -> None:
        self._port = os.open(PORT, os.O_WRONLY)
        self._lock = threading.Lock()

    def write(self, what: str, **more: object) -> None:
        line = json.dumps({"what": what, **more}).encode() + b"\n"
        with self._lock:
            os.write(self._port, line)


def create(port: Port, round_number: int, client_number: int) -> None:
    """Every other box is removed again."""
    with Client(SOCKET) as client:
        number = 0
        while True:
            name = f"r{round_number}-c{client_number}-{number}"
            box_id = client.create(spec_of(name))["box_id"]
            port.write("created", box_id=box_id, name=name)
            if client_number < STARTERS and number < STARTS_EACH:
                client.start(box_id)
                port.write("started", box_id=box_id)
            elif number % 2:
                port.write("asked to remove", box_id=box_id)
                client.remove(box_id)
                port.write("removed", box_id=box_id)
            number += 1


def follow(port: Port, since: int) -> None:
    with Client(SOCKET) as client, client.events(since) as events:
        for event in events:
            port.write("event", seq=event["seq"], kind=event["kind"], box_id=event["box_id"])


def main() -> None:
    round_number, clients = int(sys.argv[1]), int(sys.argv[2])
    with Client(SOCKET) as client:
        since = client.last_event_seq()
    port = Port()
    threads = [threading.Thread(target=follow, args=(port, since))]
    threads += [threading.Thread(target=create, args=(port, round_number, number)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
