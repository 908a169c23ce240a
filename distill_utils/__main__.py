"""``python -m distill_utils`` is the ``distill`` command, as torchrun needs it."""

import sys

from distill_utils.cli import main

sys.exit(main())
