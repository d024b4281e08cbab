"""Examining all that a client depends on, without running one: the verb `doctor`.

What is seen is gathered as values (`knocking`, `registering`, `challenge`, `targets`), and judged
apart from that, by functions without I/O (`reach`, `trust` and others). Nothing is changed: no key
is made, no name is served, no certificate is ordered.
"""
