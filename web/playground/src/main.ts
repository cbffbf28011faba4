/** The playground: two clients of a server in one page, and more in other windows. */

import type { WebSocketConstructor } from "duolink";
import "duolink-style/style.css";
import "./playground.css";
import { themeButton } from "duolink-style/theme";
import example from "../../../examples/page.html?raw";
import { freeName, queryOf, readAddress } from "./address.js";
import { byId } from "./elements.js";
import { Greeting } from "./greeting.js";
import { invite } from "./invitation.js";
import { Pane, type PaneUser } from "./pane.js";
import type { Place } from "./participant.js";
import { showTabs } from "./tabs.js";

themeButton(byId<HTMLButtonElement>("theme"));
byId("example").textContent = example;

const { room, names, fresh } = readAddress(location.search);
const tried = new Set(names);
let token = ""; // lives as long as the page
let panes: Pane[] = [];
const greeting = fresh && names.length > 1 ? new Greeting() : null;

const place: Place = {
  url: `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/ws`,
  room,
  WebSocket: WebSocket as WebSocketConstructor,
  token: () => token,
};

const user: PaneUser = {
  peopleChanged: () => {
    const people = new Set(panes.flatMap((pane) => [...pane.participant.present]));
    byId("people").textContent = people.size ? `${people.size} here` : "";
  },
  rename: (pane) => {
    const name = freeName(taken());
    tried.add(name);
    replace(pane, name);
    writeAddress();
  },
  useToken: (given) => {
    token = given;
    for (const pane of panes.filter((each) => each.participant.client.ending)) replace(pane, pane.name);
  },
  opened: (pane) => {
    if (pane === panes[0]) greeting?.begin(pane);
  },
  line: (pane, line) => greeting?.answer(pane, line),
};

/** Names that somebody has, or that were refused here. */
function taken(): string[] {
  return [...tried, ...panes.flatMap((pane) => [...pane.participant.present])];
}

function add(name: string): Pane {
  return new Pane(place, name, user);
}

/** Open a pane: its client knows the other one of this page, or (alone in a window) the first of the room. */
function open(pane: Pane): void {
  const others = panes.filter((each) => each !== pane).map((each) => each.name);
  const [first = "alice"] = readAddress("").names;
  pane.open(others.length || pane.name === first ? others : [first]);
}

function replace(pane: Pane, name: string): void {
  pane.participant.client.close().catch(() => {}); // it has ended by itself
  const next = add(name);
  panes = panes.map((each) => (each === pane ? next : each));
  pane.element.replaceWith(next.element);
  showTabs(byId("tabs"), panes);
  open(next);
}

function writeAddress(): void {
  const usual = panes.map((pane) => pane.name).join() === readAddress("").names.join();
  const query = usual ? queryOf(room) : queryOf(room, ...panes.map((pane) => pane.name));
  history.replaceState(null, "", `${location.pathname}${query}`);
}

panes = names.map(add);
byId("intro").classList.toggle("unseen", panes.length < 2); // it speaks of two
byId("panes").append(...panes.map((pane) => pane.element));
showTabs(byId("tabs"), panes);
writeAddress();
for (const pane of panes) open(pane);
addEventListener("pagehide", () => {
  for (const pane of panes) pane.keep();
});
invite(() => {
  const name = freeName(taken());
  return { name, url: `${location.origin}${location.pathname}${queryOf(room, name)}` };
});
