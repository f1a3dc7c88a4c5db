"""Why a door said no, with the names ONVIF and BACnet give it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """The denial reasons of the vocabulary."""

    UNKNOWN_CARD = "unknown_card"
    CARD_AUTH_FAILED = "card_auth_failed"
    CARD_REVOKED = "card_revoked"
    CARD_LOST = "card_lost"
    CARD_STOLEN = "card_stolen"
    CARD_DAMAGED = "card_damaged"
    CARD_SUSPENDED = "card_suspended"
    NOT_YET_ACTIVE = "not_yet_active"
    EXPIRED = "expired"
    NOT_BOUND = "not_bound"
    NO_RULE = "no_rule"
    OUTSIDE_SCHEDULE = "outside_schedule"
    LOCKDOWN = "lockdown"
    DOOR_BLOCKED = "door_blocked"
    ANTIPASSBACK = "antipassback"
    INTERLOCK = "interlock"
    OCCUPANCY_FULL = "occupancy_full"
    SECOND_PERSON_REQUIRED = "second_person_required"
    FIRST_PERSON_ABSENT = "first_person_absent"
    WRONG_PIN = "wrong_pin"
    LOCKED_OUT = "locked_out"
    KEY_VERSION_RETIRED = "key_version_retired"
    KEY_VERSION_UNSUPPORTED = "key_version_unsupported"
    COUNTER_ROLLBACK = "counter_rollback"
    POLICY_EXPIRED = "policy_expired"
    CLOCK_UNTRUSTED = "clock_untrusted"
    SECURE_ELEMENT_UNAVAILABLE = "secure_element_unavailable"


@dataclass(frozen=True)
class FieldNames:
    """What others call a reason."""

    onvif: str
    """ONVIF Access Control `tns1:AccessControl/Denied` Reason."""
    bacnet: int
    """BACnetAccessEvent (ANSI/ASHRAE 135 clause 21)."""


_OTHER = "Other"
FIELD_NAMES: dict[Reason, FieldNames] = {
    Reason.UNKNOWN_CARD: FieldNames("CredentialNotFound", 129),
    Reason.CARD_AUTH_FAILED: FieldNames(_OTHER, 164),
    Reason.CARD_REVOKED: FieldNames("CredentialNotEnabled", 153),
    Reason.CARD_LOST: FieldNames("CredentialNotEnabled", 143),
    Reason.CARD_STOLEN: FieldNames("CredentialNotEnabled", 144),
    Reason.CARD_DAMAGED: FieldNames("CredentialNotEnabled", 145),
    Reason.CARD_SUSPENDED: FieldNames("CredentialNotEnabled", 158),
    Reason.NOT_YET_ACTIVE: FieldNames("CredentialNotActive", 151),
    Reason.EXPIRED: FieldNames("CredentialExpired", 152),
    Reason.NOT_BOUND: FieldNames("Unauthorized", 150),
    Reason.NO_RULE: FieldNames("Unauthorized", 134),
    Reason.OUTSIDE_SCHEDULE: FieldNames("NotPermittedAtThisTime", 136),
    Reason.LOCKDOWN: FieldNames(_OTHER, 137),
    Reason.DOOR_BLOCKED: FieldNames(_OTHER, 10),
    Reason.ANTIPASSBACK: FieldNames(_OTHER, 138),
    Reason.INTERLOCK: FieldNames(_OTHER, 9),
    Reason.OCCUPANCY_FULL: FieldNames(_OTHER, 142),
    Reason.SECOND_PERSON_REQUIRED: FieldNames(_OTHER, 159),
    Reason.FIRST_PERSON_ABSENT: FieldNames(_OTHER, 164),
    Reason.WRONG_PIN: FieldNames("InvalidPIN", 132),
    Reason.LOCKED_OUT: FieldNames("CredentialNotEnabled", 140),
    Reason.KEY_VERSION_RETIRED: FieldNames(_OTHER, 130),
    Reason.KEY_VERSION_UNSUPPORTED: FieldNames(_OTHER, 130),
    Reason.COUNTER_ROLLBACK: FieldNames(_OTHER, 130),
    Reason.POLICY_EXPIRED: FieldNames(_OTHER, 130),
    Reason.CLOCK_UNTRUSTED: FieldNames(_OTHER, 130),
    Reason.SECURE_ELEMENT_UNAVAILABLE: FieldNames(_OTHER, 130),
}
