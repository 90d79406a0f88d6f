"""boxlited: a host supervisor for boxes (sandboxed processes and micro-VMs)."""

__version__ = "0.1.0"
