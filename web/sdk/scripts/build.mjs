/** Builds `dist/`: one minified module, and the types beside it. Fails when the module is larger than promised. */

import { execFileSync } from "node:child_process";
import { readFileSync, rmSync } from "node:fs";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";

/** Bytes of the module, compressed, that a page may have to load. */
const MOST = 20 * 1024;

rmSync("dist", { recursive: true, force: true });
await build({
  entryPoints: ["src/index.ts"],
  outfile: "dist/duolink.js",
  bundle: true,
  format: "esm",
  target: "es2022",
  minify: true,
  sourcemap: true,
  mangleProps: /^_[a-z]/, // what begins with an underscore is nobody else's
});
execFileSync("node", ["node_modules/typescript/bin/tsc", "-p", "tsconfig.build.json"], { stdio: "inherit" });

const module = readFileSync("dist/duolink.js");
const size = gzipSync(module, { level: 9 }).length;
console.log(`dist/duolink.js: ${module.length} bytes, ${size} gzipped`);
if (size > MOST) {
  console.error(`more than ${MOST} bytes`);
  process.exit(1);
}
