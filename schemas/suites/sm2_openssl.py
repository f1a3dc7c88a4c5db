"""SM2 by the system's OpenSSL 3 (libcrypto), the fastest provider; calls release the GIL.

Only documented, stable functions are used: keys travel as DER, signatures as DER, and the digest
`e` is handed in ready-made (man EVP_PKEY_sign: "SM2 ... the digest").
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, byref, c_char_p, c_int, c_long, c_size_t, c_ulong, c_void_p

from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)

from schemas.errors import MalformedKey

SPKI_PREFIX = bytes.fromhex("3059301306072a8648ce3d020106082a811ccf5501822d034200")
# RFC 5915 ECPrivateKey { version 1, privateKey, [0] sm2p256v1 }, wrapped around the 32-byte scalar
_SEC1_HEAD = bytes.fromhex("30310201010420")
_SEC1_TAIL = bytes.fromhex("a00a06082a811ccf5501822d")
_SIGNATURE_SPACE = 80
_SPKI_BYTES = len(SPKI_PREFIX) + 65
# Only names that carry the ABI: searching for any `libcrypto` would start a compiler on Linux, and
# loading the unversioned one ends the process on macOS.
_LIBRARIES = ("libcrypto.so.3", "libcrypto.so.4", "libcrypto.3.dylib", "libcrypto-3-x64.dll")

_SIGNATURES: dict[str, tuple[object, list[object]]] = {
    "OpenSSL_version_num": (c_ulong, []),
    "ERR_clear_error": (None, []),
    "d2i_PUBKEY": (c_void_p, [c_void_p, POINTER(c_char_p), c_long]),
    "d2i_AutoPrivateKey": (c_void_p, [c_void_p, POINTER(c_char_p), c_long]),
    "i2d_PUBKEY": (c_int, [c_void_p, POINTER(c_char_p)]),
    "EVP_PKEY_free": (None, [c_void_p]),
    "EVP_PKEY_CTX_new": (c_void_p, [c_void_p, c_void_p]),
    "EVP_PKEY_CTX_free": (None, [c_void_p]),
    "EVP_PKEY_sign_init": (c_int, [c_void_p]),
    "EVP_PKEY_sign": (c_int, [c_void_p, c_char_p, POINTER(c_size_t), c_char_p, c_size_t]),
    "EVP_PKEY_verify_init": (c_int, [c_void_p]),
    "EVP_PKEY_verify": (c_int, [c_void_p, c_char_p, c_size_t, c_char_p, c_size_t]),
}


class _Key:
    """An EVP_PKEY that is freed with its Python object."""

    def __init__(self, lib: ctypes.CDLL, pointer: int | None, what: str) -> None:
        if not pointer:
            lib.ERR_clear_error()
            raise MalformedKey(f"OpenSSL refuses the SM2 {what} key")
        self.lib, self.pointer = lib, c_void_p(pointer)

    def __del__(self) -> None:
        if hasattr(self, "pointer"):
            self.lib.EVP_PKEY_free(self.pointer)

    def context(self) -> c_void_p:
        """A new EVP_PKEY_CTX: one an operation, so threads never share one."""
        context = self.lib.EVP_PKEY_CTX_new(self.pointer, None)
        if not context:
            raise MemoryError("EVP_PKEY_CTX_new failed")
        return c_void_p(context)


class OpensslSigner:
    """A private key in libcrypto; the nonce is drawn there (RAND_priv_bytes)."""

    def __init__(self, key: _Key) -> None:
        self._key = key

    def sign(self, e: bytes) -> tuple[int, int]:
        """(r, s) over `e`."""
        lib, context = self._key.lib, self._key.context()
        out = ctypes.create_string_buffer(_SIGNATURE_SPACE)
        length = c_size_t(_SIGNATURE_SPACE)
        try:
            ok = lib.EVP_PKEY_sign_init(context) == 1 and (
                lib.EVP_PKEY_sign(context, out, byref(length), e, len(e)) == 1
            )
        finally:
            lib.EVP_PKEY_CTX_free(context)
        if not ok:
            lib.ERR_clear_error()
            raise RuntimeError("OpenSSL could not make an SM2 signature")
        return decode_dss_signature(out.raw[: length.value])


class OpensslVerifier:
    """A public key in libcrypto."""

    def __init__(self, key: _Key) -> None:
        self._key = key

    def verify(self, e: bytes, r: int, s: int) -> bool:
        """Whether (r, s) is over `e`."""
        lib, context = self._key.lib, self._key.context()
        signature = encode_dss_signature(r, s)
        try:
            ok: bool = lib.EVP_PKEY_verify_init(context) == 1 and (
                lib.EVP_PKEY_verify(context, signature, len(signature), e, len(e)) == 1
            )
        finally:
            lib.EVP_PKEY_CTX_free(context)
        if not ok:
            lib.ERR_clear_error()  # a refused signature leaves an entry in the thread's queue
        return ok


class OpensslProvider:
    """Sm2Provider over one loaded libcrypto."""

    name = "openssl"

    def __init__(self, lib: ctypes.CDLL) -> None:
        self._lib = lib

    def public_point(self, scalar: bytes) -> bytes:
        """The last 65 bytes of the key's SubjectPublicKeyInfo."""
        key = self._private(scalar)
        out = ctypes.create_string_buffer(_SPKI_BYTES)
        if self._lib.i2d_PUBKEY(key.pointer, None) == _SPKI_BYTES:  # it writes unbounded: ask first
            self._lib.i2d_PUBKEY(key.pointer, byref(c_char_p(ctypes.addressof(out))))
        if not out.raw.startswith(SPKI_PREFIX):
            self._lib.ERR_clear_error()
            raise MalformedKey("OpenSSL gives no public key for the SM2 private key")
        return out.raw[len(SPKI_PREFIX) :]

    def signer(self, scalar: bytes) -> OpensslSigner:
        """A signer for the 32-byte scalar."""
        return OpensslSigner(self._private(scalar))

    def verifier(self, point: bytes) -> OpensslVerifier:
        """A verifier for the 65-byte point."""
        der = SPKI_PREFIX + point
        pointer = self._lib.d2i_PUBKEY(None, byref(c_char_p(der)), len(der))
        return OpensslVerifier(_Key(self._lib, pointer, "public"))

    def _private(self, scalar: bytes) -> _Key:
        der = _SEC1_HEAD + scalar + _SEC1_TAIL
        pointer = self._lib.d2i_AutoPrivateKey(None, byref(c_char_p(der)), len(der))
        return _Key(self._lib, pointer, "private")


def load() -> OpensslProvider | None:
    """The provider, or None where no OpenSSL 3 with working SM2 is to be had."""
    for name in _LIBRARIES:
        try:
            lib = ctypes.CDLL(name)
            for function, (result, arguments) in _SIGNATURES.items():
                f = getattr(lib, function)
                f.restype, f.argtypes = result, arguments
        except (OSError, AttributeError):
            continue
        if lib.OpenSSL_version_num() >= 0x30000000:
            provider = OpensslProvider(lib)
            if _works(provider):
                return provider
    return None


def _works(provider: OpensslProvider) -> bool:
    """Whether this library signs and verifies with SM2: some builds or policies leave it out."""
    scalar, e = (1).to_bytes(32), bytes(32)
    try:
        verifier = provider.verifier(provider.public_point(scalar))
        r, s = provider.signer(scalar).sign(e)
    except (MalformedKey, RuntimeError):
        return False
    return verifier.verify(e, r, s) and not verifier.verify(b"\x01" + e[1:], r, s)
