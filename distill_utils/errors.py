"""Errors that are the user's to mend. The command line shows their one line and exits with 2."""


class UserError(Exception):
    """What the user gave is wrong; the message says what, and how to mend it, in one line."""


def disk_is_full(message: str) -> bool:
    """Whether an error's text says that there is no space left, whichever library raised it."""
    signs = ("No space left on device", "StorageFull", "PytorchStreamWriter failed writing file")
    return any(sign in message for sign in signs)
