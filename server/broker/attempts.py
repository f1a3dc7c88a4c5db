"""What must not work at a broker, tried one by one."""

from __future__ import annotations

import json
import ssl

from server.broker.bare import Bare, TurnedAway, Will, bare
from server.broker.grants import (
    CONTROL,
    CONTROL_ANSWERS,
    PROBE,
    UP_CHANNELS,
    VICTIM,
    checker_id,
    server_id,
)
from server.broker.limits import MOST_IN_FLIGHT, MOST_PACKET_BYTES
from server.broker.stage import Stage, may_hear

CUT_OFF_S = 2.0
_A_WHILE_S = 0.5
"""For what should not come, where nothing that comes later tells."""


async def attempt_everything(stage: Stage) -> None:
    """All of it; the probe is expelled at the end. Raises TurnedAway if the stage breaks down."""
    await _strangers(stage)
    async with stage.target.enter(VICTIM) as victim:
        await _rightful(stage, victim)
        await _other_names(stage, victim)
        await _listening(stage, victim)
        await _speaking(stage, victim)
        await _keeping(stage)
        await _wills(stage, victim)
        await _too_much(stage, victim)
        await _orders(stage, victim)
    async with stage.target.enter(VICTIM) as victim:
        await victim.subscribe(stage.topic(f"down/{VICTIM}/#"))
        await _expelled(stage, victim)


async def _strangers(stage: Stage) -> None:
    target = stage.target
    old = target.tls(PROBE)
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
    for attempt, tls in (
        ("connect without TLS", None),
        ("connect without a certificate", target.stranger(None)),
        ("connect with a certificate of another authority", target.stranger(PROBE)),
        ("connect with TLS 1.2", old),
    ):
        try:
            async with bare(target.host, target.port, PROBE, tls):
                stage.found(attempt, "let in", ok=False, expected="turned away")
        except TurnedAway:
            stage.found(attempt, "turned away", ok=True, expected="turned away")


async def _rightful(stage: Stage, victim: Bare) -> None:
    """Else all of the rest would be true of a broker that passes on nothing."""
    async with stage.target.enter(PROBE) as probe:
        for name, client in ((PROBE, probe), (VICTIM, victim)):
            mark = stage.mark()
            await client.subscribe(stage.topic(f"down/{name}/#"))
            await stage.observer.publish(stage.topic(f"down/{name}/command"), mark)
            if not await client.hears(mark):
                raise TurnedAway(f"{name} was let in, but does not hear what is said to it")
        if not await stage.settle(probe):
            raise TurnedAway(f"{PROBE} was let in, but is not heard on its own topics")
    stage.found("do what it may", "works", ok=True, expected="works")


async def _other_names(stage: Stage, victim: Bare) -> None:
    own = f"{PROBE}-2"
    async with stage.target.enter(PROBE) as first:
        try:
            async with stage.target.enter(PROBE, own):
                one = await first.ends(CUT_OFF_S)
            seen = f"known as {PROBE}" if one else f"known as {own}"
        except TurnedAway:
            one, seen = True, "turned away"
    stage.found(f"connect as {own}", seen, ok=one, expected="its own name or none")
    for name in (VICTIM, checker_id(stage.site), server_id(stage.site)):
        await _take_over(stage, victim, name)


async def _take_over(stage: Stage, victim: Bare, name: str) -> None:
    mark, control = stage.mark(), stage.mark()
    heard = False
    try:
        async with stage.target.enter(PROBE, name) as probe:
            await probe.subscribe(stage.topic(f"down/{VICTIM}/#"))
            await probe.publish(stage.topic(f"down/{VICTIM}/command"), mark)
            await stage.observer.publish(stage.topic(f"down/{VICTIM}/command"), control)
            await victim.hears(control)
            await stage.observer.publish(stage.topic(f"down/{PROBE}/command"), stage.mark())
            heard = probe.has(control)
    except TurnedAway:
        pass
    control = stage.mark()
    seen = []
    if stage.observer.gone.is_set() or victim.gone.is_set():
        stage.found(f"connect as {name}", "ended its session", ok=False)
        raise TurnedAway(f"the session of {name} is over")
    await stage.observer.publish(stage.topic(f"down/{VICTIM}/command"), control)
    if not await victim.hears(control):
        seen.append(f"{VICTIM} hears no more")
    if victim.has(mark):
        seen.append("spoke with its rights")
    if heard:
        seen.append("heard with its rights")
    stage.found(f"connect as {name}", ", ".join(seen) or "nothing", ok=not seen)


async def _listening(stage: Stage, victim: Bare) -> None:
    s = stage.site
    filters = [
        "#",
        "+/#",
        "+/+/+/+/+",
        "ostiary/#",
        "ostiary/+/#",
        f"ostiary/{s}/#",
        f"ostiary/{s}/+/#",
        f"ostiary/{s}/+/{VICTIM}/#",
        f"ostiary/{s}/+/+/command",
        f"ostiary/{s}/down/#",
        f"ostiary/{s}/down/+/#",
        f"ostiary/{s}/down/+/command",
        f"ostiary/{s}/down/{VICTIM}/#",
        f"ostiary/{s}/down/{VICTIM}/+",
        f"ostiary/{s}/down/{VICTIM}/command",
        f"ostiary/+/down/{VICTIM}/#",
        f"+/{s}/down/{VICTIM}/command",
        f"ostiary/{s}/up/#",
        f"ostiary/{s}/up/+/will",
        f"ostiary/{s}/up/{VICTIM}/#",
        f"ostiary/{s}/up/{VICTIM}/will",
        f"ostiary/{s}/feed/#",
    ]
    system = ["$SYS/#", "$SYS/broker/uptime", "$CONTROL/#", CONTROL_ANSWERS]
    for wanted in (*filters, *system, *(f"$share/g/{each}" for each in (*filters, *system))):
        await _listen(stage, victim, wanted)


async def _listen(stage: Stage, victim: Bare, wanted: str) -> None:
    async with stage.target.enter(PROBE) as probe:
        try:
            await probe.subscribe(stage.topic(f"down/{PROBE}/#"))
            await probe.subscribe(wanted)
        except TurnedAway:
            stage.found(f"listen to {wanted}", "the connection ended", ok=True)
            return
        down, up, feed, fence = (stage.mark() for _ in range(4))
        await victim.publish(stage.topic(f"up/{VICTIM}/will"), up)
        await stage.observer.publish(stage.topic(f"down/{VICTIM}/command"), down)
        await stage.observer.publish(stage.topic(f"feed/{PROBE}"), feed)
        if stage.target.rights is None:
            ask = json.dumps({"commands": [{"command": "getDefaultACLAccess"}]})
            await stage.observer.publish(CONTROL, ask.encode())
        there = [await stage.observer.hears(mark) for mark in (up, feed)]
        if not (all(there) and await victim.hears(down)):
            raise TurnedAway("what the check says to itself does not arrive")
        await stage.observer.publish(stage.topic(f"down/{PROBE}/command"), fence)
        await probe.hears(fence)
        heard = sorted({m.topic for m in probe.heard if not may_hear(stage.site, m.topic)})
        ok = not heard and (probe.has(fence) or probe.gone.is_set())
        seen = f"heard {', '.join(heard[:3])}" if heard else _said(ok, "nothing", "no word at all")
        stage.found(f"listen to {wanted}", seen, ok=ok)


async def _speaking(stage: Stage, victim: Bare) -> None:
    topics = [
        *(f"up/{VICTIM}/{channel}" for channel in UP_CHANNELS),
        f"up/{PROBE}/other",
        f"up/{PROBE}",
        f"down/{VICTIM}/command",
        f"down/{VICTIM}/certificate",
        f"down/{PROBE}/command",
        "down/+/command",
        "all/revocation",
        "all/lockdown",
        "all/root",
        f"feed/{PROBE}",
    ]
    for topic in topics:
        await _speak(stage, victim, topic, qos=1)
    for qos in (0, 2):
        await _speak(stage, victim, f"down/{VICTIM}/command", qos=qos)
        await _speak(stage, victim, f"up/{VICTIM}/events", qos=qos)


async def _speak(stage: Stage, victim: Bare, topic: str, *, qos: int) -> None:
    mark = stage.mark()
    async with stage.target.enter(PROBE) as probe:
        settled = await stage.passes(probe, stage.topic(topic), mark, qos=qos)
    passed_on = stage.observer.has(mark) or victim.has(mark)
    seen = "passed on" if passed_on else _said(settled, "nothing", "no word at all")
    attempt = f"speak on {stage.topic(topic)}" + (f" with QoS {qos}" if qos != 1 else "")
    stage.found(attempt, seen, ok=settled and not passed_on)


async def _keeping(stage: Stage) -> None:
    for rest in (f"down/{VICTIM}/heartbeat", "all/lockdown", f"up/{VICTIM}/events"):
        mark, topic = stage.mark(), stage.topic(rest)
        async with stage.target.enter(PROBE) as probe:
            settled = await stage.passes(probe, topic, mark, retain=True)
        await stage.observer.subscribe(stage.topic("#"))  # brings what is retained again
        settled = await stage.settle() and settled
        kept = stage.observer.has(mark)
        if kept:
            async with stage.target.enter(PROBE) as probe:
                await probe.publish(topic, b"", retain=True)
        stage.found(
            f"leave a retained message on {topic}",
            "kept" if kept else _said(settled, "nothing", "no word at all"),
            ok=settled and not kept,
        )


async def _wills(stage: Stage, victim: Bare) -> None:
    for rest in (f"up/{VICTIM}/will", f"down/{VICTIM}/command", "all/lockdown"):
        mark, topic = stage.mark(), stage.topic(rest)
        try:
            await _die(stage, Will(topic, mark))
        except TurnedAway:
            stage.found(f"leave a last will on {topic}", "turned away", ok=True)
            continue
        came = await stage.observer.hears(mark, _A_WHILE_S) or victim.has(mark)
        stage.found(f"leave a last will on {topic}", _said(came, "passed on"), ok=not came)
    mark, topic = stage.mark(), stage.topic(f"up/{PROBE}/will")
    await _die(stage, Will(topic, mark))
    came = await stage.observer.hears(mark)
    stage.found(
        "leave a last will on its own topic",
        _said(came, "passed on"),
        ok=came,
        expected="passed on",
    )


async def _die(stage: Stage, will: Will) -> None:
    async with stage.target.enter(PROBE, will=will) as probe:
        probe.abort()
        await probe.gone.wait()


async def _too_much(stage: Stage, victim: Bare) -> None:
    mark = stage.mark().ljust(MOST_PACKET_BYTES + 1)
    async with stage.target.enter(PROBE) as probe:
        settled = await stage.passes(probe, stage.topic(f"up/{PROBE}/will"), mark)
    came = stage.observer.has(mark)
    stage.found(
        f"send a packet of more than {MOST_PACKET_BYTES} bytes",
        _said(came, "passed on"),
        ok=settled and not came,
    )
    async with stage.target.enter(PROBE) as probe:
        await probe.subscribe(stage.topic(f"down/{PROBE}/#"))
        probe.mute = True
        for _ in range(MOST_IN_FLIGHT + 10):
            await stage.observer.publish(stage.topic(f"down/{PROBE}/command"), stage.mark())
        fence = stage.mark()
        await stage.observer.publish(stage.topic(f"down/{VICTIM}/command"), fence)
        await victim.hears(fence)
        more = await probe.hears_more_than(MOST_IN_FLIGHT, _A_WHILE_S)
        count = len(probe.heard)
    stage.found(
        "have messages sent that it does not acknowledge",
        f"{count} messages",
        ok=not more,
        expected=f"at most {MOST_IN_FLIGHT}",
    )


async def _orders(stage: Stage, victim: Bare) -> None:
    order = {"command": "deleteClient", "username": VICTIM}
    async with stage.target.enter(PROBE) as probe:
        await stage.passes(probe, CONTROL, json.dumps({"commands": [order]}).encode())
    gone = await victim.ends(_A_WHILE_S)
    stage.found(f"give orders on {CONTROL}", _said(gone, f"{VICTIM} was cut off"), ok=not gone)


async def _expelled(stage: Stage, victim: Bare) -> None:
    async with stage.target.enter(PROBE) as probe:
        await probe.subscribe(stage.topic(f"down/{PROBE}/#"))
        await stage.rights.expel(PROBE)
        ended = await probe.ends(CUT_OFF_S)
    stage.found(
        "stay connected once it is expelled",
        f"cut off within {CUT_OFF_S:g} s" if ended else "still connected",
        ok=ended,
        expected="cut off",
    )
    said, told, fence = (stage.mark() for _ in range(3))
    try:
        async with stage.target.enter(PROBE) as probe:
            await probe.subscribe(stage.topic(f"down/{PROBE}/#"))
            await probe.publish(stage.topic(f"up/{PROBE}/will"), said)
            await stage.observer.publish(stage.topic(f"down/{PROBE}/command"), told)
            await stage.observer.publish(stage.topic(f"down/{VICTIM}/command"), fence)
            await victim.hears(fence)
            can = stage.observer.has(said) or await probe.hears(told, _A_WHILE_S)
            seen = "has rights" if can else "let in, with no rights"
    except TurnedAway:
        can, seen = False, "turned away"
    stage.found(
        "come back once it is expelled", seen, ok=not can, expected="turned away or no rights"
    )


def _said(true: bool, yes: str, no: str = "nothing") -> str:
    return yes if true else no
