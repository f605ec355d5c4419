"""One step of a flow, or a job, done here and now: what another scheduler, which keeps time, tries and history itself, asks for."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from penstock.ground.environ import environment
from penstock.ground.errors import PenstockError, UserCodeError
from penstock.plan.flows import Journal, Work, following
from penstock.spec.jobs import Branch, Each, Flow, Job, Make, argv, plain

Step = Job | Make | Branch | Each | Flow
#: The file descriptor of stderr, where programs print: stdout is for the step's output.
STDERR = 2
#: Makes an asset and all it needs fresh, and gives its version.
MakeAsset = Callable[[str], str]


def done(step: Step, given: Any, params: Mapping[str, Any], *, make: MakeAsset, root: Path) -> Any:
    """Does a step, and all in it, one after the other in this process. Gives its output; of a branch only the case that it chooses.

    What user code prints goes to stderr. Limits of memory and time, retries and keys are the caller's to hold.

    Raises: UserCodeError(E5001) with the function's own error as cause, for a command that ends with another code than 0, or for an
        output that is no JSON.
    """
    given = plain(given, f"{step.name}(input)")
    if isinstance(step, Branch):
        return plain(_called(step.by, step.name, (given,), {}), step.name)
    whole = step if isinstance(step, Flow) else Flow(step.name, (step,))
    finished: dict[tuple[str, str], Any] = {}
    while not (found := following(whole, given, params, Journal(finished))).done:
        for work in found.works:
            finished[work.step, work.digest] = plain(_worked(work, make, root), work.step)
    return plain(found.output, step.name)


def _worked(work: Work, make: MakeAsset, root: Path) -> Any:
    do = work.do
    if isinstance(do, Make):
        return {"asset": do.asset, "version": make(do.asset)}
    if isinstance(do, Branch):
        return _called(do.by, work.step, (work.given,), {})
    if do.function is None:
        return _commanded(do, work, root)
    return _called(do.function, work.step, (work.given,) if do.takes_input else (), work.params)


def _called(function: Callable[..., Any], place: str, args: tuple[Any, ...], params: Mapping[str, Any]) -> Any:
    try:
        with redirect_stdout(sys.stderr):
            return function(*args, **params)
    except PenstockError:
        raise
    except Exception as error:
        raise UserCodeError(f"the function raised {type(error).__name__}: {error}", place=place) from error


def _commanded(job: Job, work: Work, root: Path) -> Any:
    with tempfile.TemporaryDirectory(prefix="penstock-step-") as folder:
        output = Path(folder) / "output.json"
        program = argv(job, work.params)
        told = json.dumps(work.given, ensure_ascii=False).encode()
        try:
            ended = subprocess.run(
                program, input=told, stdout=STDERR, cwd=root, env={**environment(), "PENSTOCK_OUTPUT": str(output)}, check=False
            )
        except OSError as error:
            raise UserCodeError("the program cannot be started", place=work.step, got=f"{program[0][:80]}: {error.strerror}") from error
        if ended.returncode:
            raise UserCodeError("the program failed", place=work.step, expected="exit code 0", got=str(ended.returncode))
        if not output.exists():
            return None
        try:
            return json.loads(output.read_bytes())
        except ValueError as error:
            raise UserCodeError("what the program wrote is no JSON", place=work.step, got=str(error)[:120]) from error
