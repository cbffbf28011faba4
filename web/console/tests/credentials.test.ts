import { expect, test } from "vitest";
import { Credentials } from "../src/api/credentials.js";

/** Storage as a tab has it. */
function storage(full = false): Storage {
  const values = new Map<string, string>();
  return {
    get length() {
      return values.size;
    },
    clear: () => values.clear(),
    getItem: (key) => values.get(key) ?? null,
    key: (index) => [...values.keys()][index] ?? null,
    removeItem: (key) => void values.delete(key),
    setItem: (key, value) => {
      if (full) throw new Error("full");
      values.set(key, value);
    },
  };
}

test("a token is kept for the tab only if that is wanted", () => {
  const tab = storage();
  new Credentials(tab).use("secret", false);
  expect(tab.length).toBe(0);
  expect(new Credentials(tab).token).toBeNull();
  new Credentials(tab).use("secret", true);
  expect(new Credentials(tab).token).toBe("secret");
});

test("a token that is not to be kept takes the kept one's place", () => {
  const tab = storage();
  const credentials = new Credentials(tab);
  credentials.use("old", true);
  credentials.use("new", false);
  expect(credentials.token).toBe("new");
  expect(tab.length).toBe(0);
});

test("a forgotten token is nowhere", () => {
  const tab = storage();
  const credentials = new Credentials(tab);
  credentials.use("secret", true);
  credentials.forget();
  expect([credentials.token, tab.length]).toEqual([null, 0]);
});

test("without storage, or with a full one, a token lives as long as the page", () => {
  for (const tab of [null, storage(true)]) {
    const credentials = new Credentials(tab);
    credentials.use("secret", true);
    expect(credentials.token).toBe("secret");
  }
});
