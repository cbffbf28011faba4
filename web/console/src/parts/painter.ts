/** Draws what is to be drawn a little at a time: a frame stays short however many plots there are. A hidden tab has no
 * frames, so nothing is drawn there. */

/** Milliseconds of a frame after which the rest waits for the next one. */
const BUDGET = 6;

const waiting = new Set<() => void>();
let planned = false;

/** Have `draw` called in one of the next frames, once. */
export function paint(draw: () => void): void {
  waiting.add(draw);
  plan();
}

/** Draw it no more. */
export function forget(draw: () => void): void {
  waiting.delete(draw);
}

function plan(): void {
  if (planned || !waiting.size) return;
  planned = true;
  requestAnimationFrame(() => {
    planned = false;
    const end = performance.now() + BUDGET;
    for (const draw of waiting) {
      waiting.delete(draw);
      draw();
      if (performance.now() >= end) break;
    }
    plan();
  });
}
