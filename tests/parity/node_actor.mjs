/** An actor in Node: commands come as lines of JSON on standard input, what it says goes to standard output.
 *
 *     node node_actor.mjs PATH_OF_THE_SDK PATH_OF_WS
 */

import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";
import { Actor } from "./actor.mjs";

const [, , sdkPath, wsPath] = process.argv;
const sdk = await import(pathToFileURL(sdkPath).href);
const WebSocket = globalThis.WebSocket ?? (await import(pathToFileURL(wsPath).href)).WebSocket;

const say = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);
const actor = new Actor(sdk, WebSocket, (record) => say({ record }));
createInterface({ input: process.stdin }).on("line", async (line) => {
  const { id, verb, how } = JSON.parse(line);
  say({ id, answer: await actor.do(verb, how) });
});
say({ ready: true });
