"""Run the ``distill`` command.

Exit codes: 0 success, 1 failure, 2 invalid input or environment (with a one-line message).
"""

from __future__ import annotations

import argparse
import errno
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from distill_utils.data.documents import COLUMN
from distill_utils.studies.loading import load_study, parse_override, study_titles
from distill_utils.studies.settings import METHODS, SEEDS, Study, is_shape
from distill_utils.system.errors import LOWER, MemoryFull, NotebookError, UserError, disk_is_full, gpu_memory_is_full
from distill_utils.system.paths import home, notebook_paths
from distill_utils.system.safe_text import visible
from distill_utils.system.versions import check_versions


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        self.exit(2, _line(f"{message}; see {self.prog} --help") + "\n")


def _line(message: object) -> str:
    """Format an error message as one line of printable characters."""
    line = " ".join(str(message).split())
    line = line if len(line) < 1200 else f"{line[:500]} … {line[-500:]}"  # the end says how to fix it
    return f"distill: {visible(line, len(line))}"


#: How to fix errors of files and folders, by error number.
PLACES = {
    errno.ENAMETOOLONG: "give a shorter name",
    errno.EEXIST: "move the existing file away",
    errno.ENOTDIR: "a file is in the place of a folder; move it away",
    errno.EISDIR: "a folder is in the place of a file; move it away",
    errno.EACCES: "make it readable and writable",
    errno.EPERM: "make it readable and writable",
    errno.EROFS: "use a writable file system",
}


def _fixable(error: Exception) -> str:
    """Return a message for an error of memory, disk or files that the user can fix, or an empty string."""
    if disk_is_full(str(error)):
        return "the disk is full; free some space and run again"
    if gpu_memory_is_full(str(error)):
        return f"the GPU ran out of memory; {LOWER}"
    if isinstance(error, OSError) and error.errno in PLACES and error.filename:
        return f"{error.filename}: {error.strerror}; {PLACES[error.errno]}"
    return ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code."""
    options = _parser().parse_args(arguments)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads conflict with forked workers
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    main_process = os.environ.get("RANK", "0") == "0"
    try:
        check_versions()
        options.command(options)
    except UserError as error:
        if main_process or isinstance(error, MemoryFull):  # all processes raise the others; one prints them
            print(_line(error), file=sys.stderr)
        return 2
    except NotebookError as error:
        print(_line(error), file=sys.stderr)
        return 1
    except BrokenPipeError:  # for example, head has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("distill: interrupted; run the same command again to continue", file=sys.stderr)
        return 130
    except Exception as error:
        if message := _fixable(error):  # in every process: it may have a disk of its own
            print(_line(message), file=sys.stderr)
            return 2
        if os.environ.get("DISTILL_TRACEBACK"):
            raise
        if not main_process and "onnection" in str(error):  # the main process ended and printed the reason
            return 1
        print(_line(f"{type(error).__name__}: {error} (set DISTILL_TRACEBACK=1 for a traceback)"), file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="distill", description="Run studies of knowledge distillation for summarization.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, function, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(command=function)
        return command

    def add_study(command: argparse.ArgumentParser) -> None:
        command.add_argument(
            "study",
            metavar="STUDY",
            help="; ".join(
                [f"{name} ({title})" for name, title in study_titles().items()]
                + ["or the path of a study file, FILE.toml"]
            ).replace("%", "%%"),
        )
        command.add_argument(
            "--set", dest="overrides", metavar="KEY=VALUE", action="append", default=[],
            help="override a setting, such as distillation.temperature=4; distill_utils/studies/settings.py documents all settings",
        )  # fmt: skip

    run = add("run", _run, "Run the study's four notebooks; continues an interrupted run.")
    add_study(run)
    run.add_argument("--fresh", action="store_true", help="delete the outputs of earlier runs of the study first")
    run.add_argument(
        "--keep-cache", action="store_true", help="keep the teacher cache for other trainings of the study"
    )
    report = add("report", _report, "Regenerate the report of a study's last run, runs/<study>/report.html.")
    add_study(report)
    teacher = add("teacher", _teacher, "Train the study's teacher; resumes from its last checkpoint.")
    add_study(teacher)
    train = add("train", _train, "Train one student of the study.")
    add_study(train)
    train.add_argument(
        "--student",
        metavar="E-D",
        help="encoder and decoder layers, such as 12-6, and with a third number the units to keep of every feed-forward "
        "layer, such as 12-6-2048; or the folder or id of a pretrained student checkpoint",
    )
    train.add_argument(
        "--method", required=True, metavar="METHOD", help="; ".join(f"{name}: {m.what}" for name, m in METHODS.items())
    )
    train.add_argument("--seed", type=_seed, metavar="N", help="random seed of data order and weights")
    train.add_argument(
        "--push-to-hub", metavar="OWNER/NAME",
        help="upload the student and its model card to this repository; a missing repository is created as private",
    )  # fmt: skip
    evaluate = add("evaluate", _evaluate, "Summarize the study's test split with a model and print ROUGE.")
    evaluate.add_argument("model", metavar="MODEL", help="folder of a checkpoint, or its id on the Hub")
    add_study(evaluate)
    summarize = add("summarize", _summarize, "Print a summary of every document, one per line, in order.")
    summarize.add_argument(
        "model", metavar="MODEL", help="folder of a checkpoint or of an export, or a checkpoint's id on the Hub"
    )
    summarize.add_argument(
        "files", metavar="FILE", nargs="*",
        help="a text file (one document) or a .jsonl file (one document per line); default: standard input",
    )  # fmt: skip
    summarize.add_argument(
        "--column", default=None, metavar="NAME",
        help=f"field with the text in JSONL (default: {COLUMN}); if given, standard input is read as JSONL, too",
    )  # fmt: skip
    summarize.add_argument(
        "--draft", metavar="STUDENT",
        help="write MODEL's greedy summaries, word for word, from this student's drafts (see docs/serving.md)",
    )  # fmt: skip
    compared = add(
        "compare", _compare, "Compare files of summaries, whatever wrote them: ROUGE, differences, verdicts."
    )
    compared.add_argument(
        "references",
        metavar="REFERENCES",
        type=Path,
        help="a text file, one summary a line; or .jsonl, one string or object a line",
    )
    compared.add_argument(
        "files", metavar="SYSTEM", type=Path, nargs="+",
        help="files as REFERENCES, line by line of the same documents; the share of ROUGE-L kept is that of the first",
    )  # fmt: skip
    compared.add_argument(
        "--documents", metavar="FILE", type=Path, help="the documents, to count new bigrams (in .jsonl: document)"
    )
    compared.add_argument(
        "--field", default="summary", metavar="NAME", help="key of the summary in .jsonl (default: summary)"
    )
    compared.add_argument("--no-stemming", action="store_true", help="do not stem English words")
    compared.add_argument("--json", metavar="FILE", type=Path, help="also write all numbers to this file")
    compared.add_argument(
        "--figure", metavar="FILE", type=Path, help="also draw ROUGE with intervals, as FILE.png and FILE.pdf"
    )
    exported = add("export", _export, "Convert a checkpoint for serving with CTranslate2.")
    exported.add_argument("model", metavar="MODEL", help="folder of a checkpoint, or its id on the Hub")
    exported.add_argument(
        "folder", metavar="DIR", type=Path, help="folder to create; distill summarize accepts it as MODEL"
    )
    exported.add_argument(
        "--quantization", default="float32", metavar="PRECISION",
        help="float32 (lossless), float16 (for GPUs) or int8 (smallest)",
    )  # fmt: skip
    exported.add_argument(
        "--shortlist", type=int, default=0, metavar="N",
        help="write only the document's tokens and the N most frequent of the training summaries of --study: faster",
    )  # fmt: skip
    exported.add_argument("--study", default="", metavar="STUDY", help="for --shortlist: a study's name or .toml file")
    converted = add("convert", _convert, "Convert a checkpoint with PyTorch's pickled weights (*.bin) to safetensors.")
    converted.add_argument("model", metavar="MODEL", help="folder of a checkpoint, or its id on the Hub")
    converted.add_argument(
        "folder", metavar="DIR", type=Path, help="new folder; give it wherever a checkpoint is asked for"
    )
    notebooks = add("notebooks", _notebooks, "Copy the four notebooks to a folder.")
    notebooks.add_argument(
        "folder", metavar="DIR", type=Path, help="created if missing; existing notebooks are not overwritten"
    )
    speed = add(
        "speed", _speed, "Time shapes of BART-large with random weights, and compare with the published speed-ups."
    )
    speed.add_argument(
        "--shapes",
        default="12-12,12-6,9-6,12-3,6-6,12-1",
        metavar="E-D,…",
        help="encoder and decoder layers, with a third number also feed-forward units",
    )
    speed.add_argument("--tokenizer", required=True, metavar="DIR", help="folder with BART's vocab.json and merges.txt")
    speed.add_argument(
        "--corpus", required=True, metavar="PATH", help="articles: a file, a folder, or an id on the Hub"
    )
    speed.add_argument(
        "--runtimes",
        default="pytorch-fp32",
        metavar="NAME,…",
        help="inference backends, such as pytorch-bf16,ctranslate2-int8",
    )
    for name, default, what in (
        ("documents", 8, "articles to time at batch size 1"), ("batch-size", 8, "articles per batch"),
        ("repeats", 5, "rounds"),
    ):  # fmt: skip
        speed.add_argument(f"--{name}", type=_count, default=default, metavar="N", help=what)
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be an integer of at least 1, not {text!r}")
    return int(text)


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= SEEDS:
        raise argparse.ArgumentTypeError(f"must be an integer from 0 to {SEEDS - 1}, not {text!r}")
    return int(text)


#: Settings that may name a file or folder: what is given on the command line is looked for in the working folder.
PATHS = ("corpus.path", "teacher.path", "teacher.tokenizer", "teacher.base", "distillation.student")


def _study(options: argparse.Namespace) -> tuple[Study, dict[str, object]]:
    overrides = dict(parse_override(text) for text in options.overrides)
    for key in PATHS:
        value = overrides.get(key)
        if isinstance(value, str) and value and not is_shape(value) and Path(value).exists():
            overrides[key] = str(Path(value).resolve())
    study = load_study(options.study, overrides)
    if study.folder.exists() and not study.folder.is_dir():
        raise UserError(f"{study.folder} is a file in the place of the run's folder; move it away")
    return study, overrides


def _run(options: argparse.Namespace) -> None:
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UserError(
            "distill run uses one process; first train the students with torchrun … -m distill_utils train, then run it without torchrun"
        )
    study, overrides = _study(options)
    from distill_utils.evaluation.results import load_results, warnings
    from distill_utils.models.backends import lacking_hardware
    from distill_utils.models.prepared import Prepared
    from distill_utils.models.student import check_student
    from distill_utils.report.page import write_page
    from distill_utils.report.sentences import goal_sentence, speed_sentence
    from distill_utils.report.tables import results_table
    from distill_utils.run_study import run_study, say_memory
    from distill_utils.system.environment import free_accelerator
    from distill_utils.system.locks import locked

    for runtime in (*study.speed.runtimes, study.evidence.runtime):
        lacking_hardware(runtime)  # fail early: only the last notebook needs CTranslate2
    with locked(study.folder, f"distill run {study.name}"):
        prepared = Prepared(study)
        check_student(prepared)
        free_accelerator()  # for the notebooks' processes
        say_memory(prepared)
        run_study(study, overrides, fresh=options.fresh, keep_cache=options.keep_cache)
    results = load_results(study)
    for warning in warnings(results):
        print(f"WARNING: {warning}", file=sys.stderr)
    print(f"\n{results_table(results)}\n\n{goal_sentence(results)} {speed_sentence(results)}\n")
    print(f"figures:     {study.figures_folder}")
    print(f"checkpoints: {study.folder / 'students'}")
    print(f"notebooks:   {study.notebooks_folder}")
    print(f"report:      {write_page(study)}")


def _report(options: argparse.Namespace) -> None:
    study, _ = _study(options)
    from distill_utils.report.page import write_page

    print(f"report: {write_page(study)}")


def _teacher(options: argparse.Namespace) -> None:
    study, _ = _study(options)
    from distill_utils.make_teacher import make_teacher

    print(f"teacher: {make_teacher(study)}")


def _train(options: argparse.Namespace) -> None:
    study, _ = _study(options)
    from distill_utils.models.prepared import Prepared
    from distill_utils.report.model_cards import write_card
    from distill_utils.run_study import say_memory, warn_of_teacher
    from distill_utils.studies.plan import single_run
    from distill_utils.system.distributed import is_main
    from distill_utils.system.hub import check_push, push
    from distill_utils.training.train_student import train_student

    run = single_run(study, options.student or study.distillation.student, options.method, options.seed)
    if options.push_to_hub:
        check_push(options.push_to_hub)
    prepared = Prepared(study)
    warn_of_teacher(prepared)
    say_memory(prepared, [run])
    folder = train_student(prepared, run)
    if is_main():
        write_card(prepared, run, options.push_to_hub or ".")
        print(f"student: {folder}")
        if options.push_to_hub:
            print(f"pushed:  {push(folder, options.push_to_hub)}")


def _evaluate(options: argparse.Namespace) -> None:
    study, _ = _study(options)
    from distill_utils.data.corpus import rouge_words
    from distill_utils.data.doubts import warn
    from distill_utils.data.reading import reading_warning, unrecorded_warning
    from distill_utils.evaluation.evaluate import evaluate_model
    from distill_utils.metrics.significance import mean_interval
    from distill_utils.metrics.words import ENGLISH
    from distill_utils.models.checkpoint import check_lengths, checkpoint_folder, checkpoint_hash, load_model
    from distill_utils.models.generation import set_length
    from distill_utils.models.prepared import Prepared
    from distill_utils.system.distributed import is_main, main_process_first

    prepared = Prepared(study)
    with main_process_first():
        folder = checkpoint_folder(options.model, record=study.hub_record)
        model, tokenizer = load_model(folder)
        check_lengths(study, model)
        set_length(study, model)
        _ = prepared.corpus
    for warning in (reading_warning, unrecorded_warning) if is_main() else ():
        warn(warning(model.config, study.corpus))
    checkpoint = checkpoint_hash(folder)
    evaluation = evaluate_model(prepared, f"model-{checkpoint}", model, tokenizer, checkpoint)
    if is_main() and (words := rouge_words(study)) != ENGLISH:
        print(f"of {words} words, without stems")
    for kind, scores in evaluation.scores.items() if is_main() else ():
        low, high = mean_interval(scores)
        print(f"{kind:<10} {scores.mean():6.2f}  (95 % interval {low:.2f} to {high:.2f}, {len(scores)} pairs)")


def _summarize(options: argparse.Namespace) -> None:
    from distill_utils.summarize_texts import summarize_texts

    for summary in summarize_texts(options.model, options.files, options.column, options.draft):
        print(summary, flush=True)


def _compare(options: argparse.Namespace) -> None:
    from distill_utils.evaluation.compare_files import compare_files
    from distill_utils.metrics.rouge import TYPES
    from distill_utils.plots import save_in, system_bars
    from distill_utils.report.tables import compared_tables
    from distill_utils.system.artefacts import write_json

    found = compare_files(
        options.references, options.files, documents=options.documents, field=options.field, stemming=not options.no_stemming
    )  # fmt: skip
    print(f"{found['pairs']:,} summaries; ROUGE F1 of {found['words']} words, in points\n")
    print("\n\n".join(compared_tables(found)))
    for s in found["systems"]:
        if s["empty"]:
            print(f"distill: {s['name']} has {s['empty']:,} empty summaries; they score 0", file=sys.stderr)
    if options.json:
        write_json(options.json, found)
    if options.figure:
        means = {s["name"]: s for s in found["systems"]}
        intervals = {s["name"]: {kind: s[f"{kind}_ci"] for kind in TYPES} for s in found["systems"]}
        name = options.figure.stem if options.figure.suffix in (".png", ".pdf") else options.figure.name
        save_in(options.figure.parent, name, system_bars(means, intervals))


def _export(options: argparse.Namespace) -> None:
    from distill_utils.data.corpus import load_corpus
    from distill_utils.models.export import export

    if options.shortlist < 0 or bool(options.shortlist) != bool(options.study):
        raise UserError(
            "--shortlist N and --study STUDY need each other, N above 0: its training summaries are counted"
        )
    summaries = load_corpus(load_study(options.study))["train"]["summary"] if options.study else ()
    shortened = {"summaries": summaries, "shortlist": options.shortlist}
    print(f"export: {export(options.model, options.folder, options.quantization, **shortened)}")


def _convert(options: argparse.Namespace) -> None:
    from distill_utils.models.convert import convert

    print(f"checkpoint: {convert(options.model, options.folder)}")


def _notebooks(options: argparse.Namespace) -> None:
    folder, workspace = options.folder.resolve(), home()
    if there := [path.name for path in notebook_paths() if (folder / path.name).exists()]:
        raise UserError(f"{folder} already has {there[0]}; move it away, or give another folder")
    folder.mkdir(parents=True, exist_ok=True)
    for path in notebook_paths():
        shutil.copy(path, folder)
    command = f"DISTILL_HOME={shlex.quote(str(workspace))} jupyter lab {shlex.quote(str(folder))}"
    print(f"notebooks: {folder}; open them: {command}; results: {workspace / 'runs'} and {workspace / 'figures'}")


def _speed(options: argparse.Namespace) -> None:
    given = {"teacher.tokenizer": options.tokenizer, "corpus.path": options.corpus}
    given = {key: str(Path(path).resolve()) if Path(path).exists() else path for key, path in given.items()}
    count = max(options.documents, options.batch_size)
    study = load_study("full_size", {**given, "corpus.max_test": count, "name": "shape_speeds"})
    from distill_utils.evaluation.shape_speeds import FILE, measure_shapes
    from distill_utils.models.prepared import Prepared
    from distill_utils.report.shape_speeds import explanation, table

    results = measure_shapes(
        Prepared(study), options.shapes.split(","), options.runtimes.split(","), documents=options.documents,
        batch_size=options.batch_size, repeats=options.repeats,
    )  # fmt: skip
    print("\n".join([table(results), "", *explanation(results), "", f"results: {study.folder / FILE}"]))


if __name__ == "__main__":
    sys.exit(main())
