"""What the BoxLite contract has and this daemon has not: said in the contract's words, not as a lost path.

Owns the list and its messages. An SDK shows them as its `UnsupportedError`.
"""

from __future__ import annotations

import re

from boxlited.api.call import Call
from boxlited.errors import BoxlitedError, Unsupported
from boxlited.model import BoxID, check_name

_OF_DAEMON = {
    "images": 'images are not pulled or kept here: create boxes with image "host" or with rootfs_path',
    "volumes": "managed volumes are not kept here: give a box `volumes` with a host_path",
    "api-keys": "API keys are not issued here: the listener takes the token of its --token-file",
}
_OF_BOX = {
    "snapshots": "snapshots of a box are not supported",
    "clone": "a box cannot be cloned: create another one with the same body",
    "export": "a box cannot be exported: get its files with GET /v1/boxes/{ref}/files",
    "network": "tunnels into a box and changes of its network are not supported: say `network` when you create it",
    "attach": "the command of a box cannot be attached to: read /v1/boxes/{ref}/logs, or attach to an execution",
}
_PATH_OF_DAEMON = re.compile(rf"/v1/({'|'.join(_OF_DAEMON)})(/.*)?", re.DOTALL)
_PATH_OF_BOX = re.compile(rf"/v1/boxes/([^/]+)/({'|'.join(_OF_BOX)})(/.*)?", re.DOTALL)


def absent(call: Call) -> BoxlitedError | None:
    """Why a path of the contract is not served; None for one that the contract has not either.

    Raises NotFound or InvalidArgument when it names a box that is not there.
    """
    path: str = call.scope["path"]
    if match := _PATH_OF_DAEMON.fullmatch(path):
        return Unsupported(_OF_DAEMON[match[1]])
    if match := _PATH_OF_BOX.fullmatch(path):
        ref = match[1]
        call.supervisor.get(ref if BoxID.is_valid(ref) else check_name(ref))
        return Unsupported(_OF_BOX[match[2]])
    return None
