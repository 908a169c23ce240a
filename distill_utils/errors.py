"""Errors that are the user's to mend. The command line shows their one line and exits with 2."""


class UserError(Exception):
    """What the user gave is wrong; the message says what, and how to mend it, in one line."""
