/** The frame around every page: header, notices, and the page that the address names. */

import { useContext, useEffect, useRef, useState } from "preact/hooks";
import type { Operations } from "./operations.js";
import { OperationsContext, useLive } from "./parts/live.js";
import { NoticeBoard } from "./parts/notices.js";
import { Standing } from "./parts/standing.js";
import { hashOf, NO_QUERY, parseRoute, type Route } from "./route.js";
import { ChannelView } from "./views/channel.js";
import { ChannelsView } from "./views/channels.js";
import { ClientView } from "./views/client.js";
import { ClientsView } from "./views/clients.js";
import { MailboxesView } from "./views/mailboxes.js";
import { Overview } from "./views/overview.js";
import { SignIn } from "./views/signin.js";

const PAGES: { title: string; route: Route; pages: Route["page"][] }[] = [
  { title: "Overview", route: { page: "overview" }, pages: ["overview"] },
  { title: "Clients", route: { page: "clients", query: NO_QUERY }, pages: ["clients", "client"] },
  { title: "Channels", route: { page: "channels", query: NO_QUERY }, pages: ["channels", "channel"] },
  { title: "Mailboxes", route: { page: "mailboxes", query: NO_QUERY }, pages: ["mailboxes"] },
];

export function App({ operations }: { operations: Operations }) {
  return (
    <OperationsContext.Provider value={operations}>
      <Frame />
    </OperationsContext.Provider>
  );
}

function Frame() {
  const operations = useContext(OperationsContext);
  const { standing, facts } = useLive();
  const route = useRoute();
  const main = useRef<HTMLElement>(null);
  const place = placeOf(route);
  const shown = useRef(place);

  useEffect(() => {
    document.title = `${titleOf(route)} · ${facts?.node ?? "duolink"} console`;
  });
  useEffect(() => {
    if (shown.current === place) return; // not when the page is opened, nor for another order of the same list
    shown.current = place;
    scrollTo(0, 0);
    main.current?.querySelector<HTMLElement>("h1")?.focus();
  }, [place]);

  const { refusal } = operations;
  return (
    <>
      <header>
        <a class="skip" href={hashOf(route)} onClick={(event) => skip(event, main.current)}>
          Skip to content
        </a>
        <div class="top">
          <span class="brand">duolink</span>
          <nav aria-label="Pages of this server">
            <a href="/playground/">Playground</a>
            <a href="/console/" aria-current="page">
              Console
            </a>
          </nav>
          <span class="spring" />
          <Standing />
        </div>
        {refusal ? null : (
          <nav class="tabs" aria-label="Console">
            {PAGES.map(({ title, route: to, pages }) => (
              <a key={title} href={hashOf(to)} aria-current={pages.includes(route.page) ? "page" : undefined}>
                {title}
              </a>
            ))}
          </nav>
        )}
      </header>
      {refusal ? null : <NoticeBoard />}
      <main ref={main} id="main" tabIndex={-1}>
        {refusal ? (
          <SignIn
            refusal={refusal}
            standing={standing}
            held={operations.credentials.token !== null}
            signIn={(token, keep) => operations.signIn(token, keep)}
          />
        ) : (
          <Place route={route} />
        )}
      </main>
    </>
  );
}

function Place({ route }: { route: Route }) {
  switch (route.page) {
    case "overview":
      return <Overview />;
    case "clients":
      return <ClientsView query={route.query} />;
    case "client":
      return <ClientView key={route.client} client={route.client} />;
    case "channels":
      return <ChannelsView query={route.query} />;
    case "channel":
      return <ChannelView key={route.channel} name={route.channel} />;
    case "mailboxes":
      return <MailboxesView query={route.query} />;
    case "unknown":
      return (
        <>
          <h1 tabIndex={-1}>Nothing is here</h1>
          <p>
            The console has no page <code>{route.hash}</code>. <a href="#/">Go to the overview.</a>
          </p>
        </>
      );
  }
}

function useRoute(): Route {
  const [hash, setHash] = useState(location.hash);
  useEffect(() => {
    const changed = () => setHash(location.hash);
    addEventListener("hashchange", changed);
    return () => removeEventListener("hashchange", changed);
  }, []);
  return parseRoute(hash);
}

/** What a route is about, without how it is ordered. */
function placeOf(route: Route): string {
  if (route.page === "client") return `client ${route.client}`;
  return route.page === "channel" ? `channel ${route.channel}` : route.page;
}

function titleOf(route: Route): string {
  if (route.page === "client") return route.client;
  if (route.page === "channel") return route.channel;
  return PAGES.find(({ pages }) => pages.includes(route.page))?.title ?? "Not found";
}

function skip(event: Event, main: HTMLElement | null): void {
  event.preventDefault();
  main?.focus();
}
