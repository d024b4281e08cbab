"""Settings: TOML files or flags in, frozen values or every fault at once out.

Nothing here opens a socket, reads a secret's content or logs.
"""
