"""What a frame looks like on the wire, and how it is verified before it is parsed.

    frame     = signature (64) || length of the head (4, big-endian) || head || attachment
    statement = a frame without its attachment

The head is canonical CBOR (RFC 8949, 4.2) of an `Envelope`, which names its attachment by length
and SHA-256. The Ed25519 signature covers the head only, so a statement, which the coordinator
relays to the other members, is verified as the frame is. The receiver knows whose frame it
expects: lengths are checked first, then the signature, then the attachment's hash, and only then
is anything parsed. Bulk never passes through a parser of this module: an attachment is raw bytes.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import cbor2
from pydantic import ValidationError

from privacy.errors import ProtocolError
from privacy.identity import SIGNATURE_BYTES, SigningKey, verify
from privacy.messages import (
    COORDINATOR_MESSAGES,
    PARTY_MESSAGES,
    VERSION,
    Body,
    Envelope,
    Header,
    canonical,
)

_DOMAIN = b"fedtags message 1\0"
_LENGTH = struct.Struct(">I")
_HEAD_AT = SIGNATURE_BYTES + _LENGTH.size
# An envelope holds a body, which holds a map of frames.
_MAX_DEPTH = 4
# No frame of any type is longer; each type's own bound is told from it before parsing.
MAX_FRAME_BYTES = _HEAD_AT + max(
    one.max_head + one.max_attachment for one in (*COORDINATOR_MESSAGES, *PARTY_MESSAGES)
)
EMPTY_TRANSCRIPT = bytes(32)

BodyT = TypeVar("BodyT", bound=Body)


@dataclass(frozen=True)
class Received:
    """A verified frame or statement; a statement's attached field is empty in `body`.

    `digest`: SHA-256 of all but the attachment, which that names.
    """

    envelope: Envelope
    body: Body
    digest: bytes


@dataclass(frozen=True)
class Attached:
    """What a head says of its attachment: length in bytes, and SHA-256."""

    length: int
    sha256: bytes

    @classmethod
    def of(cls, body: Body) -> Attached:
        """Of the field of `body` that travels as its attachment."""
        attachment: bytes = getattr(body, body.attached) if body.attached else b""
        return cls(len(attachment), hashlib.sha256(attachment).digest())


def seal(header: Header, body: Body, key: SigningKey, attached: Attached | None = None) -> bytes:
    """The signed frame of one message.

    `attached`: known already, so that it is not computed again; where the body lacks its attachment
    by now, what comes of it is the frame's statement.
    """
    fields = body.model_dump()
    attachment = fields.pop(body.attached) if body.attached else b""
    attached = attached or Attached.of(body)
    envelope = Envelope(
        **header.model_dump(),
        type=body.kind,
        body=fields,
        attached_bytes=attached.length,
        attached_sha256=attached.sha256,
    )
    head = canonical(envelope.model_dump())
    return key.sign(_DOMAIN + head) + _LENGTH.pack(len(head)) + head + attachment


def read(frame: bytes, sender_public: bytes, *types: type[Body]) -> Received:
    """Verify, then parse, a frame of one of `types`.

    Raises SignatureError, or ProtocolError; nothing is parsed unverified, and nothing longer than
    its type allows (`Body.max_head`, `Body.max_attachment`).
    """
    head, attachment = _split(frame, types)
    decoded = _verified(frame, head, sender_public)
    received = _parsed(frame, head, decoded, attachment, types)
    if len(attachment) != received.envelope.attached_bytes:
        raise ProtocolError("a frame's attachment does not have the length that its head names")
    if hashlib.sha256(attachment).digest() != received.envelope.attached_sha256:
        raise ProtocolError("a frame's attachment is not the one that its head names")
    return received


def read_statement(statement: bytes, sender_public: bytes, *types: type[Body]) -> Received:
    """Verify, then parse, a frame that was relayed without its attachment. Raises as `read`."""
    head, attachment = _split(statement, types)
    if attachment:
        raise ProtocolError("a relayed statement carries an attachment")
    return _parsed(statement, head, _verified(statement, head, sender_public), b"", types)


def statement_of(frame: bytes) -> bytes:
    """The frame without its attachment. ProtocolError if it is too short to be one."""
    if len(frame) < _HEAD_AT:
        raise ProtocolError("a frame's length is outside the protocol's bounds")
    (length,) = _LENGTH.unpack_from(frame, SIGNATURE_BYTES)
    return frame[: _HEAD_AT + length]


def body_of(received: Received, expected: type[BodyT]) -> BodyT:
    """The body as `expected`. Raises ProtocolError if it is of another type."""
    if type(received.body) is not expected:
        raise ProtocolError(f"a message of type {expected.kind} was expected here")
    return received.body


def extend_transcript(transcript: bytes, digest: bytes) -> bytes:
    """The transcript hash after one more frame; a conversation's begins as EMPTY_TRANSCRIPT."""
    return hashlib.sha256(transcript + digest).digest()


def frame_digest(frame: bytes) -> bytes:
    """What a transcript takes of a frame: SHA-256 of all but the attachment, which that names."""
    return hashlib.sha256(statement_of(frame)).digest()


def _split(frame: bytes, types: tuple[type[Body], ...]) -> tuple[bytes, bytes]:
    longest_head = max(one.max_head for one in types)
    longest = _HEAD_AT + max(one.max_head + one.max_attachment for one in types)
    if not _HEAD_AT < len(frame) <= longest:
        raise ProtocolError("a frame's length is outside the protocol's bounds")
    (length,) = _LENGTH.unpack_from(frame, SIGNATURE_BYTES)
    if not 0 < length <= min(longest_head, len(frame) - _HEAD_AT):
        raise ProtocolError("a frame's head has a length outside the protocol's bounds")
    return frame[_HEAD_AT : _HEAD_AT + length], frame[_HEAD_AT + length :]


def _verified(frame: bytes, head: bytes, sender_public: bytes) -> Any:
    verify(sender_public, frame[:SIGNATURE_BYTES], _DOMAIN + head)
    try:
        return cbor2.loads(
            head,
            max_depth=_MAX_DEPTH,
            allow_indefinite=False,
            allow_duplicate_keys=False,
            strict_hashable_types=True,
            semantic_decoders=_NO_TAGS,
            tag_hook=_refuse_tag,
        )
    except (cbor2.CBORDecodeError, ValueError) as error:
        raise ProtocolError("a frame does not hold a message of this protocol") from error


def _parsed(
    frame: bytes, head: bytes, decoded: Any, attachment: bytes, types: tuple[type[Body], ...]
) -> Received:
    """The models first: what they accept is shallow, so that encoding it again is cheap."""
    try:
        envelope = Envelope.model_validate(decoded)
    except ValidationError as error:
        raise ProtocolError("a frame does not hold a message of this protocol") from error
    if envelope.version != VERSION:
        raise ProtocolError(f"this software speaks protocol version {VERSION} only")
    kind = next((one for one in types if one.kind == envelope.type), None)
    if kind is None:
        raise ProtocolError("a message of another type was expected here")
    if len(head) > kind.max_head or envelope.attached_bytes > kind.max_attachment:
        raise ProtocolError(f"a {kind.kind} message is longer than the protocol allows")
    body = _body(kind, envelope.body, attachment)
    if canonical(decoded) != head:
        raise ProtocolError("a frame is not in canonical form")
    return Received(envelope, body, _digest(frame, head))


def _refuse_tag(*_: Any) -> Any:
    """No message has a tag; some of CBOR's make seconds of work of a few bytes."""
    raise ValueError("a tag")


# Those that cbor2 would decode by itself; it asks `tag_hook` about all others.
_BUILT_IN = (*range(6), 25, 28, 29, 30, 35, 36, 37, 52, 54, 100, 256, 258, 260, 261, 1004)
_NO_TAGS = dict.fromkeys((*_BUILT_IN, 43000, 55799), _refuse_tag)


def _digest(frame: bytes, head: bytes) -> bytes:
    return hashlib.sha256(frame[: _HEAD_AT + len(head)]).digest()


def _body(kind: type[Body], sent: Mapping[str, Any], attachment: bytes) -> Body:
    # CBOR arrays come back as lists; strict models want tuples.
    fields = {name: tuple(one) if isinstance(one, list) else one for name, one in sent.items()}
    try:
        if kind.attached:
            if kind.attached in fields:
                raise ProtocolError(f"the body of a {kind.kind} message is malformed")
            fields[kind.attached] = attachment
        return kind.model_validate(fields)
    except ValidationError as error:
        raise ProtocolError(f"the body of a {kind.kind} message is malformed") from error
