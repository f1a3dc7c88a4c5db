"""Block cipher, CMAC and AEAD over one 128-bit cipher: the same constructions serve both suites."""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import BlockCipherAlgorithm, Cipher, modes
from cryptography.hazmat.primitives.cmac import CMAC

from schemas.errors import BadSignature

TAG_BYTES = 16


class BlockCipher:
    """The symmetric half of a suite, over `algorithm` (SM4 or AES) with 16-byte keys."""

    def __init__(self, algorithm: type[BlockCipherAlgorithm]) -> None:
        self._algorithm = algorithm

    def encrypt_block(self, key: bytes, block: bytes) -> bytes:
        """ECB of exactly one block."""
        encryptor = Cipher(self._keyed(key), modes.ECB()).encryptor()  # noqa: S305 one block
        return encryptor.update(_one_block(block)) + encryptor.finalize()

    def encrypt_cbc(self, key: bytes, iv: bytes, data: bytes) -> bytes:
        """CBC of whole blocks, no padding."""
        encryptor = Cipher(self._keyed(key), modes.CBC(iv)).encryptor()
        return encryptor.update(data) + encryptor.finalize()

    def decrypt_cbc(self, key: bytes, iv: bytes, data: bytes) -> bytes:
        """The inverse of `encrypt_cbc`."""
        decryptor = Cipher(self._keyed(key), modes.CBC(iv)).decryptor()
        return decryptor.update(data) + decryptor.finalize()

    def cmac(self, key: bytes, data: bytes) -> bytes:
        """NIST SP 800-38B, full 16 bytes."""
        mac = CMAC(self._keyed(key))
        mac.update(data)
        return mac.finalize()

    def seal(self, key: bytes, nonce: bytes, plaintext: bytes, context: bytes) -> bytes:
        """GCM: ciphertext || tag."""
        encryptor = Cipher(self._keyed(key), modes.GCM(nonce)).encryptor()
        encryptor.authenticate_additional_data(context)
        return encryptor.update(plaintext) + encryptor.finalize() + encryptor.tag

    def unseal(self, key: bytes, nonce: bytes, sealed: bytes, context: bytes) -> bytes:
        """The plaintext, or BadSignature."""
        if len(sealed) < TAG_BYTES:
            raise BadSignature("sealed data is shorter than its tag")
        body, tag = sealed[:-TAG_BYTES], sealed[-TAG_BYTES:]
        decryptor = Cipher(self._keyed(key), modes.GCM(nonce, tag)).decryptor()
        decryptor.authenticate_additional_data(context)
        try:
            return decryptor.update(body) + decryptor.finalize()
        except InvalidTag:
            raise BadSignature("sealed data was changed, or the key is another") from None

    def _keyed(self, key: bytes) -> BlockCipherAlgorithm:
        if len(key) != 16:
            raise ValueError(f"a block cipher key is 16 bytes, not {len(key)}")
        return self._algorithm(key)  # type: ignore[call-arg]  # each subclass takes the key


def _one_block(block: bytes) -> bytes:
    if len(block) != 16:
        raise ValueError(f"a block is 16 bytes, not {len(block)}")
    return block
