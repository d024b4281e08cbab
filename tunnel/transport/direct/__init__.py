"""Direct connections: visitors on TCP connections of their own, joined in the kernel.

Sockets here belong to one edge-triggered epoll (`poller`), not to the event loop. Nothing knows
names, sessions or registration.
"""
