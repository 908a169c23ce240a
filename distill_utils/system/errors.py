"""Define the errors that the command line and the notebooks show in one line."""


class UserError(Exception):
    """Invalid input; the message says in one line what is wrong and how to fix it."""

    def _render_traceback_(self) -> list[str]:
        """Return the lines that IPython shows in a notebook."""
        return [f"distill: {self}"]


class MemoryFull(UserError):
    """A GPU has no memory left; of several processes, one may raise it alone."""


class NotebookError(Exception):
    """A cell failed; the message names notebook, cell and error in one line."""


def disk_is_full(message: str) -> bool:
    """Return whether an error message of any library means that no space is left."""
    # torch.save raises "unexpected pos" if the end of the file cannot be written either.
    signs = ("No space left on device", "StorageFull", "PytorchStreamWriter failed writing file", "unexpected pos")
    return any(sign in message for sign in signs)


#: What to lower when a GPU runs out of memory, outside of a training.
LOWER = "lower generation.batch_size, generation.num_beams, speed.batch_size or corpus.max_source_tokens"


def gpu_memory_is_full(message: str) -> bool:
    """Return whether an error message of PyTorch or CTranslate2 means that a GPU has no memory left."""
    return "CUDA" in message and "out of memory" in message
