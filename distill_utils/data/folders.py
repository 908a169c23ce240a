"""Find the files of each split in a folder of the user's own."""

from __future__ import annotations

import os
import re
from pathlib import Path

import regex
import yaml
from huggingface_hub import metadata_load

from distill_utils.data.doubts import warn
from distill_utils.data.files import KINDS, OPENERS, kind_of
from distill_utils.system.errors import UserError

#: Words in the name of a file or folder that say its split. "eval" does not: some mean validation by it, some test.
SPLIT_NAMES = {
    "train": "train", "training": "train", "validation": "validation", "valid": "validation", "val": "validation",
    "dev": "validation", "test": "test", "testing": "test", "trainset": "train", "valset": "validation",
    "devset": "validation", "testset": "test",
}  # fmt: skip
#: Words of letters in a name, such as "train" in "trainData1", and of capitals before another word, as in "MYTrain".
WORDS = (r"\p{Lu}?\p{Ll}+|\p{Lu}+", r"\p{Lu}+(?!\p{Ll})|\p{Lu}?\p{Ll}+")
#: Parts of longer words, such as "traindata", that may mean a split.
PARTS = ("train", "test", "dev", "val", "held")
#: Files that nobody takes for data.
DOCUMENTATION = re.compile(r"(?i)(readme|licen[cs]e|changelog|citation)\b.*")

Files = dict[str, list[Path]]


def visible_files(folder: Path) -> list[Path]:
    """Return the files below a folder, also behind links, without hidden ones and those in hidden folders.

    Raises UserError if a link leads nowhere.
    """
    found = []
    for place, folders, names in os.walk(folder, followlinks=True, onerror=_raise):
        here = Path(place)
        above = [path.resolve() for path in (here, *here.parents) if path.is_relative_to(folder)]
        inside = {name: (here / name).resolve() for name in folders if not name.startswith(".")}
        # A link to a folder above would lead round in a circle.
        folders[:] = [name for name, to in inside.items() if not any(path.is_relative_to(to) for path in above)]
        found += [here / name for name in names if not name.startswith(".")]
    if broken := sorted(path for path in found if not path.exists()):
        raise UserError(
            f"{broken[0]} is a link to {os.readlink(broken[0])}, which is not there; restore it or remove the link"
        )
    return sorted(path for path in found if path.is_file())


def _raise(error: OSError) -> None:
    raise error


def is_saved_dataset(folder: Path) -> bool:
    """Return whether ``save_to_disk`` wrote the folder."""
    alone = (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()
    return alone or (folder / "dataset_dict.json").is_file()


def files_of_splits(folder: Path, configuration: str = "") -> tuple[Files, list[Path]]:
    """Return the files of each split by the split's word, and the files that are not read.

    The folder's README.md may list the files (``configs``, as on the Hub). Else a file belongs to the split that its
    name or a folder's name has as a word; if no name has one, all files are ``train``.

    Raises:
        UserError: if there is no such configuration or no file to read, if a name has the words of two splits, if the
            files have several formats, or if ``save_to_disk`` wrote a folder inside.
    """
    there = visible_files(folder)
    if saved := next((file.parent for file in there if file.suffix == ".json" and is_saved_dataset(file.parent)), None):
        raise UserError(
            f"{saved} was written by save_to_disk; set corpus.path to it, or save its splits as one DatasetDict"
        )
    if (listed := _listed(folder, configuration)) is not None:
        files = listed
    elif configuration:
        if not (folder / configuration).is_dir():
            raise UserError(f"setting 'corpus.configuration' is {configuration!r}, but {folder} has no such folder")
        return files_of_splits(folder / configuration)
    else:
        data = [file for file in there if kind_of(file)]
        if {kind_of(file) for file in data} - {".json"}:  # then JSON without a split describes the data
            data = [file for file in data if kind_of(file) != ".json" or _word(file.relative_to(folder))]
        words = {file: _word(file.relative_to(folder)) for file in data}
        files = {}
        if len(data) > 1 and not any(words.values()):
            _warn_of_parts(folder, data)
        for file, word in words.items():
            if word or not any(words.values()):
                files.setdefault(word or "train", []).append(file)
    _check(folder, files)
    kept = {name: part for name, part in files.items() if name in SPLIT_NAMES} or files
    read = {file for part in kept.values() for file in part}
    left = [file for file in there if file not in read]
    return kept, [file for file in left if kind_of(file) or not DOCUMENTATION.fullmatch(file.name)]


def _warn_of_parts(folder: Path, files: list[Path]) -> None:
    """Warn if a name has a part that may mean a split, since none has the word."""
    names = [file.relative_to(folder).as_posix() for file in files]
    if meant := [name for name in names if any(part in name.lower() for part in PARTS)]:
        warn(
            f"no file of {folder} has the word train, validation or test in its name, so all are read as one and split by a "
            f"hash; if {meant[0]} is of one split, rename it (such as train.jsonl)"
        )


def _check(folder: Path, files: Files) -> None:
    every = [file for part in files.values() for file in part]
    if not every:
        raise UserError(f"{folder} has no data files: they end in {', '.join(KINDS)}")
    kinds = sorted({kind_of(file) or file.suffix for file in every})
    if len(kinds) > 1:  # the same rows in two formats, probably
        raise UserError(f"{folder} has files that end in {' and '.join(kinds)}; keep one kind")
    if kinds[0] not in KINDS:
        raise UserError(f"{every[0]} has an unknown format: it must end in {', '.join(KINDS)}")
    stems: dict[Path, Path] = {}
    targets: dict[Path, Path] = {}
    for file in every:
        packed = file.suffix.lower() in OPENERS
        stem = (file.with_suffix("") if packed else file).with_suffix("")
        if stem in stems:
            same = (
                "is listed twice"
                if stems[stem] == file
                else f"and {file.name} are one name, packed and unpacked; keep one"
            )
            raise UserError(f"{stems[stem]} {same}")
        stems[stem] = file
        if (other := targets.setdefault(file.parent.resolve() / file.name, file)) != file:
            raise UserError(f"{other} and {file} are one file, since a folder is a link to another; keep one")


def _word(path: Path) -> str:
    """Return the word that names the path's split, from the file's name or the nearest folder's; or an empty text."""
    for part in reversed(path.parts):
        found = {word.lower() for words in WORDS for word in regex.findall(words, part)}
        words = sorted(found & SPLIT_NAMES.keys())
        if len({SPLIT_NAMES[word] for word in words}) > 1:
            raise UserError(f"the name of {path} has the words {' and '.join(words)}, of two splits; rename it")
        if words:
            return words[0]
    return ""


def _listed(folder: Path, configuration: str) -> Files | None:
    """Return the files that README.md lists for a configuration, or None if it lists none."""
    readme = folder / "README.md"
    try:
        header = metadata_load(readme) if readme.is_file() else None
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"the header of {readme} is not YAML: {' '.join(str(error).split())[:200]}") from None
    configurations = (header or {}).get("configs")
    if (
        not configurations
        or not isinstance(configurations, list)
        or not all(isinstance(c, dict) for c in configurations)
    ):
        return None
    named = {str(c.get("config_name", "default")): c for c in configurations}
    default = [name for name, c in named.items() if c.get("default") or name == "default" or len(named) == 1]
    chosen = named.get(configuration or (default[0] if default else ""))
    if chosen is None:
        raise UserError(f"setting 'corpus.configuration' is {configuration!r}; {folder} has: {', '.join(named)}")
    if "data_files" not in chosen:
        inside = folder / str(chosen.get("data_dir") or ".")
        if inside == folder:
            return None
        if not inside.is_dir():
            raise UserError(f"{readme} names the folder {chosen['data_dir']!r}, which is not there")
        return files_of_splits(inside)[0]
    listed = chosen["data_files"]
    listed = listed if isinstance(listed, list) else [listed]
    files: Files = {}
    for entry in listed:
        split, patterns = (entry.get("split"), entry.get("path")) if isinstance(entry, dict) else ("train", entry)
        if not split or not patterns:
            raise UserError(f"an entry of data_files in {readme} has no split or no path; give both")
        for pattern in patterns if isinstance(patterns, list) else [patterns]:
            files.setdefault(str(split), []).extend(_matching(folder, str(pattern)))
    return files


def _matching(folder: Path, pattern: str) -> list[Path]:
    """Return the visible files of the folder that a pattern, or a name, matches."""
    inside = not Path(pattern).is_absolute() and pattern.strip("./")
    there = visible_files(folder) if inside else []
    named = {folder / pattern} & {*there} or ({*folder.glob(pattern)} if inside else set())
    found = [file for file in there if file in named]
    if not found:
        raise UserError(f"{folder / 'README.md'} lists {pattern!r}, which matches no file there")
    return found
