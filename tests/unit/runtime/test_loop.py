"""What a daemon's process is told before its loop runs."""

import subprocess
import sys

FAULTS = """
import resource
from tunnel.runtime import loop

async def main():
    for number in range(12):
        if number == 2:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        chunks = [bytes(bytearray(240 * 1024)) for _ in range(8)]
        del chunks
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

loop.run(main())
"""


def test_memory_that_bulk_frees_is_used_again_without_asking_the_kernel() -> None:
    ran = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, check=True)
    assert int(ran.stdout) < 100  # pages: each chunk has 60
