"""The HTTP API: an ASGI app and the sockets that it is served on.

Owns the wire: routes, schemas, access, streams, listeners. Decides nothing about boxes: every
question goes to the supervisor through `ports.SupervisorPort`.
"""
