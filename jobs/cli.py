"""What every job's command line does alike: flags, exit status, the runner, progress, the summary."""

import argparse
import atexit
import contextlib
import difflib
import json
import logging
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, NoReturn

import apache_beam as beam
import grpc
from apache_beam.options.pipeline_options import (
    DirectOptions,
    GoogleCloudOptions,
    PipelineOptions,
    StandardOptions,
    TestOptions,
)
from apache_beam.runners import create_runner
from tqdm import tqdm

from jobs.dataflow import on_dataflow, refusal
from schemas import storage
from schemas.errors import InputError, RunFailed
from transforms.progress import PROGRESS, Progress
from transforms.trace import TRACE

REFRESH_SECONDS = 0.5
LOG_SECONDS = 30.0
"""Without a terminal, progress is a line this often."""

INVALID_OPTIONS = "Pipeline has validations errors:"
"""As Beam begins what it has against flags of its own."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:  # argparse would print its whole usage
        raise InputError(message)


class _Switch(argparse.Action):
    """`--fresh`, and `--fresh=true`: templates and schedulers give every flag a value."""

    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any) -> None:
        super().__init__(
            option_strings,
            dest,
            nargs="?",
            const="true",
            default=False,
            choices=["true", "false"],
            help=options.get("help"),
        )

    def __call__(self, _: Any, namespace: argparse.Namespace, value: Any, __: str | None = None) -> None:
        setattr(namespace, self.dest, value == "true")


def parser(name: str, description: str) -> argparse.ArgumentParser:
    own = _Parser(
        prog=f"python -m jobs.{name}",
        description=description,
        allow_abbrev=False,
        epilog="Every Apache Beam flag is passed on: --runner, --job_endpoint, --project, …",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    own.register("action", "store_true", _Switch)
    own.add_argument("--beam_logs", action="store_true", help="show the logs of Beam and of the engine too, on stderr")
    _add_http_flags(own)
    return own


def _add_http_flags(own: argparse.ArgumentParser) -> None:
    add = own.add_argument
    add("--allow_http", action="store_true", help="read http(s) URLs too, at public addresses")
    add("--allow_private_http", action="store_true", help="read http(s) URLs at private and local addresses too")


def _http_level(args: argparse.Namespace) -> str:
    if args.allow_private_http:
        return storage.ANY_HTTP
    return storage.PUBLIC_HTTP if args.allow_http else storage.NO_HTTP


def parse(own: argparse.ArgumentParser, argv: Sequence[str] | None) -> tuple[argparse.Namespace, PipelineOptions]:
    """Our flags and Beam's. A flag that neither knows is an error, since Beam itself would drop it silently."""
    args, rest = own.parse_known_args(argv)
    beams = _Parser(add_help=False, allow_abbrev=False, conflict_handler="resolve")
    for cls in _subclasses(PipelineOptions):
        with contextlib.suppress(AttributeError, argparse.ArgumentError):
            cls._add_argparse_args(beams)
    known = {*own._option_string_actions, *beams._option_string_actions}
    for flag in (a.split("=", 1)[0] for a in rest if a.startswith("-")):
        if flag not in known:
            longer = [name for name in own._option_string_actions if name.startswith(flag)]
            nearest = longer or difflib.get_close_matches(flag, sorted(known), 1, 0.5)
            raise InputError(
                f"{flag}: no such flag{f'; did you mean {nearest[0]}?' if nearest else ''} (--help lists all)"
            )
    stray = beams.parse_known_args(rest)[1]
    if stray:
        raise InputError(f"{stray[0]}: is no flag and belongs to none")
    options = PipelineOptions(rest)
    runner_of(options)
    storage.permit_http(_http_level(args))
    if args.beam_logs:
        _show_beam_logs()
    return args, options


def _subclasses(cls: Any) -> Iterator[Any]:
    for sub in cls.__subclasses__():
        yield sub
        yield from _subclasses(sub)


def runner_of(options: PipelineOptions) -> Any:
    """The runner to use. DirectRunner means in this process: Beam's own would first try to download Prism.

    Raises:
        InputError: there is no such runner, or what it needs is not installed.
    """
    name = options.view_as(StandardOptions).runner
    if runs_here(options):
        from apache_beam.runners.portability.fn_api_runner import FnApiRunner

        return FnApiRunner()
    try:
        return create_runner(name)
    except (ValueError, ImportError, AttributeError) as error:
        raise InputError(f"--runner {name}: {error}") from None


def runs_here(options: PipelineOptions) -> bool:
    """Whether the pipeline runs in this process."""
    return (options.view_as(StandardOptions).runner or "direct").lower() in ("direct", "directrunner")


def local_workers(options: PipelineOptions) -> int:
    """Processes on this machine that the pipeline runs in; 0 where it runs elsewhere."""
    if not runs_here(options):
        return 0
    direct = options.view_as(DirectOptions)
    return max(1, direct.direct_num_workers) if direct.direct_running_mode == "multi_processing" else 1


@contextlib.contextmanager
def profiled(file: str | None, options: PipelineOptions) -> Iterator[None]:
    """Writes a Chrome trace of the block to `file`, where one is named, and says what took which share of the time.

    Raises:
        InputError: the work is done in other processes, which this one does not see; or `file` cannot be written.
    """
    if not file:
        yield
        return
    if not runs_here(options) or local_workers(options) > 1:
        raise InputError("--profile: records this process alone, and the pipeline runs in others")
    try:
        storage.replace(file, b"")  # found out before the work, not after
    except RunFailed as error:
        raise InputError(f"--profile {file}: {error}") from None
    TRACE.start()
    yield
    storage.replace(file, TRACE.to_json())
    shares = sorted(TRACE.shares().items(), key=lambda item: -item[1])
    say("share of the time: " + ", ".join(f"{name} {share:.1%}" for name, share in shares) + f"; {file}")


class Submitted(NamedTuple):
    """A pipeline that goes on without this process, and publishes by itself."""

    job: str  # the engine's id of it, or where its template is; empty after a dry run
    line: str
    runs: bool = True


def run_pipeline(build: Callable[[beam.Pipeline], Any], options: PipelineOptions) -> Submitted | None:
    """Builds and runs to the end; on Dataflow, or with Beam's `--no_wait_until_finish`, submits only.

    Raises:
        RunFailed: a step did.
    """
    try:
        standard = options.view_as(StandardOptions)
        standard.no_wait_until_finish = submits_only(options)
        with _told_where(options), beam.Pipeline(runner=runner_of(options), options=options) as pipeline:
            build(pipeline)
        return _submitted(pipeline.result, options) if standard.no_wait_until_finish else None
    except (RunFailed, InputError) as error:
        raise type(error)(str(error).split(" [while running '", 1)[0]) from None
    except Exception as error:
        if told := _told(error, options):
            raise told from None
        raise


_ELSEWHERE: list[str] = []
"""What to say on Ctrl-C while a pipeline runs that does not end with this process."""


@contextlib.contextmanager
def _told_where(options: PipelineOptions) -> Iterator[None]:
    if runs_here(options):
        yield
        return
    runner = options.view_as(StandardOptions).runner
    _ELSEWHERE.append(
        f"{runner} may go on with the job without this process, and the job then publishes by itself; cancel it there, "
        "on the engine's own screen or command line, if it must not"
    )
    try:
        yield
    finally:
        _ELSEWHERE.pop()


def _told(error: Exception, options: PipelineOptions) -> Exception | None:
    """What a failure comes down to for the person; None where it is a bug, which keeps its traceback."""
    if refused := refusal(error, options):
        return RunFailed(refused)
    if isinstance(error, grpc.RpcError) and isinstance(error, grpc.Call):
        return RunFailed(f"--runner: the job server is gone ({error.details()}); the engine's own log says more")
    if isinstance(error, ValueError) and str(error).startswith(INVALID_OPTIONS):
        return InputError(f"--runner: {' '.join(str(error).removeprefix(INVALID_OPTIONS).split())}")
    # A worker in another process sends the text alone.
    if lines := re.findall(r"\b(RunFailed|InputError): (.*?)(?: \[while running .*)?$", str(error), re.MULTILINE):
        kind, message = lines[-1]
        return (RunFailed if kind == "RunFailed" else InputError)(message)
    return None


def submits_only(options: PipelineOptions) -> bool:
    """Whether the pipeline goes on when this process has ended. A run on Dataflow may take a day, and the launcher of a
    Flex Template must not wait for it."""
    unwaited = options.view_as(StandardOptions).no_wait_until_finish and not runs_here(options)
    return bool(on_dataflow(options) or unwaited)


def _submitted(result: Any, options: PipelineOptions) -> Submitted:
    if options.view_as(TestOptions).dry_run:
        return Submitted("", "dry run: the pipeline can be submitted, nothing was", runs=False)
    if template := options.view_as(GoogleCloudOptions).template_location:
        return Submitted(template, f"template written: {template}", runs=False)
    job = str(result.job_id() if hasattr(result, "job_id") else getattr(result, "_job_id", ""))
    # The words by which Airflow's Beam operators find the job.
    return Submitted(job, f"Created job with id: [{job}]; the pipeline publishes when it is done")


def main(job: Callable[[Sequence[str] | None], None], argv: Sequence[str] | None, on_interrupt: str) -> int:
    """Runs a job and turns how it ended into an exit status: 0 done, 1 failed, 2 wrong command line or input."""
    _quiet_libraries()
    with _interruptible(on_interrupt):
        try:
            job(argv)
        except InputError as error:
            say(f"error: {error}")
            return 2
        except RunFailed as error:
            say(f"failed: {error}")
            return 1
        except Exception:  # a bug: its traceback may quote what a library was asked
            say(traceback.format_exc())
            return 1
    return 0


def leave(status: int) -> NoReturn:
    """Ends the process without the interpreter's teardown, in which gRPC's channels may wait for a lock that a thread
    held when it was stopped: a run that was over would hang (https://github.com/grpc/grpc/issues/20026)."""
    atexit._run_exitfuncs()  # Beam ends the servers that it started
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # whoever read it has gone
            stream.flush()
    os._exit(status)


def _quiet_libraries() -> None:
    """Beam logs a step's exception with its traceback before raising it; ours is one clear line."""
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    for engine in (None, "PrismJobServer"):
        logging.getLogger(engine).addFilter(_not_a_job_message)
    threading.excepthook = _excepthook
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")


def _show_beam_logs() -> None:
    """Undoes what `_quiet_libraries` did to them."""
    logging.basicConfig(level=logging.INFO)
    logging.getLogger("apache_beam").setLevel(logging.INFO)
    for engine in (None, "PrismJobServer"):
        logging.getLogger(engine).removeFilter(_not_a_job_message)


def _not_a_job_message(record: logging.LogRecord) -> bool:
    """An engine's messages are stack traces, each attempt's; the last is raised when the job has failed."""
    return record.module != "portable_runner" and record.name != "PrismJobServer"


def _excepthook(args: threading.ExceptHookArgs) -> None:
    """Workers in this process end with an exception each time that the engine hangs up on them."""
    if not (args.thread and args.thread.name.startswith("run_worker_")):
        threading.__excepthook__(args)


@contextlib.contextmanager
def _interruptible(message: str) -> Iterator[None]:
    """Ctrl-C ends the process at once: every file is there whole or not at all, so there is nothing to wind up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: Any) -> None:
        os.write(2, f"\ninterrupted: {_ELSEWHERE[-1] if _ELSEWHERE else message}\n".encode())
        os._exit(130)

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def say(text: str) -> None:
    """A line for the person watching; the one way out for what libraries say, so no secret passes here."""
    tqdm.write(storage.blanked(text), file=sys.stderr)


def put_result(summary: dict[str, Any], text: str, as_json: bool) -> None:
    """The job's result, alone on stdout."""
    sys.stdout.write((json.dumps(summary, sort_keys=True) if as_json else text) + "\n")
    sys.stdout.flush()


def _embedded(done: Progress, seconds: float) -> tuple[int, str]:
    return done.input_bytes, f"{done.rows:,} rows, {done.tokens / seconds:,.0f} tokens/s"


def put_submitted(submitted: Submitted, output: str, as_json: bool) -> None:
    """What there is to say of a run that goes on elsewhere."""
    say(submitted.line)
    found = {"output": output, "submitted": submitted.job}
    put_result(found, f"{output}: {submitted.job or 'not'} submitted", as_json)


@contextlib.contextmanager
def progress_bar(
    total: int, status: Callable[[Progress, float], tuple[int, str]] = _embedded, here: bool = True
) -> Iterator[None]:
    """Shows on stderr how far the block is, and the time left.

    total: of what there is to do: bytes of input, or pairs
    status: from what was done since the start, and the seconds that it took, how much of the total that is, and a line
    here: workers are in this process; of others only the engine's own screen tells
    """
    done = threading.Event()
    watch, args = (_watch, (total, status, done)) if here else (_watch_elsewhere, (done,))
    watcher = threading.Thread(target=watch, args=args, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _watch(total: int, status: Callable[[Progress, float], tuple[int, str]], done: threading.Event) -> None:
    terminal = sys.stderr.isatty()
    started, first = time.monotonic(), PROGRESS.copy()
    layout = "{percentage:3.0f}% |{bar}| {desc} [{elapsed}<{remaining}]"
    with tqdm(total=total, file=sys.stderr, bar_format=layout, disable=not terminal, leave=False) as bar:
        while not done.wait(REFRESH_SECONDS if terminal else LOG_SECONDS):
            share, line = status(PROGRESS.since(first), max(1e-9, time.monotonic() - started))
            share = min(share, total)
            if terminal:
                bar.set_description_str(line, refresh=False)
                bar.update(share - bar.n)
                bar.refresh()
            else:
                say(f"{100 * share // max(1, total)}% {line}")


def _watch_elsewhere(done: threading.Event) -> None:
    started = time.monotonic()
    while not done.wait(LOG_SECONDS):
        say(f"{time.monotonic() - started:.0f} s; how far the workers are is on the engine's screen")
