"""What a process needs whatever it runs: loop, signals, logs, control channels, supervision."""
