// Follows the site over its public API. It never shows old state as new: when the stream is cut, or
// silent for longer than the server's keep-alive allows, the page says so and the doors are unknown.

import { languageTag, switchLanguage, word, words } from "./i18n.js";
import { MAX_ROWS, clock, describe, doorCard, doorOf, element, eventName, eventRow, kindOf } from "./view.js";

const KEPT = 1000; // events in memory, for the filters; the table shows MAX_ROWS of them
const SILENCE_MS = 25_000; // the server speaks at least every 10 s
const DOORS_EVERY_MS = 15_000;
const ANNOUNCE_EVERY_MS = 5_000;
const DOOR_CHANGES = /^(door\.|agent\.started)/;
const at = (id) => document.getElementById(id);

let stream = null;
let cursor = null;
let connection = "connecting"; // live, lost
let lostSince = null;
let attempt = 0;
let silence = 0;
let retry = 0;
let turn = 0; // which attempt to connect is the valid one
let site = null;
let doors = [];
let brokerLost = false;
let replaced = false;
let events = []; // newest first
let held = []; // arrived while paused, oldest first
let paused = false;
const lastAccess = new Map();

// --- connection

async function begin() {
  const [found, seen] = await Promise.all([ask("/api/v1/doors"), ask("/api/v1/events?last=500&limit=500")]);
  events = []; held = [];
  lastAccess.clear();
  takeDoors(found);
  for (const event of seen.events) keep(event);
  cursor = seen.next;
  drawAll();
}

async function connect() {
  turn += 1;
  const mine = turn;
  watch(); // an answer that never comes is a lost connection too
  try {
    if (cursor === null) {
      await begin();
    } else {
      // An EventSource can't tell why it was refused; a read can.
      const probe = await fetch(`/api/v1/events?limit=1&after=${encodeURIComponent(cursor)}`, { cache: "no-store" });
      if (probe.status === 410) {
        cursor = null;
        replaced = true;
        await begin();
      } else if (!probe.ok) throw new Error(`status ${probe.status}`);
    }
  } catch {
    if (mine === turn) lose();
    return;
  }
  if (mine !== turn) return;
  stream = new EventSource(`/api/v1/events/stream?after=${encodeURIComponent(cursor)}`);
  stream.onmessage = (message) => { heard(message); arrive(JSON.parse(message.data)); };
  stream.addEventListener("alive", heard);
  stream.onerror = lose;
  watch();
}

function heard(message) {
  cursor = message.lastEventId;
  attempt = 0;
  watch();
  if (connection === "live") return;
  if (connection === "lost") announce(words().announceLive);
  connection = "live";
  lostSince = null;
  drawConnection();
  refreshDoors();
}

function watch() {
  clearTimeout(silence);
  silence = setTimeout(lose, SILENCE_MS);
}

function lose() {
  clearTimeout(silence);
  clearTimeout(retry);
  turn += 1;
  stream?.close();
  stream = null;
  if (connection !== "lost") {
    connection = "lost";
    lostSince = new Date();
    announce(words().announceLost);
    drawConnection();
    drawDoors();
  }
  attempt += 1;
  const longest = Math.min(10_000, 500 * 2 ** attempt);
  retry = setTimeout(connect, longest * (0.5 + Math.random() / 2));
}

async function ask(path) {
  const answer = await fetch(path, { cache: "no-store" });
  if (!answer.ok) throw new Error(`${path}: status ${answer.status}`);
  return answer.json();
}

// --- doors

let refreshing = 0;
function refreshDoors() {
  clearTimeout(refreshing);
  // Several changes come together; the doors are asked once, shortly after.
  refreshing = setTimeout(async () => {
    if (connection === "live") {
      try {
        takeDoors(await ask("/api/v1/doors"));
        drawDoors();
      } catch {
        if (connection === "live") lose();
        return;
      }
    }
    scheduleDoors();
  }, 120);
}

let scheduled = 0;
function scheduleDoors() {
  clearTimeout(scheduled);
  scheduled = setTimeout(refreshDoors, DOORS_EVERY_MS);
}

function takeDoors(found) {
  site = found.site;
  doors = found.doors;
  brokerLost = !found.link.connected;
}

// --- events

function keep(event) {
  events.unshift(event);
  if (events.length > KEPT) {
    const routine = events.findLastIndex((each) => kindOf(each) === "routine");
    events.splice(routine < 0 ? KEPT : routine, 1);
  }
  if (!/^access\.(granted|denied)$/.test(eventName(event))) return;
  const known = lastAccess.get(doorOf(event));
  // An event that arrives late doesn't become the latest.
  if (!known || new Date(event.time) >= new Date(known.time)) lastAccess.set(doorOf(event), event);
}

function arrive(event) {
  if (paused) {
    held.push(event);
    if (held.length > KEPT) held.shift();
    drawPause();
  } else {
    show(event);
  }
  if (kindOf(event) === "alarm" && event.occurrence !== "late") announce(describe(event));
  if (DOOR_CHANGES.test(eventName(event)) || !doors.some((door) => door.door === doorOf(event))) refreshDoors();
}

function show(event) {
  keep(event);
  if (lastAccess.get(doorOf(event)) === event) drawDoors();
  if (doorOf(event) && !knownDoors.has(doorOf(event))) drawFilters();
  if (!wanted(event)) return;
  const row = eventRow(event);
  row.classList.add("new");
  at("events").prepend(row);
  while (at("events").rows.length > MAX_ROWS) at("events").lastElementChild.remove();
  drawEmpty();
}

function wanted(event) {
  const door = at("door-filter").value;
  const kind = at("kind-filter").value;
  if (door && doorOf(event) !== door) return false;
  return kind === "all" || (kind ? kindOf(event) === kind : kindOf(event) !== "routine");
}

// --- what a screen reader is told: alarms and the connection, at most every few seconds

let saying = [];
let silentUntil = 0;
let speaking = 0;
function announce(text) {
  saying.push(text);
  clearTimeout(speaking);
  speaking = setTimeout(() => {
    const [first, ...rest] = saying;
    at("announcer").textContent = rest.length ? words().announceMore(first, rest.length) : first;
    saying = [];
    silentUntil = Date.now() + ANNOUNCE_EVERY_MS;
  }, Math.max(0, silentUntil - Date.now()));
}

// --- drawing

let knownDoors = new Set();
function drawFilters() {
  const select = at("door-filter");
  const chosen = select.value;
  const names = [...new Set([...doors.map((door) => door.door), ...events.map(doorOf).filter(Boolean)])].sort();
  knownDoors = new Set(names);
  select.replaceChildren(new Option(words().all, ""), ...names.map((name) => new Option(name, name)));
  select.value = knownDoors.has(chosen) ? chosen : "";
}

function drawConnection() {
  at("link").className = `pill ${connection}`;
  const text = connection === "lost" ? words().lost(clock(lostSince)) : words()[connection];
  at("link-text").textContent = text;
  at("doors-note").textContent = connection === "lost" ? words().asOf(clock(lostSince)) : "";
}

const cards = new Map(); // door -> what its card shows, and the card: only changed ones are drawn
function cardOf(door) {
  const access = lastAccess.get(door.door);
  const live = connection === "live";
  const shows = JSON.stringify([door, access?.id, live, languageTag()]);
  const known = cards.get(door.door);
  if (known?.shows === shows) return known.card;
  const card = doorCard(door, access, live);
  cards.set(door.door, { shows, card });
  return card;
}

function drawDoors() {
  if (doors.some((door) => !knownDoors.has(door.door))) drawFilters();
  const drawn = doors.map(cardOf);
  const list = at("doors");
  if (drawn.length !== list.children.length || drawn.some((card, place) => list.children[place] !== card)) {
    list.replaceChildren(...drawn);
  }
  at("no-doors").hidden = doors.length > 0;
  at("site").textContent = site ?? "";
  document.title = site ? `${site} · Ostiary` : "Ostiary";
  at("notice").hidden = !brokerLost && !replaced;
  at("notice-text").textContent = brokerLost ? words().noBroker : words().replaced;
}

function drawEvents() {
  at("events").replaceChildren(...events.filter(wanted).slice(0, MAX_ROWS).map(eventRow));
  drawEmpty();
}

function drawEmpty() {
  const none = at("events").rows.length === 0;
  at("no-events").hidden = !none;
  at("events").parentElement.hidden = none;
  at("no-events").textContent = events.length ? words().noMatch : words().noEvents;
}

function drawPause() {
  at("pause").setAttribute("aria-pressed", String(paused));
  at("pause").textContent = !paused ? words().pause : held.length ? words().waiting(held.length) : words().resume;
}

function drawWords() {
  document.documentElement.lang = languageTag();
  const texts = { "doors-title": "doors", "events-title": "events", caption: "caption", "h-time": "time", "h-door": "door",
    "h-what": "what", "h-who": "who", "h-latency": "latency", "door-label": "door", "kind-label": "kind", "no-doors": "noDoors" };
  for (const [id, key] of Object.entries(texts)) at(id).textContent = words()[key];
  at("language").textContent = words().other;
  at("language").lang = words().otherLang;
  const kind = at("kind-filter").value;
  at("kind-filter").replaceChildren(new Option(words().usual, ""), new Option(words().all, "all"),
    ...Object.keys(words().kinds).map((name) => new Option(word("kinds", name), name)));
  at("kind-filter").value = kind;
}

function drawAll() {
  drawWords();
  drawFilters();
  drawConnection();
  drawDoors();
  drawEvents();
  drawPause();
}

at("language").addEventListener("click", () => { switchLanguage(); drawAll(); });
at("door-filter").addEventListener("change", drawEvents);
at("kind-filter").addEventListener("change", drawEvents);
at("pause").addEventListener("click", () => {
  paused = !paused;
  if (!paused) {
    for (const event of held) keep(event);
    held = [];
    drawFilters();
    drawDoors();
    drawEvents();
  }
  drawPause();
});
drawAll();
at("no-events").hidden = true; // not known yet
at("no-doors").hidden = true;
connect();
