"""Knowledge distillation for abstractive summarization, as a study you can run."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 (so written that an old Python can read it)
    found = "{}.{}".format(*sys.version_info)
    sys.stderr.write(
        "distill: Python " + found + " is too old: make setup PYTHON=python3.11, or another from 3.11 on\n"
    )
    sys.exit(2)
