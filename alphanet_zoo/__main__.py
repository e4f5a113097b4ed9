"""``python -m alphanet_zoo`` is the command ``alphanet``."""

import sys

from alphanet_zoo.cli.main import main

sys.exit(main())
