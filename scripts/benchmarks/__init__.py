"""What `scripts/bench` measures: contenders, a target behind them, visitors before them."""
