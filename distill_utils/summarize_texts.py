"""Summarize texts with a checkpoint or an export, for ``distill summarize``."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from distill_utils.data.documents import check_files, is_jsonl, read_documents
from distill_utils.data.doubts import warn
from distill_utils.data.reading import own_prefix
from distill_utils.models.backends import Backend, load_backend
from distill_utils.models.drafting import load_drafted
from distill_utils.models.generation import DEFAULT_TOKENS, steps
from distill_utils.system.errors import UserError
from distill_utils.system.progress import progress


def summarize_texts(
    source: str, files: Sequence[str], column: str | None = None, draft: str | None = None
) -> Iterator[str]:
    """Yield the summary of every document on one line, in order.

    Args:
        source: as for ``load_backend``.
        files, column: as for ``read_documents``.
        draft: the student that drafts, as for ``load_drafted``.

    Raises UserError if the model or a file cannot be read, or if no document has a text.
    """
    check_files(files, column)
    runtime = load_drafted(source, draft) if draft else load_backend(source)
    prefix = _checked(source, runtime)
    found, empty = [0], []

    def texts() -> Iterator[str]:
        nonlocal prefix
        for place, text in read_documents(files, column):
            found[0] += 1
            if not text.strip():
                empty.append(place)
                print(f"distill: {place} has no text; its summary is an empty line", file=sys.stderr)
            elif prefix and not text.lstrip().startswith(prefix.strip()):
                warn(f"the config of {source} asks for the prefix {prefix!r}; write it before each document")
                prefix = ""
            yield text

    many = len(files) > 8 or column or any(map(is_jsonl, files))
    summaries = runtime.summarize(texts())
    for summary in progress(summaries, desc="summarizing", unit="document") if many else summaries:
        yield " ".join(summary.split())
    if found[0] == len(empty):
        raise UserError("there is nothing to summarize")


def _checked(source: str, runtime: Backend) -> str:
    """Warn if a checkpoint sets no maximum length; returns the prefix that it asks for."""
    model = getattr(runtime, "model", None)
    if model is None:  # an export
        return ""
    if steps(model.generation_config.to_dict(), "max") is None:
        model.generation_config.max_new_tokens = DEFAULT_TOKENS
        warn(
            f"{source} sets no maximum length, so summaries end after {DEFAULT_TOKENS} tokens; set max_new_tokens in its generation_config.json"
        )
    return own_prefix(model.config)
