/** A real server in a process of its own, and what else runs in Python beside it. */

import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { WebSocket as Package } from "ws";
import type { ClientOptions } from "../../src/client.js";
import { Client, connect } from "../../src/index.js";
import type { Resumption } from "../../src/protocol/session.js";
import type { WebSocketConstructor } from "../../src/transport.js";

const ROOT = new URL("../../../../", import.meta.url).pathname;
/** Where duolink is installed; `DUOLINK_PYTHON` names another one. */
const PYTHON = process.env.DUOLINK_PYTHON ?? join(ROOT, ".venv/bin/python");
const ENVIRONMENT = { PATH: process.env.PATH, HOME: process.env.HOME, PYTHONPATH: join(ROOT, "src") };

/** The platform's WebSocket, or that of the package `ws` before Node 22. */
export const WebSocket: WebSocketConstructor = globalThis.WebSocket ?? Package;

/** Whether there is a Python that can serve. */
export const canServe = (() => {
  try {
    execFileSync(PYTHON, ["-c", "import duolink.server.app"], { env: ENVIRONMENT, stdio: "ignore" });
    return true;
  } catch {
    return false;
  }
})();

/** A port below those that the system gives to outgoing connections: nobody takes it while the server is dead. */
async function freePort(): Promise<number> {
  for (let port = 20_000 + (process.pid % 10_000); ; port++) {
    const free = await new Promise<boolean>((resolve) => {
      const probe = createServer();
      probe.once("error", () => resolve(false));
      probe.listen(port, "127.0.0.1", () => probe.close(() => resolve(true)));
    });
    if (free) return port;
  }
}

/** A command of `duolink`, on pipes. */
export class Command {
  readonly process: ChildProcess;
  readonly lines: string[] = [];
  readonly ended: Promise<number | null>;
  private heard = () => {};

  constructor(...words: string[]) {
    this.process = spawn(PYTHON, ["-m", "duolink.cli.main", ...words], {
      env: ENVIRONMENT,
      cwd: tmpdir(),
      stdio: ["pipe", "pipe", "pipe"],
    });
    for (const stream of [this.process.stdout, this.process.stderr]) {
      if (!stream) continue;
      createInterface({ input: stream }).on("line", (line) => {
        this.lines.push(line);
        this.heard();
      });
    }
    this.ended = new Promise((resolve) => this.process.on("exit", (code) => resolve(code)));
  }

  /** Wait until it has said what a function looks for. */
  async says(enough: (lines: readonly string[]) => boolean): Promise<void> {
    while (!enough(this.lines)) {
      await Promise.race([
        new Promise<void>((resolve) => {
          this.heard = resolve;
        }),
        this.ended.then((code) => {
          throw new Error(`it has ended with ${code}: ${this.lines.join("\n")}`);
        }),
      ]);
    }
  }

  /** SIGKILL: it can neither save anything nor say goodbye. SIGTERM: it drains. */
  async stop(signal: "SIGKILL" | "SIGTERM" = "SIGKILL"): Promise<number | null> {
    this.process.kill(signal);
    return this.ended;
  }
}

/** `duolink serve`, on the same port and database in each of its lives. */
export class Server {
  private command: Command | null = null;
  private readonly folder = mkdtempSync(join(tmpdir(), "duolink-"));
  private port = 0;
  private readonly clients: Client[] = [];

  async start(): Promise<void> {
    this.port ||= await freePort();
    const where = ["--port", String(this.port), "--database", join(this.folder, "duolink.db")];
    this.command = new Command("serve", ...where);
    await this.command.says((lines) => lines.some((line) => line.includes("Ctrl-C ends it")));
  }

  get url(): string {
    return `ws://127.0.0.1:${this.port}`;
  }

  async stop(signal: "SIGKILL" | "SIGTERM" = "SIGKILL"): Promise<number | null> {
    return (await this.command?.stop(signal)) ?? null;
  }

  /** Connect a client; it does not wait long between its attempts. */
  async client(clientId: string, options: Partial<ClientOptions> = {}): Promise<Client> {
    const client = await connect(this.url, {
      clientId,
      WebSocket,
      backoffInitial: 0.1,
      backoffCap: 0.3,
      ...options,
    });
    this.clients.push(client);
    return client;
  }

  /** Connect a client as the page does that comes after one with this session. */
  async resumed(clientId: string, resumption: Resumption): Promise<Client> {
    const client = new Client(this.url, { clientId, WebSocket });
    const page = (client as unknown as { _page: { take(): Promise<Resumption> } })._page;
    page.take = async () => resumption;
    await client.open();
    this.clients.push(client);
    return client;
  }

  /** End everything. */
  async end(): Promise<void> {
    for (const client of this.clients) {
      client.closeTimeout = 0;
      await client.close().catch(() => {});
    }
    await this.stop();
    rmSync(this.folder, { recursive: true, force: true });
  }
}
