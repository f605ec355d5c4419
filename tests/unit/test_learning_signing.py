"""Keys are made once, kept privately, rotated and revoked; what they signed is held to the byte and the purpose."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from penstock.craft.learning.signing import Keys, canonical
from penstock.ground.errors import DefinitionError, SignatureRefused

RECORD = {"model": "delay", "version": "v3", "to": "production", "score": 0.25}


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "keys")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_signed_record_comes_back_as_it_was(keys: Keys) -> None:
    signed = keys.sign(RECORD, purpose="promotion")
    assert signed["signature"]["key"] == keys.current()
    assert keys.verify(signed, purpose="promotion") == RECORD
    assert keys.verify(dict(reversed(signed.items())), purpose="promotion") == RECORD
    assert Keys(keys.folder).verify(signed, purpose="promotion") == RECORD


def test_the_private_key_is_private(keys: Keys) -> None:
    old = os.umask(0)
    try:
        keys.current()
    finally:
        os.umask(old)
    assert mode(keys.folder) == 0o700
    assert mode(keys.folder / "signing.key") == 0o600
    assert [p.name for p in keys.folder.iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize(
    "change",
    [{"version": "v2"}, {"score": 0.5}, {"more": 1}, {"signature": {"algorithm": "none", "key": "", "value": ""}}, {"signature": None}],
)
def test_a_changed_record_is_refused(keys: Keys, change: dict[str, object]) -> None:
    with pytest.raises(SignatureRefused, match="E6003"):
        keys.verify({**keys.sign(RECORD, purpose="promotion"), **change}, purpose="promotion")


def test_a_field_taken_away_and_another_purpose_are_refused(keys: Keys) -> None:
    signed = keys.sign(RECORD, purpose="promotion")
    with pytest.raises(SignatureRefused, match="not of this record"):
        keys.verify({k: v for k, v in signed.items() if k != "to"}, purpose="promotion")
    with pytest.raises(SignatureRefused, match="not of this record"):
        keys.verify(signed, purpose="model")
    with pytest.raises(SignatureRefused, match="not signed"):
        keys.verify(RECORD, purpose="promotion")


def test_a_key_of_somebody_else_is_refused(keys: Keys, tmp_path: Path) -> None:
    signed = Keys(tmp_path / "other").sign(RECORD, purpose="promotion")
    keys.current()
    with pytest.raises(SignatureRefused, match="not trusted here"):
        keys.verify(signed, purpose="promotion")
    forged = {**signed, "signature": {**signed["signature"], "key": keys.current()}}
    with pytest.raises(SignatureRefused, match="not of this record"):
        keys.verify(forged, purpose="promotion")
    planted = keys.folder / "trusted" / f"{keys.current()}.pub"
    planted.write_bytes((tmp_path / "other/trusted" / f"{signed['signature']['key']}.pub").read_bytes())
    with pytest.raises(SignatureRefused, match="not the one its name says"):
        keys.verify(forged, purpose="promotion")


def test_rotation_keeps_what_was_signed_and_revocation_does_not(keys: Keys) -> None:
    first = keys.current()
    old = keys.sign(RECORD, purpose="promotion")
    private = (keys.folder / "signing.key").read_bytes()
    second = keys.rotate()
    new = keys.sign(RECORD, purpose="promotion")
    assert first != second == keys.current() == new["signature"]["key"]
    assert keys.verify(old, purpose="promotion") == keys.verify(new, purpose="promotion") == RECORD
    assert all(p.read_bytes() != private for p in keys.folder.rglob("*") if p.is_file())
    keys.revoke(first, reason="laptop lost")
    with pytest.raises(SignatureRefused, match="revoked"):
        keys.verify(old, purpose="promotion")
    assert keys.verify(new, purpose="promotion") == RECORD
    assert (keys.trusted(), keys.revoked()) == ((second,), (first,))
    keys.revoke(second, reason="to be sure")
    with pytest.raises(SignatureRefused, match="rotate"):
        keys.sign(RECORD, purpose="promotion")
    assert keys.verify(keys.sign(RECORD, purpose="p") if keys.rotate() else {}, purpose="p") == RECORD
    with pytest.raises(DefinitionError, match="no such key"):
        keys.revoke("../signing", reason="")


@pytest.mark.parametrize(("path", "bits"), [("", 0o750), ("", 0o705), ("signing.key", 0o640), ("signing.key", 0o602)])
def test_keys_that_others_can_reach_are_not_used(keys: Keys, path: str, bits: int) -> None:
    keys.current()
    (keys.folder / path).chmod(bits)
    with pytest.raises(SignatureRefused, match=r"others can reach.*chmod"):
        keys.sign(RECORD, purpose="promotion")


def test_a_trusted_key_that_others_can_write_is_not_used(keys: Keys) -> None:
    signed = keys.sign(RECORD, purpose="promotion")
    (keys.folder / "trusted" / f"{keys.current()}.pub").chmod(0o666)
    with pytest.raises(SignatureRefused, match="others can reach"):
        keys.verify(signed, purpose="promotion")


def test_links_and_what_is_no_key_are_refused(keys: Keys, tmp_path: Path) -> None:
    keys.current()
    private = keys.folder / "signing.key"
    elsewhere = tmp_path / "elsewhere.key"
    private.rename(elsewhere)
    private.symlink_to(elsewhere)
    with pytest.raises(SignatureRefused, match="cannot be read"):
        keys.current()
    private.unlink()
    private.write_bytes(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    private.chmod(0o600)
    with pytest.raises(SignatureRefused, match="not a private key"):
        keys.current()
    private.unlink()
    os.mkfifo(private, 0o600)
    with pytest.raises(SignatureRefused, match="no plain file"):
        keys.current()


def test_several_makers_make_one_key(keys: Keys) -> None:
    code = "import sys, pathlib; from penstock.craft.learning.signing import Keys; print(Keys(pathlib.Path(sys.argv[1])).current())"
    started = [subprocess.Popen([sys.executable, "-c", code, str(keys.folder)], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    told = {process.communicate()[0].strip() for process in started}
    assert told == {keys.current()}
    assert keys.trusted() == (keys.current(),)


def test_a_key_whose_public_half_was_lost_in_a_crash_is_trusted_again(keys: Keys) -> None:
    signed = keys.sign(RECORD, purpose="promotion")
    (keys.folder / "trusted" / f"{keys.current()}.pub").unlink()
    assert Keys(keys.folder).current() == signed["signature"]["key"]
    assert keys.verify(signed, purpose="promotion") == RECORD


def test_equal_records_have_equal_bytes_and_others_have_none() -> None:
    assert canonical({"b": [1, {"y": "ü", "x": None}], "a": 0.1}) == '{"a":0.1,"b":[1,{"x":null,"y":"ü"}]}'.encode()
    for wrong in ({"a": float("nan")}, {"a": object()}, {"a": {1, 2}}):
        with pytest.raises(DefinitionError, match="not JSON"):
            canonical(wrong)
