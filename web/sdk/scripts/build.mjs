/** Builds `dist/`: one minified module, and the types beside it. With `--strict` it fails when the module is larger than
 * promised: not where somebody builds it to use it, since what gzip makes differs by some bytes from machine to machine. */

import { execFileSync } from "node:child_process";
import { rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { brotliCompressSync, gzipSync } from "node:zlib";
import { build } from "esbuild";
import { minify } from "terser";
import { knownNames, shortNames } from "./names.mjs";

/** Bytes of the module, gzipped, that a page may have to load. */
const MOST = 20_480;

const known = knownNames("src/index.ts", "src/protocol/messages.ts");
rmSync("dist", { recursive: true, force: true });
const bundle = await build({
  entryPoints: ["src/index.ts"],
  outfile: "dist/duolink.js",
  bundle: true,
  format: "esm",
  target: "es2022",
  minifySyntax: true,
  mangleProps: /^/, // all but those that somebody else knows
  mangleCache: shortNames("src/index.ts", known),
  reserveProps: new RegExp(`^(${known.join("|")})$`),
  sourcemap: "external",
  write: false,
});
const [map, code] = bundle.outputFiles.map((file) => file.text);
const module = await minify(code, {
  module: true,
  ecma: 2020,
  compress: {
    passes: 3,
    pure_getters: true,
    unsafe_arrows: true,
    if_return: false,
    unsafe_comps: true, // turns `<` around: what is compared are numbers, without side effects
    inline: 0,
    lhs_constants: false,
    unsafe: true,
  },
  sourceMap: { content: map, filename: "duolink.js", url: "duolink.js.map" },
});
const tsc = createRequire(import.meta.url).resolve("typescript/bin/tsc");
execFileSync("node", [tsc, "-p", "tsconfig.build.json"], { stdio: "inherit" });
writeFileSync("dist/duolink.js", module.code);
writeFileSync("dist/duolink.js.map", module.map);

const size = gzipSync(module.code, { level: 9 }).length;
const brotli = brotliCompressSync(module.code).length;
console.log(`dist/duolink.js: ${module.code.length} bytes, ${size} gzipped, ${brotli} with brotli`);
if (size > MOST) {
  console.error(`more than ${MOST} bytes`);
  if (process.argv.includes("--strict")) process.exit(1);
}
