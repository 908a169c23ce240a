"""Fetch checkpoints and datasets from the Hugging Face Hub, at one recorded commit, and push checkpoints."""

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
#: What a checkpoint is read from; weights in other formats are not even fetched.
CHECKPOINT_FILES = ["*.safetensors", "*.json", "*.txt", "*.model"]
#: The account that adds safetensors to checkpoints that have none, as a pull request.
CONVERTER = "SFconvertbot"
#: Where the Hub keeps a dataset's Parquet copy, as configuration/split/0000.parquet; for datasets whose main
#: branch has another format or a loading script.
CONVERTED = "refs/convert/parquet"
TIMEOUT = 10.0  # seconds until an answer to a small request is given up


def is_hub_id(source: str) -> bool:
    """Whether a text means ``owner/name`` on the Hub: of that form, and ``owner`` is no folder here nor one of the workspace's."""
    owner = source.partition("/")[0]
    here = owner in ("models", "runs") or any((base / owner).is_dir() for base in (home(), Path.cwd()))
    return bool(HUB_ID.fullmatch(source)) and not here


def fetch_checkpoint(repo_id: str, revision: str = "", record: Path | None = None, setting: str = "") -> Path:
    """The folder of a checkpoint from the Hub: settings, tokenizer and safetensors.

    Args:
        revision: branch, tag or commit; empty means the main branch.
        record: a file that remembers which commit was used; the same one is used again.
        setting: which setting named it, for the advice where it cannot be fetched.

    Raises:
        UserError: there is no such checkpoint, no access to it, no safetensors in it, or no network.
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
            f"{repo_id} on the Hub has no *.safetensors file{' at ' + revision if revision else ''} and other formats are not "
            "loaded; convert it where you trust it (load it with transformers, save_pretrained) and give the folder"
        )

    instead = f"--set {setting}=DIR" if setting else "give DIR in its place"
    return _fetch(_Source("model", repo_id, revision, instead), record, choose, CHECKPOINT_FILES)


def fetch_dataset(repo_id: str, configuration: str = "", revision: str = "", record: Path | None = None) -> Path:
    """A folder with the Parquet files of a dataset from the Hub, its main branch's or the Hub's converted ones.

    The folder's name is the commit.

    Args:
        configuration: fetch that one only, where each has a folder of its own.
        revision, record: as for :func:`fetch_checkpoint`.

    Raises:
        UserError: there is no such dataset or configuration, no access to it, or no network.
    """

    def choose() -> tuple[str, list[str]]:
        branch = revision or "main"
        info = HfApi().dataset_info(repo_id, revision=branch, timeout=TIMEOUT)
        if not _has(info, ".parquet"):
            if revision:
                raise UserError(
                    f"{repo_id} has no Parquet files at {revision}; the Hub's own are at --set corpus.revision={CONVERTED}"
                )
            branch = CONVERTED
            info = HfApi().dataset_info(repo_id, revision=branch, timeout=TIMEOUT)
        folders = sorted({f.rfilename.partition("/")[0] for f in info.siblings if f.rfilename.endswith(".parquet")})
        if configuration in folders:
            return branch, [f"{configuration}/*"]
        if branch != CONVERTED:
            return branch, ["README.md", "*.parquet"]
        if configuration or len(folders) != 1:
            raise UserError(
                f"setting 'corpus.configuration' is {configuration!r}; {repo_id} has: {', '.join(folders) or 'none'}"
            )
        return branch, [f"{folders[0]}/*"]

    patterns = [f"{configuration}/*"] if configuration else ["README.md", "*.parquet"]
    source = _Source("dataset", repo_id, revision, "--set corpus.path=DIR", configuration)
    return _fetch(source, record, choose, patterns)


def check_push(repo_id: str) -> None:
    """Refuse what cannot be pushed to, before hours are spent on what is to be pushed."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UserError(f"the Hub takes no repository {repo_id!r}: {' '.join(str(error).split())}") from None
    if not HUB_ID.fullmatch(repo_id):
        raise UserError(f"a repository on the Hub is named owner/name, not {repo_id!r}")
    if constants.HF_HUB_OFFLINE:
        raise UserError(f"HF_HUB_OFFLINE is set, so nothing can be pushed to {repo_id}")
    if not get_token():
        raise UserError("to push to the Hub, log in first: hf auth login")


def push(folder: Path, repo_id: str) -> str:
    """Upload a checkpoint's folder to the Hub; the repository is made, and private, where it is not there yet.

    Returns:
        The repository's address.

    Raises:
        UserError: a name that is none, no right to write there, or no network.
    """
    check_push(repo_id)
    api = HfApi()
    try:
        address = api.create_repo(repo_id, private=True, exist_ok=True)
        api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            commit_message=f"Add {folder.name}",
            ignore_patterns=[KEY_FILE, "*.unfinished/*"],
        )
    except (OfflineModeIsEnabled, httpx.HTTPError, ConnectionError, HfHubHTTPError) as error:
        raise UserError(
            f"{folder} was not pushed to {repo_id}: {_reason(error)}; it is kept, and can be pushed again"
        ) from None
    return str(address)


def used_commits(record: Path) -> dict[str, str]:
    """Which commit of what a study took from the Hub."""
    return {name: source["commit"] for name, source in _known(record).items()}


def _known(record: Path | None) -> dict[str, dict]:
    if record is None or not record.is_file():
        return {}
    return read_record(
        record, "delete it to take what is newest on the Hub, or what teacher.revision and corpus.revision name"
    )


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
    """Copy ``choose()``'s files of its branch here, or find the copy that is here already."""
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
            for branch in [revision] if revision else _branches_in_cache(repo_id, kind):  # as it was when last seen
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
    """The whole copy of a revision in the Hub client's cache, or None."""
    try:
        return Path(
            snapshot_download(
                repo_id, repo_type=kind, revision=revision, allow_patterns=patterns, local_files_only=True
            )
        )
    except (LocalEntryNotFoundError, OSError):
        return None


def _branches_in_cache(repo_id: str, kind: str) -> list[str]:
    """The main branch and what may stand in for it, of which something was fetched before."""
    refs = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo_id, repo_type=kind) / "refs"
    found = [path.relative_to(refs).as_posix() for path in sorted(refs.rglob("*")) if path.is_file()]
    return [b for b in ("main", *found) if b == "main" or b == CONVERTED or b.startswith("refs/pr/")]


@contextmanager
def hub_errors(repo_id: str, kind: str, instead: str) -> Iterator[None]:
    """Say in one line what the Hub's client could not do, and how to go on without it."""
    try:
        yield
    except GatedRepoError:
        raise UserError(
            f"{repo_id} on the Hub asks for its terms to be accepted first: do so on its page, then log in with: hf auth login"
        ) from None
    except RepositoryNotFoundError:
        raise UserError(
            f"there is no {kind} {repo_id} on the Hub, or it is private: check the spelling, or log in with: hf auth login"
        ) from None
    except HFValidationError as error:
        raise UserError(f"{repo_id} is no folder, and no id on the Hub: {' '.join(str(error).split())}") from None
    except RevisionNotFoundError:
        raise UserError(f"{repo_id} on the Hub has no such revision: check the setting 'revision'") from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, httpx.HTTPError, ConnectionError, HfHubHTTPError) as error:
        raise UserError(_unreachable(repo_id, kind, instead, error)) from None


def _reason(error: Exception) -> str:
    """Why the Hub could not be used."""
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    if status := getattr(getattr(error, "response", None), "status_code", None):
        return f"the Hub ({constants.ENDPOINT}) answered {status}"
    return f"the Hub ({constants.ENDPOINT}) cannot be reached or broke off"


def _unreachable(repo_id: str, kind: str, instead: str, error: Exception) -> str:
    reason = _reason(error)
    cache = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo_id, repo_type=kind)
    option, branch = ("", "refs/pr/N where only a pull request has safetensors")
    if kind == "dataset":
        option, branch = (" --repo-type dataset", f"{CONVERTED} where its main branch has no Parquet")
    get = f"hf download {repo_id}{option} --local-dir DIR (--revision {branch}), then {instead}"
    return f"the {kind} {repo_id} is not in {cache} and was not fetched: {reason}; run again, or get a copy where there is a network: {get}"
