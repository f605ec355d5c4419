"""Which assets are stale, why, and what it will cost. A pure function, one asset at a time, folded over the graph."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from penstock.plan.records import Action, Declared, FileSeen, FileWork, Made, Mode, Plan, Reason

#: The version an input will have after this run; not known before.
PENDING = "(pending)"


def plan(
    declared: Mapping[str, Declared],
    made: Mapping[str, Made],
    seen: Mapping[str, Mapping[str, FileSeen]],
    *,
    chosen: Collection[str],
    force: Collection[str] = (),
    looks: Collection[str] = (),
) -> Plan:
    """Actions for the chosen assets, in the order of `declared` (running order).

    Args:
        seen: per file source the files that are there now. Of a file whose size is recorded but whose time is not, the digest
            must be given.
        force: assets to make whatever is recorded.
        looks: sources that only reading can tell about.
    Unchosen assets count as they are recorded: what needs them uses their newest version.
    """
    versions = {name: record.version for name, record in made.items()}
    actions = []
    for name, asset in declared.items():
        if name not in chosen:
            continue
        action = decide(
            asset, made.get(name), seen.get(name), versions, forced=name in force, look=name in looks, input_rows=_rows(asset, made)
        )
        actions.append(action)
        if action.works:
            versions[name] = PENDING
    return Plan(tuple(actions))


def _rows(asset: Declared, made: Mapping[str, Made]) -> int | None:
    known = [made[i].rows for i in asset.inputs if i in made]
    return max(known) if known else None


def decide(
    asset: Declared,
    made: Made | None,
    seen: Mapping[str, FileSeen] | None,
    versions: Mapping[str, str],
    *,
    forced: bool = False,
    look: bool = False,
    input_rows: int | None = None,
) -> Action:
    """The action for one asset, given the versions its inputs have or will have."""
    work = file_work(made.files if made else {}, seen) if seen is not None else FileWork()
    own = _own_reasons(asset, made, work, forced)
    moved = _input_reasons(asset, made, versions)
    waiting = [i for i in asset.inputs if versions.get(i) == PENDING]
    missing = [i for i in asset.inputs if i not in versions]
    if missing and not waiting:
        own.append(Reason("input_missing", f"{_names(missing)} has never been made"))
    mode: Mode = "part" if _can_part(asset, made, own, moved, work, forced) else "full"
    rows, seconds = estimate(asset, made, seen, work, mode, input_rows)
    if waiting:
        waits = Reason("input_changes", f"waits for {_names(waiting)}")
        return Action(asset.name, asset.kind, "waiting", mode, (*own, *moved, waits), work, rows, seconds)
    if own or moved:
        return Action(asset.name, asset.kind, "stale", mode, (*own, *moved), work, rows, seconds)
    if look:
        reason = Reason("look", "only reading the database can tell")
        return Action(asset.name, asset.kind, "look", "part" if asset.partial else "full", (reason,), work, rows, seconds)
    notes = (Reason("files_gone", f"{len(work.gone)} vanished files, their rows stay"),) if work.gone else ()
    return Action(asset.name, asset.kind, "fresh", mode, notes, work)


def _own_reasons(asset: Declared, made: Made | None, work: FileWork, forced: bool) -> list[Reason]:
    reasons = []
    if made is None:
        reasons.append(Reason("new", "never made"))
    else:
        if made.definition != asset.definition:
            what = "options" if asset.kind == "source" else "code"
            reasons.append(Reason("code", f"{what} of {asset.name} changed"))
        elif reason := _columns_reason(asset, made):
            reasons.append(reason)
        if made.contract != asset.contract:
            reasons.append(Reason("contract", f"checks, key or exports of {asset.name} changed"))
        if dict(made.params) != (params := asset.recorded_params):
            changed = sorted(k for k in {*made.params, *params} if made.params.get(k) != params.get(k))
            reasons.append(Reason("params", f"parameter {_names(changed)} changed"))
    if work.new:
        reasons.append(Reason("files_new", _files(work.new, "new")))
    if work.changed:
        reasons.append(Reason("files_changed", _files(work.changed, "changed")))
    if work.gone and asset.drops_gone:
        reasons.append(Reason("files_gone", _files(work.gone, "vanished")))
    if forced and not reasons:
        reasons.append(Reason("forced", "asked for"))
    return reasons


def _columns_reason(asset: Declared, made: Made) -> Reason | None:
    """Columns that came, went or changed, if nothing that all columns share did."""
    new, changed, gone = columns_moved(made.parts, asset.parts)
    told = [f"{word} {_names(names)}" for word, names in (("new", new), ("changed", changed), ("gone", gone)) if names]
    return Reason("columns", f"columns: {'; '.join(told)}") if told else None


def columns_moved(was: Mapping[str, str], now: Mapping[str, str]) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """New, changed and vanished columns, by their fingerprints."""
    changed = tuple(name for name in now if name in was and was[name] != now[name])
    return tuple(n for n in now if n not in was), changed, tuple(n for n in was if n not in now)


def _input_reasons(asset: Declared, made: Made | None, versions: Mapping[str, str]) -> list[Reason]:
    if made is None:
        return []
    return [
        Reason("input", f"{name} has a newer version")
        for name in asset.inputs
        if name in versions and versions[name] != PENDING and made.inputs.get(name) != versions[name]
    ]


def _can_part(asset: Declared, made: Made | None, own: list[Reason], moved: list[Reason], work: FileWork, forced: bool) -> bool:
    """Whether only new input has to be worked on: nothing about the asset itself changed, and it can be made in parts."""
    if made is None or forced:
        return False
    if asset.kind == "source":
        return {r.code for r in own} <= {"files_new", "files_changed", "files_gone"}
    if asset.parts and own:
        return not moved and {r.code for r in own} == {"columns"}
    return asset.partial and not own


def file_work(recorded: Mapping[str, FileSeen], seen: Mapping[str, FileSeen]) -> FileWork:
    """New, changed and vanished files: by size and time; where only the time differs, by digest."""
    changed = [label for label, now in seen.items() if label in recorded and differs(recorded[label], now)]
    return FileWork(
        new=tuple(sorted(seen.keys() - recorded.keys())), changed=tuple(sorted(changed)), gone=tuple(sorted(recorded.keys() - seen.keys()))
    )


def differs(was: FileSeen, now: FileSeen) -> bool:
    if was.size_bytes != now.size_bytes:
        return True
    if now.digest and was.digest:
        return was.digest != now.digest
    return was.changed_ns != now.changed_ns


def needs_digest(was: FileSeen | None, now: FileSeen, *, loaded_ns: int) -> bool:
    """Whether a file's content must be looked at to tell if it changed.

    True if only its time differs, or if it was changed so shortly before it was loaded (2 s) that a later write may carry the
    same time: coarse clocks of file systems (the rule of git's index).
    """
    if was is None or was.size_bytes != now.size_bytes:
        return False
    return was.changed_ns != now.changed_ns or now.changed_ns > loaded_ns - 2_000_000_000


def estimate(
    asset: Declared, made: Made | None, seen: Mapping[str, FileSeen] | None, work: FileWork, mode: Mode, input_rows: int | None
) -> tuple[int | None, float | None]:
    """Rows and seconds, from what the last version took, in proportion to the bytes or rows to read."""
    if seen is not None:
        todo = [*work.new, *work.changed] if mode == "part" else list(seen)
        size = sum(seen[label].size_bytes for label in todo)
        if made is None or not made.bytes_in:
            return None, None
        share = size / made.bytes_in
        return round(made.rows * share), round(made.seconds * share, 3)
    if made is None:
        return input_rows, None
    return made.rows, made.seconds


def _files(labels: tuple[str, ...], word: str) -> str:
    return f"{len(labels)} {word} file{'s' if len(labels) != 1 else ''}" + (f" ({labels[0]})" if len(labels) == 1 else "")


def _names(names: Collection[str]) -> str:
    return ", ".join(names)
