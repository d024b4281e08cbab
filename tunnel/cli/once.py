"""An argument that may be given once: a second value never replaces the first in silence."""

import argparse


class Once(argparse.Action):
    """What stores a value by default, but refuses a second one instead of forgetting the first."""

    def __call__(
        self,
        _parser: argparse.ArgumentParser,
        space: argparse.Namespace,
        values: object,
        _flag: str | None = None,
    ) -> None:
        if getattr(space, self.dest) is not self.default:
            raise argparse.ArgumentError(self, "may be given only once")
        setattr(space, self.dest, values)
