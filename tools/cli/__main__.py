"""`python -m drawstream.tools.cli`: the command line."""

import sys

from drawstream.tools.cli.start import main

sys.exit(main())
