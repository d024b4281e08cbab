"""The client: it keeps connections to relays and brings their visitors to a service.

`tunnel.client.client.Client` is what a program embeds; `python -m tunnel.client` runs one.
"""
