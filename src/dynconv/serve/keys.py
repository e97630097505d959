"""The keys that clients may send. Only their SHA-256 digests are kept, and only digests are compared."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping

from dynconv.errors import DynconvError

KEY_VARIABLE = "DYNCONV_API_KEY"
DIGESTS_VARIABLE = "DYNCONV_API_KEY_SHA256"


class Keys:
    """The digests of the keys; no digests: every client is admitted.

    A digest needs no salt and no slow hash as long as the key is random, such as 32 random bytes: nobody can guess it.
    """

    def __init__(self, *digests: bytes) -> None:
        self._digests = digests

    @classmethod
    def of(cls, key: str) -> Keys:
        """The one key `key`."""
        return cls(hashlib.sha256(key.encode()).digest())

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Keys:
        """The key in DYNCONV_API_KEY, or those whose digests DYNCONV_API_KEY_SHA256 lists, or none.

        Raises:
            DynconvError: both are set, the key cannot be sent in a header, or a digest is none.
        """
        key, listed = environment.get(KEY_VARIABLE), environment.get(DIGESTS_VARIABLE)
        if key and listed:
            raise DynconvError(f"set {KEY_VARIABLE} or {DIGESTS_VARIABLE}, not both")
        if listed:
            digests = [one.strip() for one in listed.split(",")]
            if not all(re.fullmatch("[0-9a-fA-F]{64}", one) for one in digests):
                raise DynconvError(
                    f"{DIGESTS_VARIABLE}: must be SHA-256 digests of 64 hexadecimal digits, separated by commas; "
                    "printf %s KEY | sha256sum prints one"
                )
            return cls(*map(bytes.fromhex, digests))
        if not key:
            return cls()
        if not (key.isascii() and key.isprintable() and " " not in key):
            raise DynconvError(f"{KEY_VARIABLE}: must consist of ASCII letters, digits and punctuation, without spaces")
        return cls.of(key)

    def __bool__(self) -> bool:
        return bool(self._digests)

    def admit(self, given: str) -> bool:
        """Whether `given` is one of the keys. Takes the same time for all wrong ones."""
        found = hashlib.sha256(given.encode()).digest()
        return any(hmac.compare_digest(found, one) for one in self._digests)
