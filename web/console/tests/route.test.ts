import { expect, test } from "vitest";
import { hashOf, NO_QUERY, parseRoute, type Route } from "../src/route.js";

const ROUTES: Route[] = [
  { page: "overview" },
  { page: "clients", query: NO_QUERY },
  { page: "clients", query: { ...NO_QUERY, prefix: "a&b=?#/ü", state: "active", after: "z", sort: "-sent" } },
  { page: "client", client: "a/b %2F?#ü" },
  { page: "client", client: "clients" },
  { page: "channels", query: { ...NO_QUERY, prefix: "news/" } },
  { page: "channel", channel: "news/sport?x=1" },
  { page: "mailboxes", query: { ...NO_QUERY, order: "name", after: "@bob" } },
];

test.each(ROUTES)("an address leads where it was made: %j", (route) => {
  expect(parseRoute(hashOf(route))).toEqual(route);
});

test("the console opens with the overview", () => {
  for (const hash of ["", "#", "#/"]) expect(parseRoute(hash)).toEqual({ page: "overview" });
});

test.each(["#/nowhere", "#/clients/a/b", "#/mailboxes/bob", "#/clients/%zz", "#/overview/x"])(
  "%s is nowhere, and stays as it was written",
  (hash) => {
    const route = parseRoute(hash);
    expect(route).toEqual({ page: "unknown", hash });
    expect(hashOf(route)).toBe(hash);
  },
);

test("what an address does not say is as it is by default", () => {
  expect(parseRoute("#/clients?state=active&colour=red")).toEqual({
    page: "clients",
    query: { ...NO_QUERY, state: "active" },
  });
});
