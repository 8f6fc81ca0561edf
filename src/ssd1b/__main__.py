"""`python -m ssd1b`: the same as the command `ssd1b`."""

import sys

from ssd1b.cli.main import main

sys.exit(main())
