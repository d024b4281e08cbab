"""A relay in several processes: a head that binds and decides, and workers that meet everybody.

See docs/decisions/0009-several-processes.md.
"""
