"""QUIC version 1 by aioquic: one connection per client, the relay opens every stream.

Only this room imports aioquic. `engine` and what it is built from (`halves`, `writing`, `sizing`,
`configuration`) know the protocol and no socket; `endpoint` knows sockets and no protocol;
`connection` and `stream` join the two. `fast` is the engine with its hot path written anew.
"""
