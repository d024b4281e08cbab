"""The tunnel protocol without any I/O: bytes and messages in, values out (docs/protocol.md).

Nothing in this folder may import asyncio, ssl, socket, cryptography, logging, a clock or a source
of randomness: time, nonces, signing and verification come in as arguments.
"""
