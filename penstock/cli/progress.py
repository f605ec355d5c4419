"""A run as it goes: a line for each finished asset with its ledger, gates and slices, and a moving line for the one at work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from penstock.cli.failure import print_record, recorded_lines
from penstock.cli.screen import STYLES, Face
from penstock.project import figures
from penstock.run.runtime import Event

_MARKS = {"made": "✔", "unchanged": "=", "refused": "✘", "failed": "✘", "skipped": "-"}


class Progress:
    """Listens to a run. Lines go to stdout as assets finish (nowhere with `--json`); the moving line goes to a terminal, if there is one.

    Use as a context manager around the run. Nothing that goes wrong while printing stops the run.
    """

    def __init__(self, face: Face) -> None:
        self._face = face
        self._live: Any = None
        self._console: Any = None
        if not face.json and face.out.is_terminal:
            self._console = face.out
        elif face.err.is_terminal:
            self._console = face.err

    def __enter__(self) -> Progress:
        if self._console is not None:
            from rich.progress import Progress as Live
            from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

            columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
            self._live = Live(*columns, console=self._console, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, event: Event) -> None:
        """Takes an event of the run."""
        if event.kind == "started":
            self._start(event)
        elif event.kind in ("finished", "failed", "skipped"):
            self._clear()
            if not self._face.json:
                self._finished(event)
        elif event.kind == "note" and not self._face.json:
            self._face.line(f"  {event.asset}: {figures.one_line(event.text)}", "dim")

    def _start(self, event: Event) -> None:
        if self._live is not None:
            how = "" if event.data.get("mode") == "full" else ", only what is new"
            why = figures.one_line(event.text, 60)
            self._live.add_task(f"{event.asset}  {event.data.get('kind', '')}{how}  {why}", total=None)

    def _clear(self) -> None:
        if self._live is not None:
            for task in list(self._live.task_ids):
                self._live.remove_task(task)

    def _finished(self, event: Event) -> None:
        if event.kind == "finished":
            for text, style in body_lines(event.asset, event.data):
                self._face.line(text, style)
            return
        self._face.line(
            f"{_MARKS[event.kind]} {event.asset}  {event.kind}" + (f": {event.text}" if event.kind == "skipped" else ""), STYLES[event.kind]
        )
        if event.kind == "failed":
            lines = list(recorded_lines(str(event.data.get("traceback", ""))))
            print_record(self._face, event.data, lines, indent="  ", console=self._face.out)
            if self._face.traceback and event.data.get("traceback"):
                self._face.note(str(event.data["traceback"]))


def body_lines(asset: str, body: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Lines with their styles for an asset that was made: head, ledger, failed checks, gates, slices."""
    status = str(body.get("status", "made"))
    lines = [(f"{_MARKS.get(status, '✔')} {asset:<24} {_head(body, status)}", STYLES.get(status, ""))]
    lines += [(f"    {step['name']:<9} {figures.step_text(step)}", "dim") for step in body.get("ledger", [])]
    for check in body.get("checks", []):
        if not check.get("passed", True) and check.get("outcome") != "reject":
            lines.append(
                (f"    check      {check.get('outcome', '')}: {figures.one_line(check.get('text') or check.get('check'))}", "yellow")
            )
    for gate in body.get("gates", []):
        lines.append((f"    gate      {figures.gate_text(gate)}", "green" if gate.get("passed") else "bold red"))
    for column, (metric, slices) in figures.ranked(body.get("slices", [])).items():
        lines.append((f"    slices    {slices_text(column, metric, slices)}", "dim"))
    return lines


def _head(body: Mapping[str, Any], status: str) -> str:
    kind = str(body.get("kind", ""))
    took = figures.seconds(body.get("seconds"))
    if kind == "model":
        metrics = ", ".join(f"{k} {figures.figure(v)}" for k, v in figures.metrics(body.get("metrics", {}))[:3])
        learnt = f"learnt from {figures.count(body.get('train_rows'))} rows, tested on {figures.count(body.get('test_rows'))}"
        word = "  REFUSED by its gates" if status == "refused" else ""
        return f"{kind:<12} {learnt}  {took}{word}" + (f"  ({metrics})" if metrics else "")
    rejected = f"  {figures.count(body['rejected'])} rejected" if body.get("rejected") else ""
    word = "  unchanged" if status == "unchanged" else ""
    return f"{kind:<12} {figures.count(body.get('rows')):>12} rows  {took:>8}{rejected}{word}"


def slices_text(column: str, metric: str, slices: list[Mapping[str, Any]]) -> str:
    """`roc_auc by origin, 3 slices: best EWR 0.731 (9,912 rows), worst JFK 0.645 (8,701 rows)`."""

    def told(word: str, slice_: Mapping[str, Any]) -> str:
        rows = f" ({figures.of(int(slice_['rows']), 'row')})" if slice_.get("rows") is not None else ""
        return f"{word} {figures.one_line(slice_['value'], 40)} {figures.figure(slice_[metric])}{rows}"

    ends = [told("best", slices[0])] + ([told("worst", slices[-1])] if len(slices) > 1 else [])
    return f"{metric} by {column}, {figures.of(len(slices), 'slice')}: {', '.join(ends)}"
