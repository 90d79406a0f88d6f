"""What a box of a given name is asked to be: known to the client that creates it and to the judge afterwards."""

import hashlib
from typing import Any


def spec_of(name: str) -> dict[str, Any]:
    mark = hashlib.sha256(name.encode()).hexdigest()
    return {
        "name": name,
        "image": "host",
        "cmd": ["/bin/sleep", str(int(mark[:6], 16))],
        "labels": {"mark": mark, "padding": mark * 8},
        "env": {"NAME": name},
    }
