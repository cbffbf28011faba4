/** A number over the last ten minutes: a plot, and a table of the same in words. */

import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import { clock } from "../format.js";
import { type Series, SPAN, type Timeline } from "../model/timeline.js";
import { point, usePointed } from "./cursor.js";
import { ink, onTheme } from "./ink.js";
import { useLive } from "./live.js";
import { forget, paint } from "./painter.js";

const HEIGHT = 112;

/** Seconds of the time axis at least. */
const LEAST_SPAN = 60;

/** Below this a logarithmic scale does not go: a hundredth of a millisecond. */
const LEAST = 0.01;

/** Steps of a byte scale. */
const POWERS = Array.from({ length: 50 }, (_, power) => 2 ** power);

export interface Line {
  series: Series;
  label: string;
  /** One of the style's eight line colours. */
  color: 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8;
}

interface PlotProps {
  title: string;
  hint?: string;
  lines: Line[];
  format: (value: number | null) => string;
  scale?: "linear" | "log" | "bytes";
}

export function Plot({ title, hint, lines, format, scale = "linear" }: PlotProps) {
  const { timeline } = useLive();
  const pointed = usePointed();
  const place = usePlot(timeline, lines, format, scale);
  const time = timeline.time(pointed);
  return (
    <figure class="card plot">
      <figcaption>
        <h3>{title}</h3>
        {hint ? <span class="muted small">{hint}</span> : null}
      </figcaption>
      <div class="canvas" ref={place} aria-hidden="true" />
      <table class="legend numbers">
        <caption class="unseen">{title}, last 10 minutes</caption>
        <thead>
          <tr>
            <td />
            <th scope="col">{time === undefined ? "now" : clock(time * 1000, Date.now())}</th>
            <th scope="col">min</th>
            <th scope="col">max</th>
          </tr>
        </thead>
        <tbody>
          {lines.map(({ series, label, color }) => {
            const { now, min, max } = timeline.extremes(series);
            return (
              <tr key={series}>
                <th scope="row">
                  <span class="swatch" data-color={color} aria-hidden="true" />
                  {label}
                </th>
                <td class="now">{format(time === undefined ? now : timeline.value(series, pointed))}</td>
                <td>{format(min)}</td>
                <td>{format(max)}</td>
              </tr>
            );
          })}
        </tbody>
      </table>
    </figure>
  );
}

/** Keeps a uPlot in the element: made when it is first seen, redrawn with each sample while it can be seen, in its
 * size, in the theme's colours. */
function usePlot(timeline: Timeline, lines: Line[], format: PlotProps["format"], scale: string) {
  const place = useRef<HTMLDivElement>(null);
  const redraw = useRef<() => void>(() => {});

  useEffect(() => {
    const element = place.current;
    if (!element) return; // its lines stay what they are: one plot for the component's life
    let plot: uPlot | null = null;
    let visible = false;
    let width = element.clientWidth;

    const draw = () => {
      const data: uPlot.AlignedData = [
        timeline.times(),
        ...lines.map(({ series }) => values(timeline, series, scale)),
      ];
      if (!plot) {
        plot = new uPlot(options(lines, format, scale, width), data, element);
        return;
      }
      const drawn = plot;
      drawn.batch(() => {
        if (width && width !== drawn.width) drawn.setSize({ width, height: HEIGHT });
        drawn.setData(data);
      });
    };
    redraw.current = () => {
      if (visible) paint(draw);
    };
    const seen = new IntersectionObserver((entries) => {
      visible = entries.at(-1)?.isIntersecting ?? false;
      redraw.current();
    });
    seen.observe(element);
    const resized = new ResizeObserver(() => {
      width = element.clientWidth;
      redraw.current();
    });
    resized.observe(element);
    const unthemed = onTheme(() => redraw.current());
    return () => {
      seen.disconnect();
      resized.disconnect();
      unthemed();
      forget(draw);
      redraw.current = () => {};
      plot?.destroy();
    };
  }, []);

  const newest = timeline.newest;
  useEffect(() => redraw.current(), [newest]);
  return place;
}

function values(timeline: Timeline, series: Series, scale: string): (number | null)[] {
  const column = timeline.column(series);
  return scale === "log" ? column.map((value) => (value === null ? null : Math.max(LEAST, value))) : column;
}

function options(lines: Line[], format: PlotProps["format"], scale: string, width: number): uPlot.Options {
  const font = `11px ${getComputedStyle(document.body).fontFamily}`;
  const axis: uPlot.Axis = {
    stroke: () => ink("--muted"),
    font,
    grid: { stroke: () => ink("--line"), width: 1 },
    ticks: { show: false },
  };
  return {
    width,
    height: HEIGHT,
    padding: [6, 20, 0, 0],
    legend: { show: false },
    cursor: {
      y: false,
      drag: { x: false, y: false },
      sync: { key: "duolink console" },
      points: { size: 6 },
    },
    hooks: { setCursor: [(plot) => point(plot.cursor.idx ?? null)] },
    scales: {
      x: { time: true, range: (_, first, last) => span(first, last) },
      y:
        scale === "log"
          ? { distr: 3, range: (_, min, max) => decades(min, max) }
          : { range: (_, __, max) => [0, top(max)] },
    },
    axes: [
      {
        ...axis,
        size: 22,
        space: 64,
        incrs: [15, 30, 60, 120, 300],
        values: (_, times, __, ___, step) => times.map((time) => moment(time, step)),
        grid: { show: false },
      },
      {
        ...axis,
        size: 62,
        space: 26,
        gap: 6,
        ...(scale === "bytes" ? { incrs: POWERS } : {}),
        ...(scale === "log" ? { filter: powers, grid: { ...axis.grid, filter: powers } } : {}),
        values: (_, ticks) => ticks.map((tick) => (tick === null ? "" : format(tick))),
      },
    ],
    series: [
      {},
      ...lines.map(({ label, color }) => ({
        label,
        stroke: () => ink(`--client-${color}`),
        width: 1.5,
        points: { show: false },
      })),
    ],
  };
}

/** What is shown of the time axis: all there is, from a minute on. */
function span(first: number | null, last: number | null): [number, number] {
  if (first === null || last === null) return [0, LEAST_SPAN];
  return [Math.min(last - LEAST_SPAN, Math.max(last - SPAN, first)), last];
}

/** A tick of the time axis; with seconds where ticks are closer than a minute. */
const moment = (time: number, step: number): string =>
  clock(time * 1000, time * 1000).slice(0, step < 60 ? 8 : 5);

/** Of the ticks of a logarithmic axis, the powers of ten. */
const powers: uPlot.Axis.Filter = (_, ticks) =>
  ticks.map((tick) => (Number.isInteger(Math.round(Math.log10(tick) * 1e6) / 1e6) ? tick : null));

const top = (max: number | null): number => (max !== null && max > 0 ? max * 1.1 : 1);

function decades(min: number | null, max: number | null): [number, number] {
  const low = Math.floor(Math.log10(min !== null && min > 0 ? min : 1));
  const high = Math.ceil(Math.log10(max !== null && max > 0 ? max : 10));
  return [10 ** low, 10 ** Math.max(high, low + 1)];
}
