"""The virtual ESAM against whoever sends it what: it answers, keeps its rules, and tells no key."""

from __future__ import annotations

import contextlib

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from edge_agent.card.apdu import Response, StatusWord
from edge_agent.secure_element.esam_layout import ERROR_LIMIT
from edge_agent.virtual.chip import CardTorn, Tear, TearMoment
from edge_agent.virtual.esam_memory import Domain
from schemas.keys import Item, Purpose
from tests.card_desk import SERIAL as CARD
from tests.card_desk import TRANSPORT_KEY
from tests.esam_desk import EsamDesk

VERSIONS = st.integers(1, 3)
INDEXES = st.integers(1, 3)
COMMANDS = st.tuples(
    st.sampled_from([0x00, 0x80, 0x84, 0x04]),
    st.sampled_from([0xA4, 0x84, 0xCA, 0x1A, 0xFA, 0xD4, 0xD6]),
    st.integers(0, 5),
    st.integers(0, 17),
)


class EsamMachine(RuleBasedStateMachine):
    """Knows which versions and floors the chip should have, and asks it."""

    @initialize(suite=st.sampled_from(["gm", "intl"]))
    def issue(self, suite):
        self.desk = EsamDesk(suite).issue()
        self.held: set[tuple[int, int]] = set()
        self.floors = {1: 0, 2: 0, 3: 0}
        self.errors_left = ERROR_LIMIT

    @rule(apdu=st.binary(max_size=262))
    def send_anything(self, apdu):
        before = self.desk.chip.image
        self.desk.send(apdu)
        assert self.desk.chip.image == before
        self.desk.select()

    @rule(header=COMMANDS, data=st.binary(max_size=80), le=st.booleans())
    def send_what_looks_like_a_command(self, header, data, le):
        before = self.desk.chip.image
        body = bytes((len(data),)) + data if data else b""
        self.desk.send(bytes(header) + body + b"\x00" * le)
        after = self.desk.chip.image
        assert (after.domains, after.control_key) == (before.domains, before.control_key)
        self.errors_left = after.errors_left
        assert self.errors_left in (before.errors_left, before.errors_left - 1)
        self.desk.select()

    @rule(version=VERSIONS, index=INDEXES)
    def write(self, version, index):
        answer = self.desk.send(self.desk.package(Item.KEYS, version, index=index))
        if self.errors_left == 0:
            assert answer.sw == StatusWord.BLOCKED
            return
        self.errors_left = ERROR_LIMIT
        assert answer.ok is (version >= self.floors[index])
        if answer.ok:
            self.held.add((index, version))

    @rule(version=VERSIONS, index=INDEXES)
    def raise_floor(self, version, index):
        answer = self.desk.send(self.desk.package(Item.FLOOR, version, index=index))
        if self.errors_left == 0:
            assert answer.sw == StatusWord.BLOCKED
            return
        self.errors_left = ERROR_LIMIT
        assert answer.ok is (version >= self.floors[index])
        if answer.ok:
            self.floors[index] = version
            self.held = {(i, v) for i, v in self.held if i != index or v >= version}

    @rule(bit=st.integers(0, 57 * 8 - 1))
    def write_what_was_changed(self, bit):
        package = bytearray(self.desk.package(Item.KEYS, 3))
        package[5 + bit // 8] ^= 1 << bit % 8
        assert not self.desk.send(bytes(package)).ok
        self.errors_left = self.desk.chip.image.errors_left

    @rule(moment=st.sampled_from(TearMoment), at=st.integers(1, 2))
    def lose_power_while_writing(self, moment, at):
        package = self.desk.package(Item.KEYS, 3)
        self.desk.arm(Tear(moment, at))
        with contextlib.suppress(CardTorn):
            self.desk.send(package)
        self.desk.arm(None)
        self.desk.power_on()
        image = self.desk.chip.image
        self.errors_left = image.errors_left
        if 3 in image.domains.get(1, Domain()).versions:
            self.held.add((1, 3))

    @rule(purpose=st.sampled_from(Purpose), version=VERSIONS, index=INDEXES)
    def choose(self, purpose, version, index):
        chosen = self.desk.init(purpose, version, CARD, index=index)
        assert chosen.ok is ((index, version) in self.held)

    @rule(version=VERSIONS)
    def lend(self, version):
        answer = self.desk.lend(CARD, TRANSPORT_KEY, version=version)
        assert answer.ok is (self.errors_left > 0)
        self.errors_left = self.errors_left and ERROR_LIMIT

    @invariant()
    def it_holds_what_was_written_and_nothing_below_a_floor(self):
        for index, floor in self.floors.items():
            table = self.desk.whole_table(index)
            assert table.floor == floor
            held = {version for place, version in self.held if place == index}
            assert table.versions == {version: self.desk.checks(version) for version in held}
        assert self.desk.state.errors_left == self.errors_left

    @invariant()
    def its_answers_are_answers_and_hold_no_key(self):
        secrets = [key for keys in self.desk.secrets.values() for key in keys.values()]
        secrets += [self.desk.suite.diversify(key, CARD) for key in secrets]
        for answer in self.desk.answers:
            Response.decode(answer)
            for secret in (*secrets, self.desk.control_key, TRANSPORT_KEY):
                assert secret[:8] not in answer
                assert secret[8:] not in answer
        self.desk.answers.clear()


TestEsam = EsamMachine.TestCase
TestEsam.settings = settings(max_examples=20, stateful_step_count=20)
