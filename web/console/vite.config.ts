import { page } from "duolink-style/vite";
import type { Plugin } from "vite";
import { defineConfig } from "vitest/config";
import { FakeApi } from "./tests/fake/api.js";

/** `npm run dev` works on the console with invented clients; with SERVER=http://127.0.0.1:8080, with those of a server. */
const fake: Plugin = {
  name: "fake-api",
  apply: "serve",
  configureServer({ middlewares }) {
    if (process.env.SERVER) return;
    const api = new FakeApi({ token: process.env.TOKEN ?? null });
    middlewares.use((request, response, next) => {
      if (!api.handle(request, response)) next();
    });
  },
};

export default defineConfig({
  ...page("console"),
  plugins: [fake],
  server: process.env.SERVER ? { proxy: { "/api": process.env.SERVER } } : {},
});
