"""Define the errors that the command line and notebooks show in one line."""


class UserError(Exception):
    """What the user gave is wrong; the message says what, and how to mend it, in one line."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows of it; IPython asks for this."""
        return [f"distill: {self}"]


class NotebookError(Exception):
    """A cell failed; the message names notebook, cell and error in one line."""


def disk_is_full(message: str) -> bool:
    """Whether an error's text says that there is no space left, whichever library raised it."""
    # torch.save says "unexpected pos" where the end of a file that could not be written cannot be written either.
    signs = ("No space left on device", "StorageFull", "PytorchStreamWriter failed writing file", "unexpected pos")
    return any(sign in message for sign in signs)
