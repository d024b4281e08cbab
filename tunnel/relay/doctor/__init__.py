"""Examining all that a relay depends on, without running one: the verb `doctor`.

What is seen is gathered as values and judged apart from that, by functions without I/O. Nothing
is changed: no certificate is made or ordered, and a port that is tried is given back at once.
"""
