"""The published vectors, on every provider, and what a suite promises its callers."""

from __future__ import annotations

import ctypes
import hashlib
import secrets
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from schemas.errors import BadSignature, MalformedKey
from schemas.suites import GM, INTL, keyid, sm2_gmssl, sm2_openssl, spki, suite
from schemas.suites.gm import best_provider
from schemas.suites.sm2 import ORDER, sm3, z_value
from schemas.suites.sm2_gmssl import GmsslSigner
from tests.schema_cast import CURVES, GMSSL, OPENSSL, P256, SUITES, key_of, vectors

h = bytes.fromhex
EACH_CURVE = pytest.mark.parametrize("curve", CURVES, ids=lambda c: c.label)
EACH_SM2 = pytest.mark.parametrize("curve", [OPENSSL, GMSSL], ids=lambda c: c.label)
EACH_SUITE = pytest.mark.parametrize("s", SUITES, ids=lambda s: s.name)


def test_sm3_gives_the_standard_digest():
    for vector in vectors("gm")["sm3"]:
        assert GM.digest(vector["message_ascii"].encode()).hex() == vector["digest"]


def test_sm4_enciphers_the_standard_block():
    for v in vectors("gm")["sm4_block"]:
        assert GM.encrypt_block(h(v["key"]), h(v["plaintext"])).hex() == v["ciphertext"]


def test_sm4_enciphers_the_standard_block_a_million_times():
    v = vectors("gm")["sm4_million"]
    # CBC over zeros with the block as its iv enciphers the block again and again
    chained = GM.encrypt_cbc(h(v["key"]), h(v["plaintext"]), bytes(16 * v["rounds"]))
    assert chained[-16:].hex() == v["ciphertext"]


def test_sm4_gcm_gives_the_rfc_8998_ciphertext_and_takes_it_back():
    for v in vectors("gm")["sm4_gcm"]:
        key, nonce, context = h(v["key"]), h(v["iv"]), h(v["aad"])
        sealed = GM.seal(key, nonce, h(v["plaintext"]), context)
        assert sealed.hex() == v["ciphertext"] + v["tag"]
        assert GM.unseal(key, nonce, sealed, context).hex() == v["plaintext"]


def test_aes_cmac_gives_the_rfc_4493_macs():
    for v in vectors("intl")["aes_cmac"]:
        assert INTL.cmac(h(v["key"]), h(v["message"])).hex() == v["mac"]


def test_an10922_gives_the_key_of_the_application_note():
    for v in vectors("intl")["an10922_aes128"]:
        diversification_input = h(v["diversification_input"])[1:]
        assert diversification_input == h(v["uid"] + v["application_id"]) + b"NXP Abu"
        key = INTL.an10922(h(v["master_key"]), diversification_input)
        assert key.hex() == v["diversified_key"]


@EACH_SM2
def test_sm2_verifies_the_standard_signature(curve):
    for v in vectors("gm")["sm2_sign"]:
        key = curve.suite.private_key(h(v["private_key"]))
        assert key.public.point.hex() == v["public_key"]
        e = sm3(
            z_value(key.public.point, v["user_id_ascii"].encode()) + v["message_ascii"].encode()
        )
        verifier = curve.suite.provider.verifier(key.public.point)
        assert verifier.verify(e, int(v["r"], 16), int(v["s"], 16))


def test_sm2_by_gmssl_makes_the_standard_signature_from_the_standard_nonce():
    for v in vectors("gm")["sm2_sign"]:
        e = sm3(z_value(h(v["public_key"])) + v["message_ascii"].encode())
        signer = GmsslSigner(h(v["private_key"]), lambda v=v: int(v["k"], 16))
        assert signer.sign(e) == (int(v["r"], 16), int(v["s"], 16))


def test_what_one_sm2_provider_signs_the_other_verifies():
    for _ in range(8):
        ours = OPENSSL.suite.generate(secrets.token_bytes)
        theirs = GMSSL.suite.private_key(ours.scalar)
        assert ours.public.point == theirs.public.point
        theirs.public.verify(b"by openssl", ours.sign(b"by openssl"))
        ours.public.verify(b"by gmssl", theirs.sign(b"by gmssl"))


@pytest.mark.parametrize("scalar", [1, 2, 3, ORDER - 3, ORDER - 2])
def test_the_smallest_and_largest_sm2_keys_work_on_both_providers(scalar):
    ours = OPENSSL.suite.private_key(scalar.to_bytes(32))
    theirs = GMSSL.suite.private_key(scalar.to_bytes(32))
    assert ours.public.point == theirs.public.point
    theirs.public.verify(b"m", ours.sign(b"m"))
    ours.public.verify(b"m", theirs.sign(b"m"))


def test_gmssl_verifies_by_a_key_whose_x_begins_with_04():
    scalar = next(
        n for n in range(1, 10_000) if OPENSSL.suite.provider.public_point(n.to_bytes(32))[1] == 4
    ).to_bytes(32)
    key = OPENSSL.suite.private_key(scalar)
    GMSSL.suite.public_key(key.public.point).verify(b"m", key.sign(b"m"))


@EACH_SM2
def test_an_sm2_signature_whose_two_points_are_equal_holds(curve):
    d, s = 0x1234567, 0x89ABCDEF
    point = OPENSSL.suite.provider.public_point(d.to_bytes(32))
    r = (s * pow(d, -1, ORDER) - s) % ORDER  # so that t * P = s * G
    x = int.from_bytes(OPENSSL.suite.provider.public_point((2 * s).to_bytes(32))[1:33])
    e = ((r - x) % ORDER).to_bytes(32)
    verifier = curve.suite.provider.verifier(point)
    assert verifier.verify(e, r, s)
    assert not verifier.verify(bytes(32), r, s)


@EACH_SM2
def test_an_sm2_signature_whose_points_add_up_to_infinity_is_refused(curve):
    d, r = 0x1234567, 0x89ABCDEF
    point = OPENSSL.suite.provider.public_point(d.to_bytes(32))
    s = -r * d * pow(1 + d, -1, ORDER) % ORDER  # so that t * P = -s * G
    assert not curve.suite.provider.verifier(point).verify(r.to_bytes(32), r, s)


@EACH_SM2
def test_an_sm2_signature_with_r_plus_s_equal_to_n_is_refused(curve):
    d, s = 0x1234567, 0x89ABCDEF
    provider = OPENSSL.suite.provider
    r = ORDER - s
    # chosen so that a verifier that takes 0 * P for P (as gmssl's does) or for nothing would hold
    for sum_scalar in (s + d, s):
        x = int.from_bytes(provider.public_point(sum_scalar.to_bytes(32))[1:33])
        e = ((r - x) % ORDER).to_bytes(32)
        assert not curve.suite.provider.verifier(provider.public_point(d.to_bytes(32))).verify(
            e, r, s
        )


def test_a_private_key_of_zero_is_refused_by_openssl_itself():
    with pytest.raises(MalformedKey):
        OPENSSL.suite.provider.public_point(bytes(32))


def test_a_point_off_the_curve_is_refused_by_openssl_itself():
    with pytest.raises(MalformedKey):
        OPENSSL.suite.provider.verifier(b"\x04" + bytes(64))


def test_gmssl_never_draws_from_its_own_random_source(monkeypatch):
    def explode(_length):
        raise AssertionError("gmssl drew a number by itself")

    monkeypatch.setattr("gmssl.func.random_hex", explode)
    monkeypatch.setattr("random.choice", explode)
    key = GMSSL.suite.generate(secrets.token_bytes)
    key.public.verify(b"m", key.sign(b"m"))


def test_gmssl_nonces_come_from_secrets_and_fill_the_whole_range(monkeypatch):
    bounds = []
    monkeypatch.setattr(sm2_gmssl.secrets, "randbelow", lambda n: bounds.append(n) or 41)
    assert sm2_gmssl._secret_nonce() == 42
    assert bounds == [ORDER - 1]


@EACH_CURVE
def test_two_signatures_over_the_same_bytes_share_no_nonce(curve):
    key = key_of(curve.suite, "agent")
    r_values = {decode_dss_signature(key.sign(b"m"))[0] for _ in range(5)}
    assert len(r_values) == 5


def test_gmssl_draws_again_where_a_nonce_gives_no_signature():
    k = 5
    x = int.from_bytes(OPENSSL.suite.provider.public_point(k.to_bytes(32))[1:33])
    e = (-x % ORDER).to_bytes(32)  # r would be 0
    nonces = iter([k, 7])
    r, s = GmsslSigner((9).to_bytes(32), lambda: next(nonces)).sign(e)
    assert next(nonces, None) is None
    assert GMSSL.suite.provider.verifier(
        OPENSSL.suite.provider.public_point((9).to_bytes(32))
    ).verify(e, r, s)


@EACH_CURVE
def test_a_generated_key_is_drawn_again_until_it_is_in_range(curve):
    draws = iter([bytes(32), curve.order.to_bytes(32), b"\xff" * 32, (5).to_bytes(32)])
    assert curve.suite.generate(lambda _n: next(draws)).scalar == (5).to_bytes(32)


@EACH_SUITE
def test_a_keyid_is_the_digest_of_the_key_as_x509_knows_it(s):
    public = key_of(s, "agent").public
    name = "sha256" if s.name == "intl" else "sm3"
    assert keyid(public) == hashlib.new(name, spki(public)).hexdigest()


@EACH_CURVE
def test_no_secret_shows_in_what_a_key_prints(curve):
    key = key_of(curve.suite, "agent")
    assert key.scalar.hex() not in repr(key)
    assert repr(key.scalar)[2:-1] not in repr(key)


def test_a_signature_of_one_suite_is_refused_by_the_other():
    gm, intl = key_of(OPENSSL.suite, "agent"), key_of(INTL, "agent")
    for signer, verifier in ((gm, intl), (intl, gm)):
        with pytest.raises(BadSignature):
            verifier.public.verify(b"m", signer.sign(b"m"))


@EACH_SUITE
def test_sealed_data_opens_only_unchanged_and_in_its_context(s):
    key, nonce = bytes(range(16)), bytes(12)
    sealed = s.seal(key, nonce, b"secret", b"for the door")
    assert s.unseal(key, nonce, sealed, b"for the door") == b"secret"
    for place in range(len(sealed)):
        changed = bytearray(sealed)
        changed[place] ^= 1
        with pytest.raises(BadSignature):
            s.unseal(key, nonce, bytes(changed), b"for the door")
    for arguments in (
        (bytes(16), nonce, sealed, b"for the door"),
        (key, b"\x01" * 12, sealed, b"for the door"),
        (key, nonce, sealed, b"for the gate"),
        (key, nonce, sealed[:15], b"for the door"),
        (key, nonce, b"", b"for the door"),
    ):
        with pytest.raises(BadSignature):
            s.unseal(*arguments)


@EACH_SUITE
def test_cards_of_one_domain_have_keys_of_their_own(s):
    key = bytes(range(16))
    keys = {s.diversify(key, n.to_bytes(8)) for n in range(100)}
    assert len(keys) == 100
    assert {len(k) for k in keys} == {16}
    for wrong in (b"", bytes(7), bytes(9)):
        with pytest.raises(ValueError, match="8 bytes"):
            s.diversify(key, wrong)


def test_gm_diversifies_as_psam_chips_do():
    key, card = bytes(range(16)), h("0102030405060708")
    assert GM.diversify(key, card) == GM.encrypt_block(key, h("0102030405060708fefdfcfbfaf9f8f7"))


@EACH_SUITE
@pytest.mark.parametrize("length", [0, 15, 17, 24, 32])
def test_a_cipher_key_of_another_length_is_refused(s, length):
    with pytest.raises(ValueError, match="16 bytes"):
        s.cmac(bytes(length), b"")


@EACH_SUITE
@pytest.mark.parametrize("length", [0, 15, 17, 32])
def test_a_block_of_another_length_is_refused(s, length):
    with pytest.raises(ValueError, match="16 bytes"):
        s.encrypt_block(bytes(16), bytes(length))


@EACH_SUITE
def test_cbc_gives_back_what_it_enciphered(s):
    key, iv, data = bytes(range(16)), b"\x07" * 16, bytes(range(64))
    assert s.decrypt_cbc(key, iv, s.encrypt_cbc(key, iv, data)) == data


@pytest.mark.parametrize("length", [0, 15, 32])
def test_an10922_refuses_inputs_where_plain_cmac_would_differ(length):
    with pytest.raises(ValueError, match="16 to 31"):
        INTL.an10922(bytes(16), bytes(length))


def test_a_suite_is_found_by_its_name():
    assert suite("gm") is GM
    assert suite("intl") is INTL is P256.suite


def test_openssl_is_the_provider_where_it_works():
    assert best_provider().name == "openssl"


def test_gmssl_is_the_provider_where_no_library_is_found(monkeypatch):
    monkeypatch.setattr(sm2_openssl, "_LIBRARIES", ("libcrypto-that-is-not-there.so",))
    assert sm2_openssl.load() is None
    assert best_provider().name == "gmssl"


def test_gmssl_is_the_provider_where_openssl_is_another_library(monkeypatch):
    monkeypatch.setattr(sm2_openssl, "_LIBRARIES", ("libc.so.6",))
    assert best_provider().name == "gmssl"


@pytest.mark.parametrize("refused", ["d2i_AutoPrivateKey", "d2i_PUBKEY", "EVP_PKEY_sign_init"])
def test_gmssl_is_the_provider_where_openssl_was_built_without_sm2(monkeypatch, refused):
    real = ctypes.CDLL("libcrypto.so.3")

    class WithoutSm2:
        """libcrypto, with one function that always fails."""

        def __getattr__(self, name):
            return getattr(real, name) if name != refused else lambda *_: 0

    monkeypatch.setattr(sm2_openssl.ctypes, "CDLL", lambda _name: WithoutSm2())
    assert sm2_openssl.load() is None


def test_openssl_leaves_no_error_behind_for_the_next_user_of_the_thread():
    lib = OPENSSL.suite.provider._lib
    peek = lib.ERR_peek_error
    peek.restype = ctypes.c_ulong
    key = OPENSSL.suite.generate(secrets.token_bytes)
    assert peek() == 0
    key.public.verify(b"m", signature := key.sign(b"m"))
    assert peek() == 0
    with pytest.raises(BadSignature):
        key.public.verify(b"another", signature)
    assert peek() == 0
    d, r = int.from_bytes(key.scalar), 0x89ABCDEF
    s = -r * d * pow(1 + d, -1, ORDER) % ORDER  # a sum at infinity is an error to OpenSSL
    assert not OPENSSL.suite.provider.verifier(key.public.point).verify(r.to_bytes(32), r, s)
    assert peek() == 0
    for refused in (OPENSSL.suite.provider.verifier, OPENSSL.suite.provider.public_point):
        with pytest.raises(MalformedKey):
            refused(bytes(65))
        assert peek() == 0


def test_threads_can_share_an_openssl_key():
    key = OPENSSL.suite.generate(secrets.token_bytes)

    def round_trip(number: int) -> None:
        message = str(number).encode()
        key.public.verify(message, signature := key.sign(message))
        with pytest.raises(BadSignature):
            key.public.verify(b"another", signature)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(round_trip, range(200)))
