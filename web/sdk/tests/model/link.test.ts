/** A link against every network: loss, repeats, disorder, cuts, restarts, and the promises through it all. */

import fc from "fast-check";
import { afterEach, describe, expect, test, vi } from "vitest";
import { Inbound } from "../../src/protocol/inbound.js";
import { Link } from "../../src/protocol/link.js";
import type { Ack } from "../../src/protocol/messages.js";
import { Outbound } from "../../src/protocol/outbound.js";
import { Sending } from "../../src/protocol/sending.js";
import { Broken, type Name, World } from "./world.js";

const end = fc.constantFrom<Name>("A", "B");
const index = fc.nat(7);
const flag = fc.boolean();
const lane = fc.constantFrom("messages", "messages", "bulk");

function times(count: number, step: () => void): void {
  for (let each = 0; each < count; each++) step();
}

/** A step on a data channel, where there is one. */
function onChannel(world: World, which: number, step: (path: string) => void): void {
  const paths = [...world.channels.keys()].sort();
  const path = paths[which % paths.length];
  if (path !== undefined) step(path);
}

/** What may happen, and with what. */
const RULES = {
  submit: [
    fc.tuple(end, lane, fc.integer({ min: 1, max: 5 }), flag),
    (world, name, lane, count, large) => times(count, () => world.submit(name, lane, null, large ? 1500 : 4)),
  ],
  submitWithADeadline: [
    fc.tuple(end, fc.constantFrom(0, 0.5, 3, 20), fc.integer({ min: 1, max: 8 })),
    (world, name, ttl, count) => times(count, () => world.submit(name, "messages", ttl)),
  ],
  relay: [fc.tuple(end, fc.integer({ min: 1, max: 6 })), (world, name, count) => world.relay(name, count)],
  arrive: [fc.tuple(end, fc.integer({ min: 1, max: 6 })), (world, name, count) => world.arrive(name, count)],
  exchange: [
    fc.tuple(flag, fc.constantFrom(0, 0.03, 1.2)),
    (world, finish, seconds) => {
      world.exchange(finish);
      world.advance(seconds);
      world.exchange(finish);
    },
  ],
  finish: [fc.tuple(end, index), (world, name, which) => world.finish(name, which)],
  advance: [fc.tuple(fc.constantFrom(0.01, 0.1, 1, 2.5, 7, 31)), (world, seconds) => world.advance(seconds)],
  connect: [fc.tuple(end, flag), (world, name, resumed) => world.connect(name, resumed)],
  cut: [
    fc.tuple(end, flag, flag),
    (world, name, back, resumed) => {
      world.cut(name);
      if (back) world.connect(name, resumed);
    },
  ],
  restart: [
    fc.tuple(end, flag, fc.nat(2)),
    (world, name, back, spared) => {
      if (spared) return;
      world.restart(name);
      if (back) world.connect(name);
    },
  ],
  open: [fc.tuple(flag), (world, proven) => world.open(proven)],
  close: [fc.tuple(index), (world, which) => onChannel(world, which, (path) => world.close(path))],
  silence: [
    fc.tuple(index, end),
    (world, which, to) => onChannel(world, which, (path) => world.silence(path, to)),
  ],
  deliver: [
    fc.tuple(index, end, index, fc.constantFrom(1, 1, 1, 0, 2)),
    (world, which, to, message, copies) =>
      onChannel(world, which, (path) => world.deliver(path, to, message, copies)),
  ],
  converse: [
    fc.tuple(index, fc.constantFrom(0, 0.02, 3)),
    (world, which, seconds) =>
      onChannel(world, which, (path) => {
        world.converse(path, 3);
        world.advance(seconds);
      }),
  ],
  // biome-ignore lint/suspicious/noExplicitAny: each rule has arguments of its own
} satisfies Record<string, [fc.Arbitrary<any[]>, (world: World, ...how: any[]) => void]>;

type Step = readonly [rule: keyof typeof RULES, how: readonly unknown[]];

const step: fc.Arbitrary<Step> = fc.oneof(
  ...Object.entries(RULES).map(([rule, [how]]) =>
    fc.tuple(fc.constant(rule as Step[0]), how as fc.Arbitrary<unknown[]>),
  ),
);

const tally = new Map<string, number>();

function play(watching: boolean, keepChannels: boolean, steps: readonly Step[]): void {
  const world = new World(watching);
  world.connect("A");
  world.connect("B");
  for (const [rule, how] of steps)
    (RULES[rule][1] as (world: World, ...how: unknown[]) => void)(world, ...how);
  world.heal(keepChannels);
  for (const [what, count] of world.tally) tally.set(what, (tally.get(what) ?? 0) + count);
}

/** Play histories; throws at the first broken promise. The seed makes them the same in every run. */
function search(seed: number, runs: number): void {
  const histories = fc.tuple(flag, flag, fc.array(step, { minLength: 10, maxLength: 60, size: "max" }));
  fc.assert(
    fc.property(histories, ([watching, keep, steps]) => play(watching, keep, steps)),
    { seed, numRuns: runs, endOnFailure: true },
  );
}

afterEach(() => {
  vi.restoreAllMocks();
});

const ROUNDS = Number(process.env.ROUNDS ?? 1);

test("a link keeps its promises over any network", () => {
  for (let round = 1; round <= ROUNDS; round++) search(round, 600);
}, 600_000);

test("the hard cases really occur", () => {
  if (!tally.size) search(1, 600);
  for (const occurrence of [
    "message on a data channel",
    "skip on a data channel",
    "ack on a data channel",
    "wait from the server",
    "skip from the server",
    "a cursor rode",
    "asked to send again",
    "heard of expired",
    "settled as expired",
    "settled as delivered",
    "received again by a new process",
  ]) {
    expect(tally.get(occurrence) ?? 0, `never: ${occurrence}`).toBeGreaterThan(0);
  }
});

// --- negative controls: each planted defect must turn the model red ---------------------------------

/** Have the acknowledgements of a receiver say something else. */
function changeAcks(change: (ack: Ack) => Partial<Ack>): void {
  const make = Inbound.prototype.ack;
  vi.spyOn(Inbound.prototype, "ack").mockImplementation(function (this: Inbound, ...how) {
    const ack = make.apply(this, how);
    return { ...ack, ...change(ack) };
  });
}

/** Have a getter of the sender say something else. */
function changeBase(base: (outbound: Outbound) => number): void {
  vi.spyOn(Outbound.prototype, "base", "get").mockImplementation(function (this: Outbound) {
    return base(this);
  });
}

const PLANTED: Record<string, () => void> = {
  "repeats are handed over"() {
    const take = Inbound.prototype.message;
    vi.spyOn(Inbound.prototype, "message").mockImplementation(function (this: Inbound, message, ...how) {
      if (message.seq < this.expected) return [{ kind: "received", lane: this.lane, message }];
      return take.call(this, message, ...how);
    });
  },
  "what comes early is handed over"() {
    const take = Inbound.prototype.message;
    vi.spyOn(Inbound.prototype, "message").mockImplementation(function (this: Inbound, message, ...how) {
      if (message.seq > this.expected) this.expected = message.seq;
      return take.call(this, message, ...how);
    });
  },
  "acknowledgements are dropped"() {
    vi.spyOn(Link.prototype as unknown as { _acknowledge(): void }, "_acknowledge").mockImplementation(
      () => {},
    );
    vi.spyOn(Inbound.prototype, "mayRide").mockReturnValue(false);
    const timer = Link.prototype.nextTimer;
    vi.spyOn(Link.prototype, "nextTimer").mockImplementation(function (this: Link, now) {
      const at = timer.call(this, now);
      return at <= now ? now + 1 : at; // what is owed stays owed; the clock shall go on all the same
    });
  },
  "it is acknowledged before it is finished"() {
    changeAcks((ack) => ({ seq: Math.max(ack.seq, ack.received) }));
  },
  "what was lost is forgotten"() {
    changeAcks(() => ({ lost: [] }));
  },
  "base never moves"() {
    changeBase(() => 1);
  },
  "base moves too early"() {
    changeBase((outbound) => Math.max(outbound.received + 1, outbound.nextSeq - 1));
  },
  "wait is ignored"() {
    const take = Link.prototype.receive;
    vi.spyOn(Link.prototype, "receive").mockImplementation(function (this: Link, message, ...how) {
      if (message.type !== "wait") take.call(this, message, ...how);
    });
  },
  "nobody probes"() {
    const machine = Link.prototype as unknown as { _probe(sending: { probeAt: number }): void };
    vi.spyOn(machine, "_probe").mockImplementation((sending) => {
      sending.probeAt = Infinity;
    });
  },
  "nothing is sent again"() {
    vi.spyOn(Link.prototype, "pathUp").mockImplementation(function (this: Link, path, kind, now) {
      this.paths.open(path, kind, now);
    });
    vi.spyOn(Link.prototype, "pathDown").mockImplementation(function (this: Link, path) {
      this.paths.close(path);
    });
    vi.spyOn(Link.prototype, "peerChanged").mockImplementation(() => {});
    vi.spyOn(Sending.prototype, "rewind").mockImplementation(() => {});
    vi.spyOn(Link.prototype as unknown as { _knock(): void }, "_knock").mockImplementation(() => {});
  },
};

describe("a planted defect turns the model red", () => {
  test.each(Object.entries(PLANTED))(
    "%s",
    (_, plant) => {
      plant();
      let failure: unknown = null;
      for (let seed = 1; seed <= 40 && !failure; seed++) {
        try {
          search(seed, 50);
        } catch (error) {
          failure = error;
        }
      }
      expect(failure).toBeInstanceOf(Error);
      const { cause } = failure as Error;
      expect(cause ?? failure).toBeInstanceOf(cause ? Broken : Error);
      expect(String((failure as Error).message)).toContain("Property failed");
    },
    120_000,
  );
});
