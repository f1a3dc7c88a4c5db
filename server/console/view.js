// Draws events and doors. All text goes in as text nodes; nothing here parses HTML.

import { languageTag, visible, word, words } from "./i18n.js";

const SVG = "http://www.w3.org/2000/svg";
export const MAX_ROWS = 200;

export function element(name, { text, className, title } = {}, ...children) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  if (title) made.title = title;
  made.append(...children.filter((child) => child !== null));
  return made;
}

function icon(name) {
  const drawing = document.createElementNS(SVG, "svg");
  drawing.setAttribute("class", "icon");
  drawing.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#i-${name}`);
  drawing.append(use);
  return drawing;
}

export const eventName = (event) => String(event.type).replace(/^io\.ostiary\./, "").replace(/\.v\d$/, "");

const ALARMS = new Set(["esam.unavailable", "access.duress", "door.forced", "door.held", "alarm.raised", "agent.events_lost", "revocation.overdue"]);
const WARNINGS = new Set(["door.held_prealarm", "door.fault", "agent.buffer_high", "agent.clock_stepped", "policy.rejected", "statement.rejected",
  "policy.stale", "policy.expired", "lockdown.started", "command.refused", "agent.offline", "keys.refused", "card.not_bound", "card.not_rekeyed", "rotation.paused",
  "rotation.quarantined"]);

// What every door says of each order that reaches it: a thousand doors would push what people do off the page.
const ROUTINE = new Set(["policy.published", "policy.applied", "policy.fresh", "revocation.applied", "lockdown.applied", "root.applied",
  "certificate.applied", "agent.online", "keys.held", "keys.package_made", "keys.transport_given"]);

export function kindOf(event) {
  const name = eventName(event);
  if (ROUTINE.has(name)) return "routine";
  if (ALARMS.has(name)) return "alarm";
  if (name === "access.denied") return "denied";
  if (name.startsWith("access.")) return "access";
  if (/^(door|rex)\./.test(name)) return "door";
  return "system";
}

function tone(event) {
  const name = eventName(event);
  if (ALARMS.has(name)) return ["alarm-row", "alarm"];
  if (name === "access.denied") return ["denied", "denied"];
  if (WARNINGS.has(name)) return ["warn", "warn"];
  if (name === "access.granted") return ["ok", "ok"];
  return ["plain", "info"];
}

export function clock(time) {
  const moment = new Date(time);
  if (Number.isNaN(moment.valueOf())) return visible(time);
  const sameDay = moment.toDateString() === new Date().toDateString();
  const form = { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" };
  return moment.toLocaleString(languageTag(), sameDay ? form : { month: "short", day: "numeric", ...form });
}

const utc = (time) => `${visible(time).replace("T", " ").replace("Z", "")} UTC`;

function timeElement(time) {
  const made = element("time", { text: clock(time), title: utc(time) });
  made.dateTime = String(time);
  return made;
}

export const doorOf = (event) => (String(event.subject).startsWith("doors/") ? String(event.subject).slice(6) : "");
const placeOf = (event) => /^(?:doors|agents|sites)\/(.*)/s.exec(String(event.subject))?.[1] ?? "";

export function whoOf(event) {
  const data = event.data ?? {};
  if (data.person) return visible(data.person);
  return data.card ? words().card(`…${visible(String(data.card).slice(-6))}`) : "";
}

const named = (parts, between) => parts.filter(Boolean).map(visible).join(between);

// What follows the event's own words: why, how, how long.
function detailOf(event) {
  const data = event.data ?? {};
  const number = (value) => (Number.isFinite(value) ? Math.round(value) : "?");
  switch (eventName(event)) {
    case "access.granted": return data.direction ? word("direction", data.direction) : "";
    case "access.denied": return word("reason", data.reason) + (data.detail ? ` (${visible(data.detail)})` : "");
    case "door.opened": return word("after", data.after);
    case "door.mode_changed": return `${word("mode", data.mode)}, ${word("cause", data.cause)}`;
    case "door.held": case "door.held.cleared": case "door.held_prealarm": case "door.held_prealarm.cleared":
      return words().openFor(number(data.open_s));
    case "door.fault": return visible(data.detail);
    case "agent.started": return word("cause", data.cause);
    case "agent.clock_stepped": return words().stepped(number(data.step_ms));
    case "agent.events_lost": return words().lostCount(number(data.count));
    case "policy.applied": return words().version(number(data.policy_version));
    case "policy.published": return words().version(number(data.policy_version));
    case "root.published": case "root.applied": return words().version(number(data.version));
    case "policy.rejected": case "statement.rejected": return named([data.reason, data.detail], ": ");
    case "policy.stale": case "policy.expired": case "policy.fresh": case "lockdown.applied": case "revocation.overdue": case "revocation.overdue.cleared":
      return named(Array.isArray(data.doors) ? data.doors : [], ", ");
    case "revocation.requested": return named([data.kind, data.subject, data.reason], " ");
    case "revocation.applied": return `#${number(data.sequence)}`;
    case "lockdown.started": case "lockdown.ended": return named([data.scope, data.name], " ");
    case "command.sent": case "command.executed": return named([data.action], "");
    case "command.refused": return named([data.action, data.reason, data.detail], ": ");
    case "model.changed": return named([data.action, data.kind, data.id], " ");
    case "token.changed": return named([data.action], "");
    case "certificate.applied": return data.until ? utc(data.until) : "";
    case "agent.online": case "agent.offline": return visible(data.why);
    case "alarm.raised":
      return [word("alarmKind", data.kind), data.agent && visible(data.agent), visible(data.detail),
        data.count > 1 && words().times(number(data.count))].filter(Boolean).join(" · ");
    default: return "";
  }
}

function latencyOf(event) {
  const latency = event.data?.latency_ms ?? {};
  const value = latency.strike ?? latency.decision;
  if (!Number.isFinite(value)) return "";
  return `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;
}

export function describe(event) {
  const detail = detailOf(event);
  return [placeOf(event) && visible(placeOf(event)), word("event", eventName(event)), detail].filter(Boolean).join(", ");
}

export function eventRow(event) {
  const [className, picture] = tone(event);
  const detail = detailOf(event);
  const what = element("td", { className: "what" }, icon(picture), element("strong", { text: word("event", eventName(event)) }));
  if (detail) what.append(" ", element("bdi", { className: "detail", text: detail }));
  if (event.occurrence === "late") {
    what.append(element("span", { className: "chip warn", text: words().late, title: words().lateTitle(clock(event.recordedtime)) }));
  }
  const row = element("tr", { className },
    element("td", { className: "time" }, timeElement(event.time)),
    element("td", { className: "door-name" }, element("bdi", { text: visible(placeOf(event)) })),
    what,
    element("td", { className: "who" }, ...(whoOf(event) ? [element("bdi", { text: whoOf(event) })] : [])),
    element("td", { className: "number", text: latencyOf(event), title: words().latencyTitle }));
  row.dataset.id = String(event.id);
  return row;
}

// `live` is false while this page itself is cut off: then nothing it shows is known to hold now.
export function doorCard(door, access, live) {
  const current = live && door.current;
  const contact = current ? door.contact : "unknown";
  const alarmed = door.alarm !== "normal";
  const pictures = { open: "open", closed: "closed", fault: "warn" };
  const look = Object.hasOwn(pictures, contact) ? (contact === "fault" ? "open" : contact) : "unknown";
  const picture = alarmed ? "alarm" : (Object.hasOwn(pictures, contact) ? pictures[contact] : "unknown");
  const state = element("p", { className: "state" }, icon(picture), element("span", { text: word("contact", contact) }));
  const chips = element("p", { className: "chips" });
  if (alarmed) chips.append(element("span", { className: "chip bad", text: word("alarm", door.alarm) }));
  if (!current && door.contact !== "unknown") chips.append(element("span", { className: "chip warn", text: words().was(word("contact", door.contact)) }));
  chips.append(element("span", { className: ["locked", "unknown"].includes(door.mode) ? "chip" : "chip warn", text: word("mode", door.mode) }));
  const since = element("p", { className: "soft", text: words().since(clock(door.changed)), title: utc(door.changed) });
  const last = element("p", { className: "last", title: door.last_heard ? words().heard(clock(door.last_heard)) : "" });
  if (access) {
    const outcome = eventName(access) === "access.granted" ? words().granted : words().denied;
    last.append(element("bdi", { text: words().lastAccess(whoOf(access) || "?", outcome, clock(access.time)) }));
  } else last.textContent = words().noAccess;
  const card = element("li", { className: `door ${look}${alarmed ? " alarm" : ""}` },
    element("h3", {}, element("bdi", { text: visible(door.door) })), state, chips, since, last);
  card.dataset.door = String(door.door);
  return card;
}
