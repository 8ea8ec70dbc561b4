"""Everything that can go wrong: whose fault it is, and what to do about it.

Decided here: every error that may leave any part of relay. Never here: HTTP, sockets, retries.

Rule 1: an error says which *side* it is on, whether a retry makes sense, and what to do (law 2).
Rule 2: no `RelayError` derives from `OSError` or from a foreign library's error. A reset that a
peer causes while our upload reads from its source would otherwise look like a broken upload, and
blame the wrong side.
Rule 3: an error holds no secret. Locations print themselves redacted, so put a Location in the
text, never a URL.

The tree; each is in the file that is named behind its root:

    RelayError                 root.py
    ├─ ConfigError             start-up only
    ├─ RequestError            request.py: the caller's mistake, found before anything was dialled
    │  ├─ MalformedRequest  DuplicateMember  JsonTooDeep  UnsupportedMediaType
    │  ├─ RequestTooLarge  RequestTimeout
    │  ├─ Unauthorized  Forbidden  KeyReused
    │  ├─ UnknownMember  MissingMember  InvalidType  InvalidHeader  ForbiddenHeader
    │  ├─ InvalidFilter
    │  ├─ InvalidURL  UnsupportedScheme  CredentialsInURL  URLTooLong  NamesUnknown
    │  ├─ UnsafeKey (KeyTooLong, ReservedKey)
    │  └─ SameObject  VerificationUnavailable  Unsupported
    ├─ EgressDenied (LocalDenied, PortDenied)    request.py: the policy said no
    ├─ Overloaded (TooManyFiles, TooManyStreams) own.py: no slot, no file, or the server is draining
    ├─ LedgerFailed (LedgerBusy  LedgerRefused)  MigrationUnknown  IllegalTransition  LeaseLost
    ├─ FeedGone               own.py: the feed of a standing migration
    ├─ PlanUnknown             own.py
    ├─ TokenUnknown  TokenExists  TooManyRequests    own.py: tokens, and their limits
    ├─ ServerUnreachable  NotRelay  ServerRefused    the terminal's own, of a server
    ├─ OutputFailed            the terminal's own
    ├─ ReportRefused           own.py: a signed report
    ├─ InventoryRefused        own.py: a file with a list of objects
    ├─ PlanRefused             own.py: a saved plan
    ├─ SpillFailed             own.py: a listing that is sorted
    ├─ StoreError              stores.py: what a store said, or how its connection failed
    │  ├─ NotFound (UploadGone)  AlreadyExists  PreconditionFailed
    │  ├─ Unauthenticated (CredentialsWithdrawn)  PermissionDenied
    │  ├─ Rejected (StoreFull, KeyCollision)  MetadataUnkept  RangeIgnored
    │  ├─ LengthRequired  RedirectRefused  TooManyRedirects
    │  ├─ Throttled  Unavailable (Locked)
    │  ├─ ConnectFailed  ConnectionLost  CertificateRefused  HostKeyRefused
    │  ├─ StoreTimeout (Stalled)
    │  └─ ProtocolViolation  PrematureResponse
    └─ TransferError           transfers.py: the bytes
       ├─ SourceTruncated  SourceOverrun  SourceChanged  SourceUnstable
       ├─ SourceDigestWrong  IntegrityMismatch  PlanStale
       └─ DestinationChanged  DestinationLost  DestinationMutates  Cancelled
"""

from __future__ import annotations

from relay.errors.own import (
    FeedGone,
    IllegalTransition,
    InventoryRefused,
    LeaseLost,
    LedgerBusy,
    LedgerFailed,
    LedgerRefused,
    MigrationUnknown,
    NotRelay,
    OutputFailed,
    Overloaded,
    PlanRefused,
    PlanUnknown,
    ReportRefused,
    ServerRefused,
    ServerUnreachable,
    SpillFailed,
    TokenExists,
    TokenUnknown,
    TooManyFiles,
    TooManyRequests,
    TooManyStreams,
)
from relay.errors.request import (
    CredentialsInURL,
    DuplicateMember,
    EgressDenied,
    Forbidden,
    ForbiddenHeader,
    InvalidFilter,
    InvalidHeader,
    InvalidType,
    InvalidURL,
    JsonTooDeep,
    KeyReused,
    KeyTooLong,
    LocalDenied,
    MalformedRequest,
    MissingMember,
    NamesUnknown,
    PortDenied,
    RequestError,
    RequestTimeout,
    RequestTooLarge,
    ReservedKey,
    SameObject,
    Unauthorized,
    UnknownMember,
    UnsafeKey,
    Unsupported,
    UnsupportedMediaType,
    UnsupportedScheme,
    URLTooLong,
    VerificationUnavailable,
)
from relay.errors.root import (
    ConfigError,
    Leftover,
    RelayError,
    Side,
    is_whole,
    remaining,
)
from relay.errors.stores import (
    AlreadyExists,
    CertificateRefused,
    ConnectFailed,
    ConnectionLost,
    CredentialsWithdrawn,
    HostKeyRefused,
    KeyCollision,
    LengthRequired,
    Locked,
    MetadataUnkept,
    NotFound,
    PermissionDenied,
    PreconditionFailed,
    PrematureResponse,
    ProtocolViolation,
    RangeIgnored,
    RedirectRefused,
    Rejected,
    Stalled,
    StoreError,
    StoreFull,
    StoreTimeout,
    Throttled,
    TooManyRedirects,
    Unauthenticated,
    Unavailable,
    UploadGone,
)
from relay.errors.transfers import (
    Cancelled,
    DestinationChanged,
    DestinationLost,
    DestinationMutates,
    IntegrityMismatch,
    PlanStale,
    SourceChanged,
    SourceDigestWrong,
    SourceOverrun,
    SourceTruncated,
    SourceUnstable,
    TransferError,
)

__all__ = [
    "FeedGone",
    "AlreadyExists",
    "Cancelled",
    "CertificateRefused",
    "ConfigError",
    "ConnectFailed",
    "ConnectionLost",
    "CredentialsInURL",
    "CredentialsWithdrawn",
    "DestinationChanged",
    "DestinationLost",
    "DestinationMutates",
    "DuplicateMember",
    "EgressDenied",
    "Forbidden",
    "ForbiddenHeader",
    "HostKeyRefused",
    "IllegalTransition",
    "InventoryRefused",
    "IntegrityMismatch",
    "InvalidFilter",
    "InvalidHeader",
    "InvalidType",
    "InvalidURL",
    "JsonTooDeep",
    "KeyCollision",
    "KeyReused",
    "KeyTooLong",
    "LeaseLost",
    "LedgerBusy",
    "LedgerFailed",
    "LedgerRefused",
    "Leftover",
    "LengthRequired",
    "LocalDenied",
    "Locked",
    "MalformedRequest",
    "MetadataUnkept",
    "MigrationUnknown",
    "MissingMember",
    "NamesUnknown",
    "NotFound",
    "NotRelay",
    "OutputFailed",
    "Overloaded",
    "PermissionDenied",
    "PlanRefused",
    "PlanStale",
    "PlanUnknown",
    "PortDenied",
    "PreconditionFailed",
    "PrematureResponse",
    "ProtocolViolation",
    "RangeIgnored",
    "RedirectRefused",
    "Rejected",
    "RelayError",
    "ReportRefused",
    "RequestError",
    "RequestTimeout",
    "RequestTooLarge",
    "ReservedKey",
    "SameObject",
    "ServerRefused",
    "ServerUnreachable",
    "Side",
    "SourceChanged",
    "SourceDigestWrong",
    "SourceOverrun",
    "SourceTruncated",
    "SourceUnstable",
    "SpillFailed",
    "Stalled",
    "StoreError",
    "StoreFull",
    "StoreTimeout",
    "Throttled",
    "TokenExists",
    "TokenUnknown",
    "TooManyFiles",
    "TooManyStreams",
    "TooManyRedirects",
    "TooManyRequests",
    "TransferError",
    "URLTooLong",
    "Unauthenticated",
    "Unauthorized",
    "Unavailable",
    "UnknownMember",
    "UnsafeKey",
    "Unsupported",
    "UnsupportedMediaType",
    "UnsupportedScheme",
    "UploadGone",
    "VerificationUnavailable",
    "is_whole",
    "remaining",
]
