"""HTTP/2 over TLS by h2, roles reversed: the relay is the HTTP/2 client and opens every stream.

Only this room imports h2. `engine`, `meter` and `sending` know frames and no socket; `connection`
and `stream` are what everything above sees; `listener` and `dialer` bring a connection up.
"""
