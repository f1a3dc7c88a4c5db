"""The master keys in a PKCS #11 token: SoftHSM, which has no less to say than a dear one."""

from __future__ import annotations

import secrets

import pytest

from schemas.esam import KeyPlace, check_values, open_in_esam
from schemas.esam_issue import ControlKey
from schemas.keys import Item
from schemas.suites import INTL
from server.config import ServerConfig
from server.keys.home import HomeUnavailable, KeysError, LoanPlace, Source
from server.keys.homes import open_homes
from server.keys.sealed import SealedHome
from server.site import create_site
from tests.esam_desk import EsamDesk
from tests.key_rig import (
    DOMAIN,
    MODULE,
    PIN,
    bytes_of,
    key_desk,
    request,
    soft_token,
    token_home,
    traces,
)

pytestmark = pytest.mark.system
SERIAL = bytes.fromhex("45534d0000000001")
CONTROL, CHALLENGE = secrets.token_bytes(16), secrets.token_bytes(16)


@pytest.fixture
def name():
    return f"t{secrets.token_hex(6)}"


@pytest.fixture
def home(name):
    return token_home(name)


@pytest.mark.parametrize("item", Item)
def test_what_the_token_packs_is_byte_for_byte_what_an_esam_opens(home, item):
    made = home.new_version(DOMAIN, "intl", 3)
    control = home.keep_control_key("intl", SERIAL, CONTROL)
    place = KeyPlace(SERIAL, 2, item, 3)
    if item is Item.FLOOR:
        body = home.floor("intl", control, CHALLENGE, place)
        assert open_in_esam(INTL, CONTROL, CHALLENGE, place, body) == b""
        return
    body, checks = home.package(Source(DOMAIN, "intl", 3, made.stored), control, CHALLENGE, place)
    keys = open_in_esam(INTL, CONTROL, CHALLENGE, place, body)
    assert checks == check_values(INTL, keys) == made.check_values
    assert len({keys[:16], keys[16:32], keys[32:]}) == 3


def test_token_and_database_pack_the_same_keys_into_the_same_bytes(home):
    made = home.new_version(DOMAIN, "intl", 3)
    control = home.keep_control_key("intl", SERIAL, CONTROL)
    place = KeyPlace(SERIAL, 2, Item.KEYS, 3)
    source = Source(DOMAIN, "intl", 3, made.stored)
    body, checks = home.package(source, control, CHALLENGE, place)
    keys = open_in_esam(INTL, CONTROL, CHALLENGE, place, body)
    drawn = iter((keys[:16], keys[16:32], keys[32:]))
    sealed = SealedHome("demo", bytes(32), lambda n: next(drawn) if n == 16 else bytes(n))
    stored = sealed.new_version(DOMAIN, "intl", 3).stored
    control = sealed.keep_control_key("intl", SERIAL, CONTROL)
    source = Source(DOMAIN, "intl", 3, stored)
    assert sealed.package(source, control, CHALLENGE, place) == (body, checks)


def test_what_the_token_lends_is_byte_for_byte_what_an_esam_opens(home):
    control = home.keep_control_key("intl", SERIAL, CONTROL)
    card, key = bytes(range(8)), secrets.token_bytes(16)
    body = home.lend("intl", control, CHALLENGE, LoanPlace(SERIAL, 2, 3, card), key)
    esam = ControlKey(INTL, SERIAL, CONTROL)
    assert body == esam.lend(CHALLENGE, index=2, version=3, card_id=card, transport_key=key)
    with pytest.raises(KeysError, match="SM4"):
        home.lend("gm", control, CHALLENGE, LoanPlace(SERIAL, 2, 3, card), key)


def test_no_key_of_the_token_can_be_read_or_wrapped_out(home, name):
    import pkcs11
    from pkcs11 import Attribute, KeyType, Mechanism, MechanismFlag, ObjectClass

    home.new_version(DOMAIN, "intl", 1)
    home.keep_control_key("intl", SERIAL, CONTROL)
    token = pkcs11.lib(MODULE).get_token(token_label="ostiary")
    with token.open(user_pin=PIN, rw=True) as session:
        wrapping = session.generate_key(KeyType.AES, 128, capabilities=MechanismFlag.WRAP)
        ours = [
            key
            for key in session.get_objects({Attribute.CLASS: ObjectClass.SECRET_KEY})
            if f"/{name}/" in key.label
        ]
        assert len(ours) == 2
        for key in ours:
            assert (key[Attribute.SENSITIVE], key[Attribute.EXTRACTABLE]) == (True, False)
            with pytest.raises(pkcs11.exceptions.AttributeSensitive):
                assert key[Attribute.VALUE]
            for mechanism, parameter in (
                (Mechanism.AES_CBC, bytes(16)),
                (Mechanism.AES_KEY_WRAP, None),
            ):
                with pytest.raises(pkcs11.exceptions.KeyUnextractable):
                    wrapping.wrap_key(key, mechanism=mechanism, mechanism_param=parameter)
    with token.open() as session:
        labels = [key.label for key in session.get_objects() if hasattr(key, "label")]
        assert not [label for label in labels if name in label], "without the PIN they don't show"


def test_nothing_of_a_session_stays_in_the_token(home, name):
    import pkcs11

    made = home.new_version(DOMAIN, "intl", 1)
    control = home.keep_control_key("intl", SERIAL, CONTROL)
    token = pkcs11.lib(MODULE).get_token(token_label="ostiary")

    def count():
        with token.open(user_pin=PIN) as session:
            return len(list(session.get_objects()))

    before = count()
    place = KeyPlace(SERIAL, 1, Item.KEYS, 1)
    home.package(Source(DOMAIN, "intl", 1, made.stored), control, CHALLENGE, place)
    assert count() == before


def test_a_version_that_was_made_before_a_stop_is_taken_not_replaced(home):
    first = home.new_version(DOMAIN, "intl", 1)
    assert home.new_version(DOMAIN, "intl", 1) == first
    assert home.new_version(DOMAIN, "intl", 2) != first


def test_a_destroyed_version_is_gone_and_destroying_again_is_no_error(home):
    made = home.new_version(DOMAIN, "intl", 1)
    control = home.keep_control_key("intl", SERIAL, CONTROL)
    source = Source(DOMAIN, "intl", 1, made.stored)
    for _ in range(2):
        home.destroy(source)
    with pytest.raises(HomeUnavailable, match=r"lacks version 1 of key domain zone-a: restore"):
        home.package(source, control, CHALLENGE, KeyPlace(SERIAL, 1, Item.KEYS, 1))


def test_a_new_control_key_takes_the_place_of_the_old(home):
    old = home.keep_control_key("intl", SERIAL, CONTROL)
    new = home.keep_control_key("intl", SERIAL, bytes(16))
    for _ in range(2):
        home.forget_control_key(old)
    place = KeyPlace(SERIAL, 1, Item.FLOOR, 2)
    body = home.floor("intl", new, CHALLENGE, place)
    assert open_in_esam(INTL, bytes(16), CHALLENGE, place, body) == b""
    with pytest.raises(HomeUnavailable, match="lacks the control key"):
        home.floor("intl", old, CHALLENGE, place)
    with pytest.raises(ValueError, match="16 bytes"):
        home.keep_control_key("intl", SERIAL, b"short")


async def test_an_esam_takes_what_comes_from_a_token(tmp_path, name):
    esam = EsamDesk("intl").issue()
    async with key_desk(tmp_path / "site", homes=[token_home(name)]) as desk:
        made = await desk.authority.create_domain(DOMAIN, desk.suite, "test")
        await desk.know(esam)
        asked = request(esam, Item.KEYS, 1, challenge=esam.challenge())
        package = await desk.issuer.package(asked, "front-agent")
        place = KeyPlace(esam.serial, 1, Item.KEYS, 1)
        challenge, body = bytes.fromhex(asked.challenge), bytes.fromhex(package.body)
        opened = open_in_esam(INTL, esam.control_key, challenge, place, body)
        keys = [opened[:16], opened[16:32], opened[32:]]
        assert await desk.write(esam, Item.KEYS, 1)
        assert esam.table() == {1: made}
        await desk.authority.new_version(DOMAIN, "test")
        await desk.authority.raise_floor(DOMAIN, 2, "test")
        await desk.authority.destroy(DOMAIN, 1, "test")
        assert await desk.write(esam, Item.FLOOR, 2)
        assert esam.table() == {}
    everywhere = bytes_of(tmp_path, soft_token())
    assert traces(everywhere, [*keys, esam.control_key]) == []


def settings(**changes):
    return ServerConfig(
        **{"key_home": "pkcs11", "pkcs11_module": MODULE, "pkcs11_token": "ostiary"} | changes
    )


@pytest.fixture
def site(tmp_path):
    soft_token()
    return create_site(tmp_path / "site", "demo", "intl", secrets.token_bytes, {})


def opened(site, config, environ):
    return open_homes(site, config, environ, secrets.token_bytes, None)


def test_the_settings_say_where_new_keys_go(site, tmp_path):
    pin = {"OSTIARY_PKCS11_PIN": PIN}
    assert opened(site, settings(), pin).first.name == "pkcs11"
    assert opened(site, settings(key_home="sealed"), pin).first.name == "sealed"
    file = tmp_path / "pin"
    file.write_text(f"{PIN}\n")
    file.chmod(0o600)
    assert opened(site, settings(), {"OSTIARY_PKCS11_PIN_FILE": str(file)}).of("pkcs11")
    file.chmod(0o640)
    with pytest.raises(HomeUnavailable, match="others may read it"):
        opened(site, settings(), {"OSTIARY_PKCS11_PIN_FILE": str(file)})


@pytest.mark.parametrize(
    ("changes", "pin", "why"),
    [
        ({}, None, "set OSTIARY_PKCS11_PIN"),
        ({}, "999999", "the PIN is wrong"),
        ({"pkcs11_token": "other"}, PIN, "no such token"),
        ({"pkcs11_module": ""}, PIN, "set pkcs11_module"),
        ({"pkcs11_module": "/nowhere.so"}, PIN, "/nowhere.so"),
    ],
)
def test_a_token_that_can_t_be_used_says_why_and_never_the_pin(site, changes, pin, why):
    environ = {} if pin is None else {"OSTIARY_PKCS11_PIN": pin}
    with pytest.raises(HomeUnavailable, match=why) as refusal:
        opened(site, settings(**changes), environ)
    assert pin is None or pin not in str(refusal.value)


def test_a_domain_or_esam_of_suite_gm_is_told_that_tokens_have_no_sm4(home):
    with pytest.raises(KeysError, match=r"domain zone-a is of suite gm.*no SM4.*sealed"):
        home.new_version(DOMAIN, "gm", 1)
    with pytest.raises(KeysError, match="no SM4"):
        home.keep_control_key("gm", SERIAL, CONTROL)
    control = home.keep_control_key("intl", SERIAL, CONTROL)
    with pytest.raises(KeysError, match="no SM4"):
        home.floor("gm", control, CHALLENGE, KeyPlace(SERIAL, 1, Item.FLOOR, 1))
