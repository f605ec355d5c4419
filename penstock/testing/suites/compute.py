"""What every compute must do.

Use: `from penstock.testing.suites.compute import *` in a test module that has a fixture `compute`: an opened compute whose tasks get half a
second between TERM and KILL or less, where it can kill. What its capabilities do not say is asked to be refused.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from penstock.ground.environ import environment
from penstock.ground.errors import DefinitionError, Unsupported
from penstock.ground.logs import follow
from penstock.ports.compute import Compute, ComputeCapabilities, Ended, Handle, Limits, Task

JOBS = "penstock.testing.jobs"
#: Longer than any task here takes on a busy machine, in seconds; a task that has not ended then hangs.
PATIENCE_S = 120.0
MB = 1 << 20


def task(call: str, payload: dict[str, Any] | None = None, /, **more: Any) -> Task:
    """A task that calls a function of `penstock.testing.jobs`, or of another module by its whole name."""
    return Task(id=more.pop("id", call), call=call if ":" in call else f"{JOBS}:{call}", payload=payload or {}, **more)


def end_of(handle: Handle) -> Ended:
    ended = handle.wait(PATIENCE_S)
    assert ended is not None, f"{handle.id} has not ended"
    return ended


def run(compute: Compute, call: str, payload: dict[str, Any] | None = None, /, **more: Any) -> Ended:
    return end_of(compute.start(task(call, payload, **more)))


def error_of(ended: Ended) -> dict[str, Any]:
    assert ended.error is not None
    assert ended.result is None
    return dict(ended.error)


def gone(pid: int) -> bool:
    """Whether a process of this machine has ended, or is about to have: nothing of it runs any more."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return stat.rpartition(")")[2].split()[0] in "ZX"


@pytest.fixture
def isolated(compute: Compute) -> Compute:
    if not compute.capabilities.isolated:
        pytest.skip("tasks are not isolated")
    return compute


# -- answers --------------------------------------------------------------------------------------------------------
def test_a_function_is_called_and_answers(compute: Compute) -> None:
    handle = compute.start(task("add", {"a": 1, "b": 2}, id="first"))
    ended = end_of(handle)
    assert (ended.status, ended.result, ended.error) == ("done", 3, None)
    assert handle.id == "first"
    assert handle.wait() == handle.wait(0) == ended
    handle.cancel()
    assert handle.wait() == ended


def test_json_comes_and_goes_as_it_is(compute: Compute) -> None:
    payload = {"text": "Ä\ud800 \0 \U0001f6e9", "n": 2**70, "x": 1e-300, "null": None, "list": [[], {}, True], "": "empty"}
    assert run(compute, "echo", payload).result == payload


def test_a_large_payload_and_a_large_result_pass(compute: Compute) -> None:
    payload = {"text": "x" * (5 * MB)}
    assert run(compute, "echo", payload).result == payload


def test_the_payload_is_a_copy_and_pairs_are_lists(compute: Compute) -> None:
    inner: list[int] = [1]
    assert run(compute, "echo", {"pair": (1, 2), "inner": inner}).result == {"pair": [1, 2], "inner": [1]}
    assert run(compute, "echo", {"inner": inner}).result["inner"] is not inner


@pytest.mark.parametrize("call", ["add", "penstock.testing.jobs", "a:b:c", "os:system('x')", "../x:y", ":f", "a:", "", "a b:c"])
def test_what_is_no_name_of_a_function_is_refused_at_once(compute: Compute, call: str) -> None:
    with pytest.raises(DefinitionError, match=r"package\.module:function"):
        compute.start(Task("x", call, {}))


@pytest.mark.parametrize("payload", [{"x": object()}, {"x": float("nan")}, {"x": b"bytes"}, {("a", "b"): 1}])
def test_a_payload_that_is_no_json_is_refused_at_once(compute: Compute, payload: dict[Any, Any]) -> None:
    with pytest.raises(DefinitionError, match="no JSON"):
        compute.start(task("echo", payload))


@pytest.mark.parametrize(
    ("call", "code", "told"),
    [
        (f"{JOBS}:ad", "E1003", "did you mean `add`"),
        (f"{JOBS}:MB.x", "E1003", ""),
        (f"{JOBS}:_EVER", "E1003", "float"),
        ("penstock.nowhere:f", "E1005", "ModuleNotFoundError"),
    ],
)
def test_a_function_that_is_not_there_fails_the_task(compute: Compute, call: str, code: str, told: str) -> None:
    ended = run(compute, call)
    error = error_of(ended)
    assert (ended.status, error["code"]) == ("failed", code)
    assert told in f"{error['hint']} {error['got']}"


# -- failures -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("kind", "raised", "message"),
    [
        ("value", "builtins.ValueError", "ValueError: a bad value: Ä\ud800"),
        ("hostile", f"{JOBS}.Hostile", "Hostile: (its text cannot be told)"),
        ("exit", "builtins.SystemExit", "SystemExit: 3"),
        ("base", "builtins.BaseException", "BaseException: base"),
        ("stop", "builtins.StopIteration", "StopIteration: "),
    ],
)
def test_an_exception_is_told_with_its_traceback(compute: Compute, kind: str, raised: str, message: str) -> None:
    ended = run(compute, "fail", {"kind": kind})
    error = error_of(ended)
    assert (ended.status, error["code"], error["raised"], error["message"]) == ("failed", "E5001", raised, message)
    assert error["place"] == f"{JOBS}:fail"
    assert "in fail" in error["traceback"]
    assert "calls.py" not in error["traceback"]


def test_an_error_of_ours_comes_as_it_is(compute: Compute) -> None:
    error = error_of(run(compute, "fail", {"kind": "own"}))
    assert [error[k] for k in ("code", "message", "place", "expected", "got")] == ["E3001", "too few rows", "flights", "1", "0"]


@pytest.mark.parametrize("kind", ["long", "long own"])
def test_an_exception_with_a_long_text_is_shortened(compute: Compute, kind: str) -> None:
    error = error_of(run(compute, "fail", {"kind": kind}))
    assert 1000 < len(error["message"]) < 3000
    assert len(error["traceback"]) < 50_000


def test_endless_recursion_fails_the_task_alone(compute: Compute) -> None:
    assert error_of(run(compute, "deep"))["raised"] == "builtins.RecursionError"
    assert run(compute, "add", {"a": 1, "b": 1}).result == 2


@pytest.mark.parametrize("kind", ["object", "bytes", "nan", "circle", "set"])
def test_a_result_that_is_no_json_fails_the_task(compute: Compute, kind: str) -> None:
    ended = run(compute, "no_json", {"kind": kind})
    assert (ended.status, error_of(ended)["code"]) == ("failed", "E5001")
    assert "no JSON" in error_of(ended)["message"]


def test_a_huge_result_fails_the_task(compute: Compute) -> None:
    ended = run(compute, "long_result", {"bytes": 40 * MB})
    assert ended.status == "failed"
    assert "too long" in error_of(ended)["message"]
    assert "file or a table" in error_of(ended)["hint"]


def test_a_memory_error_is_told_as_one(compute: Compute) -> None:
    ended = run(compute, "fail", {"kind": "memory"})
    assert (ended.status, error_of(ended)["code"]) == ("memory", "E5003")


# -- place ----------------------------------------------------------------------------------------------------------
def test_path_folder_and_environment_are_those_of_the_caller_and_the_task(
    compute: Compute, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine_only.py").write_text("def f():\n    return 'mine'\n")
    monkeypatch.setenv("PENSTOCK_TEST_CALLER", "caller")
    monkeypatch.setenv("PENSTOCK_TEST_BOTH", "caller")
    monkeypatch.chdir(tmp_path)
    names = ["PENSTOCK_TEST_CALLER", "PENSTOCK_TEST_BOTH", "PENSTOCK_TEST_TASK"]
    before = list(sys.path)
    mine = {"PENSTOCK_TEST_BOTH": "täsk", "PENSTOCK_TEST_TASK": "1"}
    seen = run(compute, "whole_place", {"names": names}, path=(tmp_path,), environment=mine).result
    assert seen["environment"] == dict(zip(names, ["caller", "täsk", "1"], strict=True))
    assert seen["folder"] == os.getcwd() == os.path.realpath(tmp_path)
    assert seen["path"] == [str(tmp_path), *before]
    assert run(compute, "imported", {"module": "mine_only", "function": "f"}, path=(tmp_path,)).result == "mine"
    sys.modules.pop("mine_only", None)
    assert sys.path == before
    assert "PENSTOCK_TEST_TASK" not in environment()
    assert run(compute, "whole_place", {"names": names}).result["environment"]["PENSTOCK_TEST_TASK"] is None


def test_what_a_task_prints_is_in_its_log(compute: Compute, tmp_path: Path) -> None:
    log = tmp_path / "logs" / "a task.log"
    assert run(compute, "speak", {"out": "to stdout Ä\ud800", "err": "to stderr"}, log=log).status == "done"
    assert log.read_text() == "to stdout Ä\\ud800\nto stderr\n"
    assert log.stat().st_mode & 0o777 == 0o600
    assert run(compute, "speak", {"out": "again", "err": ""}, log=log).status == "done"
    assert log.read_text().endswith("to stderr\nagain\n\n")


def test_a_log_that_takes_nothing_does_not_harm_the_task(compute: Compute) -> None:
    assert run(compute, "chatter", {"lines": 1000}, log=Path("/dev/full")).result == 1000


def test_a_cost_is_told(compute: Compute, tmp_path: Path) -> None:
    cost = run(compute, "use", {"cpu": 0.2, "memory": 40 * MB, "written": 3 * MB, "file": str(tmp_path / "x")}).cost
    assert cost.seconds >= 0.2
    assert cost.cpu_seconds is None or 0.2 <= cost.cpu_seconds < cost.seconds + 0.1
    assert cost.peak_memory_bytes is None or 40 * MB <= cost.peak_memory_bytes < 60 * MB
    for count in (cost.bytes_read, cost.bytes_written):
        assert count is None or 3 * MB <= count < 4 * MB


# -- what cannot be done is refused ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("limits", "capability"),
    [
        (Limits(memory_bytes=1 << 30), "memory_limit"),
        (Limits(seconds=60), "time_limit"),
        (Limits(cores=1), "cores_limit"),
    ],
)
def test_a_limit_is_kept_or_refused(compute: Compute, limits: Limits, capability: str) -> None:
    if getattr(compute.capabilities, capability):
        assert run(compute, "echo", limits=limits).status == "done"
    else:
        with pytest.raises(Unsupported):
            compute.start(task("echo", limits=limits))


def test_more_devices_than_there_are_is_refused(compute: Compute) -> None:
    with pytest.raises(Unsupported):
        compute.start(task("echo", limits=Limits(gpus=compute.capabilities.gpus + 1)))


def test_the_weakest_capabilities_promise_nothing() -> None:
    weakest = ComputeCapabilities()
    assert not any([weakest.isolated, weakest.memory_limit, weakest.time_limit, weakest.cores_limit, weakest.kill, weakest.gpus])


# -- isolated -------------------------------------------------------------------------------------------------------
def test_each_task_has_a_process_and_a_group_of_its_own(isolated: Compute) -> None:
    handles = [isolated.start(task("whole_place")) for _ in range(3)]
    seen = [end_of(handle).result for handle in handles]
    assert len({s["pid"] for s in seen} | {os.getpid()}) == 4
    assert all(s["group"] != os.getpgid(0) for s in seen)
    if not isolated.capabilities.several_machines:
        assert [handle.pid for handle in handles] == [s["pid"] for s in seen]


@pytest.mark.parametrize(
    ("call", "payload", "told"),
    [
        ("leave", {"code": 0}, "exit code 0"),
        ("leave", {"code": 3}, "exit code 3"),
        ("segfault", {}, "SIGSEGV"),
        ("kill_itself", {"signal": "SIGKILL"}, "SIGKILL"),
        ("kill_itself", {"signal": "SIGTERM"}, "SIGTERM"),
        ("kill_itself", {"signal": "SIGABRT"}, "SIGABRT"),
    ],
)
def test_an_end_without_an_answer_is_a_crash(isolated: Compute, call: str, payload: dict[str, Any], told: str) -> None:
    ended = run(isolated, call, payload)
    assert ended.status == "crashed"
    assert (error_of(ended)["code"], error_of(ended)["retry"]) == ("E5005", True)
    assert told in error_of(ended)["got"]


def test_an_interrupt_within_a_task_fails_that_task(isolated: Compute) -> None:
    assert error_of(run(isolated, "fail", {"kind": "interrupt"}))["raised"] == "builtins.KeyboardInterrupt"
    assert error_of(run(isolated, "kill_itself", {"signal": "SIGINT"}))["raised"] == "builtins.KeyboardInterrupt"


@pytest.mark.parametrize("call", ["close_all", "garbage"])
def test_a_task_that_spoils_its_descriptors_ends(isolated: Compute, call: str) -> None:
    ended = run(isolated, call)
    assert ended.status in ("done", "crashed")
    assert run(isolated, "add", {"a": 1, "b": 2}).result == 3


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("then", ["return", "crash"])
def test_what_a_task_leaves_behind_ends_with_it(isolated: Compute, tmp_path: Path, hidden: bool, then: str) -> None:
    file = tmp_path / "pid"
    ended = run(isolated, "orphan", {"hidden": hidden, "then": then, "file": str(file)}, log=tmp_path / "log")
    assert ended.status == ("done" if then == "return" else "crashed")
    pid = ended.result if then == "return" else int(file.read_text())
    if not isolated.capabilities.several_machines:
        assert gone(pid)


def test_a_thread_that_stays_does_not_hold_a_task(isolated: Compute) -> None:
    assert run(isolated, "thread_stays").result == "returned"


def test_a_task_may_run_other_programs(isolated: Compute) -> None:
    assert run(isolated, "program", {"command": [sys.executable, "-c", "print(6 * 7)"]}).result == "42\n"


def test_many_tasks_run_beside_each_other(isolated: Compute) -> None:
    handles = [isolated.start(task("add", {"a": n, "b": n})) for n in range(20)]
    assert [end_of(handle).result for handle in handles] == [2 * n for n in range(20)]


def test_a_running_task_is_not_waited_for_longer_than_asked(isolated: Compute, tmp_path: Path) -> None:
    if not isolated.capabilities.kill:
        return
    handle = isolated.start(task("hang"))
    assert handle.wait(0.01) is None
    handle.cancel()
    assert end_of(handle).status == "cancelled"


# -- limits and kills -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("call", "payload"), [("hang", {}), ("spin", {}), ("hang", {"stubborn": True}), ("polite", {})])
def test_time_is_limited(compute: Compute, call: str, payload: dict[str, Any]) -> None:
    if not compute.capabilities.time_limit:
        return
    handle = compute.start(task(call, payload, limits=Limits(seconds=0.3)))
    ended = end_of(handle)
    assert (ended.status, error_of(ended)["code"]) == ("timeout", "E5004")
    assert 0.3 <= ended.cost.seconds < 20
    assert compute.capabilities.several_machines or (handle.pid is not None and gone(handle.pid))


@pytest.mark.parametrize(("call", "keep"), [("hog", False), ("hog", True), ("native_hog", False)])
def test_memory_is_limited(compute: Compute, call: str, keep: bool) -> None:
    if not compute.capabilities.memory_limit:
        return
    ended = run(compute, call, {"most": 1000 * MB, "keep": keep}, limits=Limits(memory_bytes=100 * MB))
    assert (ended.status, error_of(ended)["code"]) == ("memory", "E5003")
    assert str(100 * MB) in error_of(ended)["expected"]
    assert (ended.cost.peak_memory_bytes or 0) < 180 * MB
    assert run(compute, call, {"most": 60 * MB}, limits=Limits(memory_bytes=100 * MB)).status == "done"


def test_cores_are_limited(compute: Compute) -> None:
    if not compute.capabilities.cores_limit:
        return
    seen = run(compute, "whole_place", {"names": ["OMP_NUM_THREADS"]}, limits=Limits(cores=1)).result
    assert (seen["cpus"], seen["environment"]) == (1, {"OMP_NUM_THREADS": "1"})


def test_devices_are_hidden_unless_asked_for(compute: Compute) -> None:
    if not compute.capabilities.isolated:
        return
    names = ["CUDA_VISIBLE_DEVICES"]
    assert run(compute, "whole_place", {"names": names}).result["environment"] == {"CUDA_VISIBLE_DEVICES": ""}
    if compute.capabilities.gpus:
        seen = run(compute, "whole_place", {"names": names}, limits=Limits(gpus=1)).result["environment"]
        assert len(seen["CUDA_VISIBLE_DEVICES"].split(",")) == 1 and seen["CUDA_VISIBLE_DEVICES"]


@pytest.mark.parametrize("stubborn", [False, True])
def test_a_running_task_can_be_cancelled(compute: Compute, stubborn: bool) -> None:
    if not compute.capabilities.kill:
        return
    handle = compute.start(task("hang", {"stubborn": stubborn}))
    handle.cancel()
    handle.cancel()
    ended = end_of(handle)
    assert (ended.status, error_of(ended)["code"]) == ("cancelled", "E5006")
    handle.cancel()
    assert compute.capabilities.several_machines or handle.pid is None or gone(handle.pid)


def test_a_log_can_be_followed_while_it_is_written(compute: Compute, tmp_path: Path) -> None:
    if not compute.capabilities.kill:
        return
    log, there = tmp_path / "log", tmp_path / "there"
    handle = compute.start(task("chatter", {"lines": 2000, "touch": str(there)}, log=log))
    seen = ""
    for text in follow(log, lambda: handle.wait(0.05) is not None):
        seen += text
        if "line 1999 " in seen:
            assert handle.wait(0) is None
            handle.cancel()
    assert [line.split()[1] for line in seen.splitlines()] == [str(n) for n in range(2000)]


def test_closing_ends_what_runs(compute: Compute) -> None:
    if not compute.capabilities.kill:
        compute.close()
        return
    handles = [compute.start(task("hang", {"stubborn": n == 0})) for n in range(3)]
    compute.close()
    assert [end_of(handle).status for handle in handles] == ["cancelled"] * 3
    compute.close()
