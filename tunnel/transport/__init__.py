"""Streams over QUIC, HTTP/2, TCP and memory, behind one contract (tunnel.stream).

`doors` is how the rooms above dial and listen by a transport's name. Nothing here knows a message
of the protocol, a client or a visitor.
"""
