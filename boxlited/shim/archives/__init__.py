"""Files into and out of a box as tar streams, done by a process that is in the box itself.

The kernel confines it to what the box can touch; nothing here relies on that. Standard library
only. Import this package before entering a box: nothing is imported later. See `unpack` and `pack`.
"""

from boxlited.shim.archives.packing import pack
from boxlited.shim.archives.refusal import ArchiveRefused, Limits
from boxlited.shim.archives.unpacking import unpack

__all__ = ["ArchiveRefused", "Limits", "pack", "unpack"]
