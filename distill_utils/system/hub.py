"""Fetch checkpoints and datasets from the Hugging Face Hub at a recorded commit, and push checkpoints."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, constants, get_token, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.hf_api import DatasetInfo, ModelInfo
from huggingface_hub.utils import disable_progress_bars, enable_progress_bars, httpx, validate_repo_id

from distill_utils.system.artefacts import KEY_FILE, read_record, write_record
from distill_utils.system.errors import UserError
from distill_utils.system.paths import home

HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9_.-]+")
#: The files of a checkpoint; weights in other formats are not fetched.
CHECKPOINT_FILES = ["*.safetensors", "*.json", "*.txt", "*.model"]
#: The account that opens pull requests with safetensors for checkpoints that have none.
CONVERTER = "SFconvertbot"
#: The branch with the Hub's Parquet copy of a dataset, as configuration/split/0000.parquet; used if the main
#: branch has another format or a loading script.
CONVERTED = "refs/convert/parquet"
TIMEOUT = 10.0  # seconds, for a request of metadata


def is_hub_id(source: str) -> bool:
    """Return whether ``source`` is of the form ``owner/name`` and no local folder is called ``owner``."""
    owner = source.partition("/")[0]
    here = owner in ("models", "runs") or any((base / owner).is_dir() for base in (home(), Path.cwd()))
    return bool(HUB_ID.fullmatch(source)) and not here


def fetch_checkpoint(repo_id: str, revision: str = "", record: Path | None = None, setting: str = "") -> Path:
    """Download a checkpoint (configuration, tokenizer, safetensors) and return its folder.

    Args:
        revision: branch, tag or commit; empty means the main branch.
        record: a file that records the commit, which later calls use again.
        setting: the setting that named the checkpoint, for the error's remedy.

    Raises:
        UserError: if the checkpoint does not exist, is not accessible or has no safetensors, or the Hub cannot be
            reached.
    """

    def choose() -> tuple[str, list[str]]:
        info = HfApi().model_info(repo_id, revision=revision or None, timeout=TIMEOUT)
        if _has(info, ".safetensors"):
            return revision or "main", CHECKPOINT_FILES
        for pull in HfApi().get_repo_discussions(repo_id, author=CONVERTER, discussion_type="pull_request"):
            branch = f"refs/pr/{pull.num}"
            if not revision and _has(HfApi().model_info(repo_id, revision=branch, timeout=TIMEOUT), ".safetensors"):
                return branch, CHECKPOINT_FILES
        raise UserError(
            f"{repo_id} on the Hub has no *.safetensors file{' at ' + revision if revision else ''} and other formats can run code; "
            f"if you trust it, convert it and give DIR in its place: distill convert {repo_id} DIR"
        )

    instead = f"--set {setting}=DIR" if setting else "give DIR in its place"
    return _fetch(_Source("model", repo_id, revision, instead), record, choose, CHECKPOINT_FILES)


def fetch_pickles(repo_id: str, weights: str) -> Path:
    """Download a checkpoint's configuration, tokenizer and weights as pickles of the given pattern; return its folder.

    Raises UserError if it does not exist, is not accessible, or the Hub cannot be reached.
    """
    files = [weights, *(pattern for pattern in CHECKPOINT_FILES if pattern != "*.safetensors")]
    source = _Source("model", repo_id, "", "distill convert DIR NEW")
    return _fetch(source, None, lambda: ("main", files), files)


def fetch_dataset(repo_id: str, configuration: str = "", revision: str = "", record: Path | None = None) -> Path:
    """Download a dataset's Parquet files, from its main branch or the Hub's conversion.

    Args:
        configuration: the only one to fetch, if each has a folder of its own.
        revision, record: as for :func:`fetch_checkpoint`.

    Returns:
        The folder, whose name is the commit.

    Raises:
        UserError: if the dataset or configuration does not exist or is not accessible, or the Hub cannot be reached.
    """

    def choose() -> tuple[str, list[str]]:
        branch = revision or "main"
        info = HfApi().dataset_info(repo_id, revision=branch, timeout=TIMEOUT)
        if not _has(info, ".parquet"):
            if revision:
                own = f"use the Hub's conversion: --set corpus.revision={CONVERTED}"
                raise UserError(f"{repo_id} has no Parquet files at {revision}; {own}")
            branch = CONVERTED
            info = HfApi().dataset_info(repo_id, revision=branch, timeout=TIMEOUT)
        folders = sorted({f.rfilename.partition("/")[0] for f in info.siblings if f.rfilename.endswith(".parquet")})
        if configuration in folders:
            return branch, [f"{configuration}/*"]
        if branch != CONVERTED:
            return branch, ["README.md", "*.parquet"]
        if configuration or len(folders) != 1:
            there = ", ".join(folders) or "none"
            raise UserError(f"setting 'corpus.configuration' is {configuration!r}; {repo_id} has: {there}")
        return branch, [f"{folders[0]}/*"]

    patterns = [f"{configuration}/*"] if configuration else ["README.md", "*.parquet"]
    source = _Source("dataset", repo_id, revision, "--set corpus.path=DIR", configuration)
    return _fetch(source, record, choose, patterns)


def check_push(repo_id: str) -> None:
    """Raise UserError if ``repo_id`` cannot be pushed to, before a long training starts."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UserError(f"{repo_id!r} is not a valid repository name: {' '.join(str(error).split())}") from None
    if not HUB_ID.fullmatch(repo_id):
        raise UserError(f"a repository on the Hub is named owner/name, not {repo_id!r}")
    if constants.HF_HUB_OFFLINE:
        raise UserError(f"HF_HUB_OFFLINE is set: unset it to push to {repo_id}")
    if not get_token():
        raise UserError("to push to the Hub, log in first: hf auth login")


def push(folder: Path, repo_id: str) -> str:
    """Upload a checkpoint's folder to the Hub, to a new private repository if there is none.

    Returns:
        The repository's URL.

    Raises:
        UserError: if the name is invalid, write access is missing or the Hub cannot be reached.
    """
    check_push(repo_id)
    api = HfApi()
    try:
        address = api.create_repo(repo_id, private=True, exist_ok=True)
        options = {"commit_message": f"Add {folder.name}", "ignore_patterns": [KEY_FILE, "*.unfinished/*"]}
        api.upload_folder(repo_id=repo_id, folder_path=folder, **options)
    except (OfflineModeIsEnabled, httpx.HTTPError, ConnectionError, HfHubHTTPError) as error:
        raise UserError(f"{folder} was not pushed to {repo_id}: {_reason(error)}; it is kept: push it again") from None
    return str(address)


def used_commits(record: Path) -> dict[str, str]:
    """Return the recorded commit of each checkpoint and dataset."""
    return {name: source["commit"] for name, source in _known(record).items()}


def _known(record: Path | None) -> dict[str, dict]:
    if record is None or not record.is_file():
        return {}
    return read_record(record, "delete it to use the newest commits, or those of teacher.revision and corpus.revision")


@dataclass(frozen=True)
class _Source:
    kind: str
    repo_id: str
    revision: str
    #: What to set where it cannot be fetched.
    instead: str
    configuration: str = ""


def _fetch(
    source: _Source, record: Path | None, choose: Callable[[], tuple[str, list[str]]], patterns: list[str]
) -> Path:
    """Download the files that ``choose()`` returns with their branch, or find the cached copy."""
    kind, repo_id, revision, configuration = source.kind, source.repo_id, source.revision, source.configuration
    known = _known(record)
    name = f"{kind} {repo_id}@{revision or 'main'}{f' ({configuration})' if configuration else ''}"
    if name in known:
        commit, patterns = known[name]["commit"], known[name]["files"]
        if folder := _in_cache(repo_id, kind, commit, patterns):
            return folder
    with hub_errors(repo_id, kind, source.instead):
        try:
            branch, patterns = (commit, patterns) if name in known else choose()
        except (OfflineModeIsEnabled, httpx.HTTPError):
            for branch in [revision] if revision else _branches_in_cache(repo_id, kind):  # the last known commit
                if folder := _in_cache(repo_id, kind, branch, patterns):
                    return folder
            raise
        enable_progress_bars()
        folder = Path(snapshot_download(repo_id, repo_type=kind, revision=branch, allow_patterns=patterns))
        disable_progress_bars()
    if record is not None:
        write_record(record, {**known, name: {"commit": folder.name, "files": patterns}})
    return folder


def _has(info: ModelInfo | DatasetInfo, suffix: str) -> bool:
    return any(file.rfilename.endswith(suffix) for file in info.siblings)


def _in_cache(repo_id: str, kind: str, revision: str, patterns: list[str]) -> Path | None:
    """Return the complete copy of a revision in the Hub client's cache, or None."""
    options = {"repo_type": kind, "revision": revision, "allow_patterns": patterns, "local_files_only": True}
    try:
        return Path(snapshot_download(repo_id, **options))
    except (LocalEntryNotFoundError, OSError):
        return None


def _branches_in_cache(repo_id: str, kind: str) -> list[str]:
    """Return the cached branches that :func:`_fetch` may have chosen when no revision is given."""
    refs = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo_id, repo_type=kind) / "refs"
    found = [path.relative_to(refs).as_posix() for path in sorted(refs.rglob("*")) if path.is_file()]
    return [b for b in ("main", *found) if b == "main" or b == CONVERTED or b.startswith("refs/pr/")]


@contextmanager
def hub_errors(repo_id: str, kind: str, instead: str) -> Iterator[None]:
    """Raise the Hub client's errors as one-line UserErrors with a remedy."""
    try:
        yield
    except GatedRepoError:
        why = f"{repo_id} on the Hub is gated: accept its terms on its page, then log in with: hf auth login"
    except RepositoryNotFoundError:
        why = (
            f"there is no {kind} {repo_id} on the Hub, or it is private: check the name, or log in with: hf auth login"
        )
    except HFValidationError as error:
        why = f"{repo_id} is neither a folder nor an id on the Hub: {' '.join(str(error).split())}"
    except RevisionNotFoundError:
        why = f"{repo_id} on the Hub has no such revision: check the setting 'revision'"
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, httpx.HTTPError, ConnectionError, HfHubHTTPError) as error:
        why = _unreachable(repo_id, kind, instead, error)
    else:
        return
    raise UserError(why)


def _reason(error: Exception) -> str:
    """Return why the Hub could not be used."""
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    if status := getattr(getattr(error, "response", None), "status_code", None):
        return f"the Hub ({constants.ENDPOINT}) answered {status}"
    return f"the Hub ({constants.ENDPOINT}) cannot be reached or the connection was lost"


def _unreachable(repo_id: str, kind: str, instead: str, error: Exception) -> str:
    reason = _reason(error)
    cache = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo_id, repo_type=kind)
    option, branch = ("", "refs/pr/N where only a pull request has safetensors")
    if kind == "dataset":
        option, branch = (" --repo-type dataset", f"{CONVERTED} where its main branch has no Parquet")
    get = f"hf download {repo_id}{option} --local-dir DIR (--revision {branch}), then {instead}"
    return f"the {kind} {repo_id} is not in {cache} and was not fetched: {reason}; run again, or get a copy where there is a network: {get}"
