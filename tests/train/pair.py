"""Two processes of one run, as a user starts them."""

import os
import subprocess
import sys

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def torchrun(*arguments, check=True, **variables):
    """What became of two processes that run ``arguments``, with more variables of the environment."""
    done = subprocess.run([*TORCHRUN, *map(str, arguments)], env=ENVIRONMENT | variables, capture_output=True,
                          text=True, timeout=240)  # fmt: skip
    assert not check or done.returncode == 0, done.stderr[-3000:]
    return done
