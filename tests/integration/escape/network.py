"""Attempts on the network."""

import json
import socket
import struct
import sys

from tests.integration.escape.calls import attempt, name_of, tried


@attempt
def network():
    hosts = json.loads(sys.argv[1])
    return {
        "interfaces": [name for _index, name in socket.if_nameindex()],
        "abstract": tried(connect, "\0" + hosts["abstract"]),
        "loopback": tried(connect, ("127.0.0.1", hosts["port"])),
        "out": tried(datagram, ("192.0.2.1", 9)),
        "routes": routes(),
        "raw": tried(socket.socket, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
        "packet": tried(socket.socket, socket.AF_PACKET, socket.SOCK_RAW),
        "vsock": tried(vsock),
        "audit": tried(netlink, 9),
        "new interface": add_interface(),
    }


def connect(address):
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as sock:
        sock.settimeout(2)
        sock.connect(address)


def datagram(address):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"x", address)


def vsock():
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as sock:
        sock.settimeout(2)
        sock.connect((2, 1))


def netlink(protocol):
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol) as sock:
        sock.bind((0, 1))
        sock.send(struct.pack("=IHHIIi", 20, 1001, 5, 1, 0, 0))
        answer = sock.recv(4096)
        code = struct.unpack_from("=i", answer, 16)[0]
        if code < 0:
            raise OSError(-code, "refused")


def routes():
    with open("/proc/net/route") as file:
        return len(file.readlines()) - 1


def add_interface():
    """A dummy interface, asked of the kernel over netlink."""
    name = struct.pack("HH8s", 12, 3, b"esc0\0")
    kind = struct.pack("HH8s", 10, 1, b"dummy\0")
    info = struct.pack("HH", 4 + len(kind), 18) + kind
    body = struct.pack("BxHiII", 0, 0, 0, 0, 0) + name + info
    head = struct.pack("=IHHII", 16 + len(body), 16, 0x605, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as sock:
        sock.settimeout(2)
        sock.send(head + body)
        code = struct.unpack_from("=i", sock.recv(4096), 16)[0]
    return name_of(-code) if code < 0 else "done"
