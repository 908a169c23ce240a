"""Load and validate a study from a TOML file and overrides."""

from __future__ import annotations

import ast
import difflib
import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from distill_utils.studies.settings import SHAPE_FORM, Study, parse_shape
from distill_utils.system.errors import UserError
from distill_utils.system.paths import located

STUDIES = Path(__file__).parent
NAME = re.compile(r"[a-z0-9][a-z0-9_]{0,99}")


def study_names() -> list[str]:
    return sorted(path.stem for path in STUDIES.glob("*.toml"))


def study_titles() -> dict[str, str]:
    """Return each shipped study's title, or the error in its file."""
    titles = {}
    for name in study_names():
        try:
            titles[name] = str(_read(name).get("title", "without a title"))
        except UserError as error:  # the other studies are still listed
            titles[name] = str(error)
    return titles


def load_study(name: str | Path, overrides: Mapping[str, object] | str | None = None) -> Study:
    """Load a shipped study by its name, or another by the path of its ``.toml`` file.

    Settings that the file omits come from the study named by its ``like`` (a path is relative to the
    file), or else from the defaults. The override ``name`` gives a run its own folders under ``runs/``
    and ``figures/``.

    Args:
        overrides: such as ``{"distillation.temperature": 4}``, ``{"distillation": {"temperature": 4}}``, or the
            same as a text, which papermill's command line gives.

    Raises UserError if the study or a key is unknown, or a value has the wrong type or is out of bounds.
    """
    name = str(name)
    if name.endswith(".toml"):
        name = os.path.abspath(name)  # notebook kernels run in another folder
    elif name not in study_names():
        own = "give your own by its path, which ends in .toml"
        raise UserError(f"there is no study {name!r}; the studies are: {', '.join(study_names())}; {own}")
    data = _read(name)
    overrides = _mapping(list(_dotted(_parsed(overrides))))
    if "distillation.learning_rate" in overrides:  # else the methods' own ones would undo it
        data.setdefault("distillation", {}).pop("learning_rates", None)
    for dotted, value in overrides.items():
        *sections, key = dotted.split(".")
        target = data
        for section in sections:
            target = target.setdefault(section, {})
            if not isinstance(target, dict):
                raise UserError(f"unknown setting {dotted!r}: {section!r} is a value, not a section")
        target[key] = value
    stem = Path(name).stem
    if "corpus.path" in overrides and "title" not in overrides:
        data["title"] = f"{Path(str(overrides['corpus.path'])).name}, with the settings of {stem}"
    for key, why in {"file": "a study is named by its file", "variant": "variants are made by [evidence]"}.items():
        if key in data:
            raise UserError(f"unknown setting {key!r}: {why}")
    try:
        study = Study.model_validate({"name": stem, "file": name, **data})
    except ValidationError as errors:
        raise UserError(_sentence(errors)) from None
    if not NAME.fullmatch(study.name) or (study.name != name and study.name in study_names()):
        raise UserError(
            "setting 'name' should be at most 100 lower-case letters, digits and _, and not another study's name, "
            f"not {study.name!r}" + ("" if "name" in data else "; rename the file or give a name: --set name=…")
        )
    student = study.distillation.student
    if not student or ("/" not in student and not located(student).is_dir()):
        parse_shape(student)
    return study


#: Replacements for pydantic's messages that do not fit a TOML file.
WORDS = {
    "model_type": "should be a section of settings",
    "dict_type": "should be a section of settings",
    "tuple_type": "should be a list",
    "too_short": "should name at least one",
    "string_pattern_mismatch": SHAPE_FORM.replace("is written", "should be written"),
}


def _sentence(errors: ValidationError) -> str:
    """Return one error in one line, an unknown setting first: if it is misspelt, another one is missing."""
    error = min(errors.errors(), key=lambda error: error["type"] != "extra_forbidden")
    *above, key = [part for part in error["loc"] if part != "[key]"]  # pydantic's word for a mapping's name
    name = re.sub(r"\.(\d+)\b", r"[\1]", ".".join(map(str, [*above, key])))
    if error["type"] == "missing":
        return f"setting {name!r} is missing"
    if error["type"] != "extra_forbidden":
        rule = WORDS.get(error["type"]) or re.sub("^(Input|Value error,) ", "", error["msg"])
        return f"setting {name!r} {rule}, not {error['input']!r}"
    section = Study
    for part in above:
        section = section.model_fields[part].annotation
    close = difflib.get_close_matches(key, section.model_fields, n=1)
    hint = f"did you mean {'.'.join([*above, *close])!r}?" if close else f"there are: {', '.join(section.model_fields)}"
    return f"unknown setting {name!r}; {hint}"


def _read(name: str, above: tuple[str, ...] = ()) -> dict:
    """Return a file's settings, merged over those of its ``like``; ``above`` are the files that led here."""
    file = STUDIES / (name if name.endswith(".toml") else f"{name}.toml")  # an absolute path stays as it is
    try:
        data = tomllib.loads(file.read_text("utf-8-sig"))
    except UnicodeDecodeError:
        raise UserError(f"{file} is not UTF-8 text; save it as UTF-8") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UserError(f"{file} is not valid TOML: {error}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise UserError(f"{file} cannot be read: {getattr(error, 'strerror', error)}") from None
    if "like" not in data:
        return data
    like = data.pop("like")
    if isinstance(like, str) and like.endswith(".toml"):
        like = os.path.abspath(file.parent / like)
    elif like not in study_names():
        raise UserError(f"{file} is like {like!r}, which does not exist; the studies are: {', '.join(study_names())}")
    if like in (name, *above):
        raise UserError(f"{file} is like {like!r}, which leads back to itself; remove 'like' from one of them")
    return _merged(_read(like, (name, *above)), data)


def _merged(base: Mapping, own: Mapping) -> dict:
    """Merge ``own`` over ``base``, section by section."""
    both = {k: _merged(base[k], v) for k, v in own.items() if isinstance(v, dict) and isinstance(base.get(k), dict)}
    merged = {**base, **own, **{k: v if own[k] else {} for k, v in both.items()}}
    if "learning_rate" in own and "learning_rates" not in own:  # else the methods' own ones would undo it
        merged.pop("learning_rates", None)
    return merged


def _parsed(overrides: object) -> Mapping:
    """Return overrides as a mapping; a text is one in JSON or as Python writes it."""
    given = overrides
    if isinstance(overrides, str):
        for parse in (partial(json.loads, object_pairs_hook=_mapping), _python):
            try:
                given = parse(overrides.strip() or "{}")
                break
            except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
                continue
    given = {} if given is None else given
    if not isinstance(given, Mapping):
        raise UserError(f'OVERRIDES should be a mapping, such as {{"distillation.temperature": 4}}, not {overrides!r}')
    return given


def _mapping(pairs: Sequence[tuple[object, object]]) -> dict:
    """Return a mapping; raises UserError if a key comes twice."""
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise UserError(f"OVERRIDES has {twice!r} more than once; keep one")
    return mapping


def _python(text: str) -> object:
    """Return a value that is written as in Python; raises UserError as :func:`_mapping`."""
    for node in ast.walk(ast.parse(text, mode="eval")):
        if isinstance(node, ast.Dict):
            _mapping([(key.value, None) for key in node.keys if isinstance(key, ast.Constant)])
    return ast.literal_eval(text)


def _dotted(overrides: Mapping, section: str = "") -> Iterator[tuple[str, object]]:
    for key, value in overrides.items():
        if isinstance(value, Mapping) and value:
            yield from _dotted(value, f"{section}{key}.")
        else:
            yield f"{section}{key}", value


def parse_override(text: str) -> tuple[str, object]:
    """Parse ``key=value`` from the command line; the value is TOML, or else a plain string."""
    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        raise UserError(f"--set takes key=value, such as distillation.temperature=4, not {text!r}")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except (ValueError, RecursionError):  # not TOML, or a number of thousands of digits
        return key.strip(), value
