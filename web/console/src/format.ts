/** Numbers, times and names as an operator reads them. What is not known is "–". */

export const UNKNOWN = "–";

type Maybe = number | null | undefined;

const WHOLE = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const known = (value: Maybe): value is number => typeof value === "number" && Number.isFinite(value);

/** 1234 → "1,234" */
export const count = (value: Maybe): string => (known(value) ? WHOLE.format(value) : UNKNOWN);

/** Three digits that count, and a prefix: 12345 → "12.3k". Whole below 1000 if it is whole. */
export function short(value: Maybe): string {
  if (!known(value)) return UNKNOWN;
  return scaled(value, 1000, ["", "k", "M", "G", "T"], "");
}

/** "1 client", "3 clients" */
export const things = (number: number, one: string, many = `${one}s`): string =>
  `${count(number)} ${number === 1 ? one : many}`;

/** 2048 → "2 KiB" */
export const bytes = (value: Maybe): string =>
  known(value) ? scaled(value, 1024, ["B", "KiB", "MiB", "GiB", "TiB"], " ") : UNKNOWN;

export const perSecond = (value: Maybe): string => (known(value) ? `${short(value)}/s` : UNKNOWN);

export const bytesPerSecond = (value: Maybe): string => (known(value) ? `${bytes(value)}/s` : UNKNOWN);

export const percent = (value: Maybe): string => (known(value) ? `${digits(value)} %` : UNKNOWN);

/** A short duration in milliseconds: "0.24 ms", "1.5 s" */
export function milliseconds(value: Maybe): string {
  if (!known(value)) return UNKNOWN;
  if (value < 1000) return `${digits(value)} ms`;
  return value < 120_000 ? `${digits(value / 1000)} s` : duration(value / 1000);
}

/** A long duration in seconds, its two largest units: "3 d 4 h", "2 min 5 s" */
export function duration(seconds: Maybe): string {
  if (!known(seconds)) return UNKNOWN;
  const whole = Math.max(0, Math.floor(seconds));
  const units: [number, string][] = [
    [86_400, "d"],
    [3600, "h"],
    [60, "min"],
    [1, "s"],
  ];
  const index = units.findIndex(([size]) => whole >= size);
  if (index < 0) return "0 s";
  const [size, name] = units[index] as [number, string];
  const text = `${Math.floor(whole / size)} ${name}`;
  const next = units[index + 1];
  const rest = next ? Math.floor((whole % size) / next[0]) : 0;
  return next && rest ? `${text} ${rest} ${next[1]}` : text;
}

/** How long ago, seen from `now`. A clock that is a little ahead is "just now". */
export function ago(time: Maybe, now: number): string {
  if (!known(time)) return UNKNOWN;
  const seconds = (now - time) / 1000;
  return seconds < 1 ? "just now" : `${duration(seconds)} ago`;
}

/** The time of day; with the day when it is not today's. */
export function clock(time: Maybe, now: number): string {
  if (!known(time)) return UNKNOWN;
  const [date, today] = [new Date(time), new Date(now)];
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  const text = `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
  return date.toDateString() === today.toDateString() ? text : `${day} ${text}`;
}

/** Data as one line of text of at most `most` characters. */
export function line(value: unknown, most: number): string {
  const text = typeof value === "string" ? value : (JSON.stringify(value) ?? UNKNOWN);
  return text.length <= most ? text : `${text.slice(0, most - 1)}…`;
}

/** "slow_consumer" → "slow consumer" */
export const words = (name: string): string => name.replaceAll("_", " ");

const two = (value: number): string => String(value).padStart(2, "0");

/** Three digits that count. */
function digits(value: number): string {
  const size = Math.abs(value);
  if (size >= 100 || Number.isInteger(value)) return WHOLE.format(value);
  return trimmed(value.toFixed(size >= 10 ? 1 : size >= 0.095 ? 2 : 3));
}

const trimmed = (text: string): string => text.replace(/\.?0+$/, "");

function scaled(value: number, base: number, units: string[], space: string): string {
  let power = 0;
  while (power < units.length - 1 && Math.abs(value) >= base) {
    value /= base;
    power += 1;
  }
  return `${digits(value)}${space}${units[power]}`;
}
