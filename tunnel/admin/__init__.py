"""How a running program is asked and told things: the control socket and the metrics address."""
