/** How a page of the server is built: at its address, into the Python package, fit for a strict policy. */

import { fileURLToPath } from "node:url";

/** Return the Vite configuration of the page at `/<name>/`. */
export function page(name) {
  return {
    base: `/${name}/`,
    build: {
      outDir: fileURLToPath(new URL(`../../src/duolink/server/pages/${name}`, import.meta.url)),
      emptyOutDir: true,
      target: "es2022",
      assetsInlineLimit: 0, // a policy of 'self' allows no data: but for images
      modulePreload: { polyfill: false }, // it would be one more script, for browsers that are gone
      reportCompressedSize: true,
    },
    test: { include: ["tests/**/*.test.ts"], passWithNoTests: true },
  };
}
