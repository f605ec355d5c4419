"""Signing: records that only this project's own key could have signed, and the care of those keys.

Ed25519 over a canonical form of the record with its purpose in front, so that a record signed for one purpose says nothing for
another. Keys live in a private folder: `signing.key` signs, each file in `trusted/` is a key whose signatures still count, each
file in `revoked/` one whose signatures no longer do. A private key never leaves its file and is gone after rotation.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.ground.errors import DefinitionError, DriverMissing, SignatureRefused
from penstock.ground.paths import private_folder, sync_folder, write_atomically

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

ALGORITHM = "ed25519"
FIELD = "signature"
_PRIVATE, _TRUSTED, _REVOKED = "signing.key", "trusted", "revoked"
#: A key file is under 200 bytes.
_MOST_BYTES = 4096


@dataclass(frozen=True)
class Keys:
    """The keys of a project, by the folder they live in.

    Nothing is read or made before it is needed: the first `sign` makes the key, once, also if several processes try.
    """

    folder: Path

    def sign(self, record: Mapping[str, Any], *, purpose: str) -> dict[str, Any]:
        """The record with its signature in the field `signature`.

        Args:    purpose: what the record is, such as `model` or `promotion`; `verify` must name the same.
        Durable: a key made on the way is synced before it signs.
        Raises:  SignatureRefused(E6003) if the key may be read by others, or was revoked; DefinitionError(E1001) for a record
                 that is already signed or is not JSON.
        """
        if FIELD in record:
            raise DefinitionError("the record is signed already", place=purpose)
        key = self._signing()
        name = key_id(key.public_key())
        if name in self.revoked():
            raise SignatureRefused("the signing key was revoked", place=name, hint="rotate the keys first")
        value = base64.b64encode(key.sign(_message(record, purpose))).decode()
        return {**record, FIELD: {"algorithm": ALGORITHM, "key": name, "value": value}}

    def verify(self, signed: Mapping[str, Any], *, purpose: str, place: str = "") -> dict[str, Any]:
        """The record without its signature, if a trusted key signed exactly it for this purpose.

        Raises: SignatureRefused(E6003) for a missing or wrong signature and an unknown or revoked key. A retry does not help.
        """
        from cryptography.exceptions import InvalidSignature

        signature = signed.get(FIELD)
        if not isinstance(signature, Mapping) or not {"algorithm", "key", "value"} <= signature.keys():
            hint = "it was made before signing, or by somebody else; make it again"
            raise SignatureRefused("the record is not signed", place=place, expected=f"a field {FIELD}", hint=hint)
        if signature["algorithm"] != ALGORITHM:
            raise SignatureRefused("signed in another way", place=place, expected=ALGORITHM, got=str(signature["algorithm"])[:40])
        key = self._trusted(str(signature["key"]), place)
        record = {name: value for name, value in signed.items() if name != FIELD}
        try:
            value = base64.b64decode(str(signature["value"]), validate=True)
            key.verify(value, _message(record, purpose))
        except (ValueError, InvalidSignature) as error:
            hint = "it was changed after it was signed, or signed as something else"
            raise SignatureRefused("the signature is not of this record", place=place, got=f"key {signature['key']}", hint=hint) from error
        return record

    def current(self) -> str:
        """The id of the key that signs; it is made if there is none."""
        return key_id(self._signing().public_key())

    def trusted(self) -> tuple[str, ...]:
        """Ids of the keys whose signatures count, sorted."""
        names = {p.stem for p in (self.folder / _TRUSTED).glob("*.pub")}
        return tuple(sorted(names - set(self.revoked())))

    def revoked(self) -> tuple[str, ...]:
        """Ids of the keys whose signatures do not count any more, sorted."""
        return tuple(sorted(p.name for p in (self.folder / _REVOKED).glob("*") if not p.name.startswith(".")))

    def rotate(self) -> str:
        """Makes a new key that signs from now on, and returns its id. What older keys signed still counts; the older private
        key is gone.

        Durable: yes. Repeat: makes another key. A crash leaves the older key signing.
        """
        self._signing()
        data, public = _made()
        self._trust(public)  # first: a crash then leaves a key that nobody holds, not one that signs and is not trusted
        write_atomically(self.folder / _PRIVATE, data)
        return key_id(public)

    def revoke(self, name: str, *, reason: str) -> None:
        """From now on nothing that this key signed counts, and it signs nothing more. Repeat: keeps the first reason.

        Raises: DefinitionError(E1001) for a key that is not known here.
        """
        if name not in {*self.trusted(), *self.revoked()}:
            raise DefinitionError("no such key", place=name[:40], expected=", ".join(self.trusted()))
        path = private_folder(self.folder / _REVOKED) / name
        if not path.exists():
            write_atomically(path, json.dumps({"reason": reason}).encode())

    def _signing(self) -> Ed25519PrivateKey:
        """The private key; made if there is none, so that of several makers one wins and all use its key."""
        path = self.folder / _PRIVATE
        if not path.exists() and not path.is_symlink():
            private_folder(self.folder)
            self._check_folder(self.folder)
            data, public = _made()
            draft = path.with_name(f".{_PRIVATE}.{key_id(public)}")
            write_atomically(draft, data)
            with contextlib.suppress(FileExistsError):
                os.link(draft, path)
            draft.unlink()
            sync_folder(self.folder)
        self._check_folder(self.folder)
        key = _private(_read(path, secret=True), str(path))
        if not (self.folder / _TRUSTED / f"{key_id(key.public_key())}.pub").exists():
            self._trust(key.public_key())
        return key

    def _trust(self, public: Ed25519PublicKey) -> str:
        name = key_id(public)
        private_folder(self.folder)
        write_atomically(private_folder(self.folder / _TRUSTED) / f"{name}.pub", _as_pem(public))
        return name

    def _trusted(self, name: str, place: str) -> Ed25519PublicKey:
        if name in self.revoked():
            raise SignatureRefused("signed by a key that was revoked", place=place, got=name, hint="make it again; the new key signs it")
        if name not in self.trusted():
            known = ", ".join(self.trusted()) or "no key yet"
            raise SignatureRefused("signed by a key that is not trusted here", place=place, expected=known, got=name[:40])
        for folder in (self.folder, self.folder / _TRUSTED):
            self._check_folder(folder)
        path = self.folder / _TRUSTED / f"{name}.pub"
        key = _public(_read(path, secret=False), str(path))
        if key_id(key) != name:
            raise SignatureRefused("a trusted key is not the one its name says", place=str(path), expected=name, got=key_id(key))
        return key

    def _check_folder(self, folder: Path) -> None:
        found = os.lstat(folder)
        if not stat.S_ISDIR(found.st_mode):
            raise SignatureRefused("the keys' folder is a link or no folder", place=str(folder))
        _check_access(found, folder, "700")


def key_id(public: Ed25519PublicKey) -> str:
    """The name of a key: the first 16 hex digits of the SHA-256 of its 32 bytes."""
    return hashlib.sha256(public.public_bytes_raw()).hexdigest()[:16]


def canonical(record: Mapping[str, Any]) -> bytes:
    """A record as the bytes that are signed: JSON in UTF-8, keys sorted, no spaces; equal records give equal bytes.

    Raises: DefinitionError(E1001) for what is not JSON: other types, NaN, infinities.
    """
    try:
        return json.dumps(record, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise DefinitionError(f"a record to sign is not JSON: {error}", got=type(record).__name__) from error


def _message(record: Mapping[str, Any], purpose: str) -> bytes:
    """Purpose and record with their lengths. Source: DSSE v1.0, pre-authentication encoding."""
    kind, body = f"application/vnd.penstock.{purpose}+json".encode(), canonical(record)
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(body), body)


def _made() -> tuple[bytes, Ed25519PublicKey]:
    """A new key from the system's randomness: its private PEM and public half."""
    ed25519, serialization = _library()
    key = ed25519.Ed25519PrivateKey.generate()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return pem, key.public_key()


def _private(data: bytes, place: str) -> Ed25519PrivateKey:
    ed25519, serialization = _library()
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError) as error:
        raise SignatureRefused("not a private key", place=place, expected="an Ed25519 key in PEM") from error
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise SignatureRefused("a key of another kind", place=place, expected=ALGORITHM, got=type(key).__name__)
    found: Ed25519PrivateKey = key
    return found


def _public(data: bytes, place: str) -> Ed25519PublicKey:
    ed25519, serialization = _library()
    try:
        key = serialization.load_pem_public_key(data)
    except ValueError as error:
        raise SignatureRefused("not a public key", place=place, expected="an Ed25519 key in PEM") from error
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise SignatureRefused("a key of another kind", place=place, expected=ALGORITHM, got=type(key).__name__)
    found: Ed25519PublicKey = key
    return found


def _as_pem(public: Ed25519PublicKey) -> bytes:
    _, serialization = _library()
    pem: bytes = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return pem


def _library() -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise DriverMissing("signing needs the library cryptography", hint="pip install 'penstock[learn]'") from error
    return ed25519, serialization


def _read(path: Path, *, secret: bool) -> bytes:
    """A key file's bytes, if it is a plain file that nobody else can change, or read if it is secret."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise SignatureRefused(f"a key cannot be read: {error.strerror}", place=str(path)) from error
    with os.fdopen(handle, "rb") as file:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise SignatureRefused("a key is no plain file", place=str(path))
        _check_access(found, path, "600" if secret else "644")
        return file.read(_MOST_BYTES)


def _check_access(found: os.stat_result, path: Path, mode: str) -> None:
    if found.st_uid not in (os.geteuid(), 0):
        raise SignatureRefused(
            "a key belongs to somebody else", place=str(path), expected=f"user {os.geteuid()}", got=f"user {found.st_uid}"
        )
    allowed = int(mode, 8)
    if stat.S_IMODE(found.st_mode) & ~allowed & 0o777:
        got = oct(stat.S_IMODE(found.st_mode))[2:]
        raise SignatureRefused("others can reach a key", place=str(path), expected=mode, got=got, hint=f"chmod {mode} {path}")
