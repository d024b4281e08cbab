"""How a running program is asked and told things: the control socket and the metrics address."""

SOCKET = "admin.sock"  # in the runtime or state directory, unless the settings say where
NOTE = "control-socket"  # in the state directory: where it is instead, for the next `reload`
