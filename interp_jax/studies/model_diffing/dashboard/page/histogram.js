// The histogram of a latent's activations: bins evenly spaced in log2, linear counts.
(function () {
  "use strict";
  const report = window.report;
  const { svg, el, data, number } = report;
  const WIDTH = 420, HEIGHT = 132, LEFT = 4, BOTTOM = 20, TOP = 16;

  const edge = (bin) => 2 ** (data.bins.lowest + bin / data.bins.per_octave);
  const plural = (count) => number(count) + (count === 1 ? " token" : " tokens");

  // bins: [first, count, ...]; bands: [[low, high, examples], ...]
  report.histogram = function (bins, bands) {
    const [first, ...counts] = bins;
    // A bin of empty room to each side, and three octaves at least: one token is no wall.
    const spare = Math.max(1, Math.ceil((3 * data.bins.per_octave - counts.length) / 2));
    const [from, to] = [first - spare, first + counts.length + spare];
    const x = (at) => LEFT + ((at - from) / (to - from)) * (WIDTH - 2 * LEFT);
    const most = Math.max(...counts);
    const y = (count) => HEIGHT - BOTTOM - (count / most) * (HEIGHT - BOTTOM - TOP);
    const bars = counts.map((count, k) => svg("rect", {
      class: "bar", x: x(first + k) + 0.5, width: Math.max(x(first + k + 1) - x(first + k) - 1, 1), y: y(count), height: HEIGHT - BOTTOM - y(count),
    }, svg("title", { text: `${number(edge(first + k))} to ${number(edge(first + k + 1))}: ${plural(count)}` })));
    const binOf = (value) => (Math.log2(value) - data.bins.lowest) * data.bins.per_octave;
    const cuts = bands.slice(0, -1).map(([low]) => binOf(low)).filter((at) => at > from && at < to)
      .map((at) => svg("line", { class: "cut", x1: x(at), x2: x(at), y1: TOP - 6, y2: HEIGHT - BOTTOM }));
    // Whole powers of two, or of four or more where these would crowd.
    const octaves = (to - from) / data.bins.per_octave;
    const step = [1, 2, 4, 8].find((n) => octaves / n <= 7) || 16;
    const ticks = [];
    for (let power = Math.ceil(data.bins.lowest + from / data.bins.per_octave); power <= data.bins.lowest + to / data.bins.per_octave; power++) {
      if (power % step !== 0 && step > 1) continue;
      const at = x((power - data.bins.lowest) * data.bins.per_octave);
      if (at < 14 || at > WIDTH - 14) continue;
      ticks.push(svg("line", { class: "tick", x1: at, x2: at, y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM + 4 }),
        svg("text", { class: "tick-text", x: at, y: HEIGHT - 5, "text-anchor": "middle" }, number(2 ** power)));
    }
    const total = counts.reduce((a, b) => a + b, 0);
    const told = `Histogram of ${plural(total)} from ${number(edge(first))} to ${number(edge(first + counts.length))}; the fullest bin has ${number(most)}.`;
    return el("figure", { class: "histogram" },
      svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": told },
        svg("line", { class: "base", x1: 0, x2: WIDTH, y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM }), bars, cuts, ticks,
        svg("text", { class: "tick-text", x: 0, y: 9 }, plural(most) + " in the fullest bin")),
      el("figcaption", { class: "aside", text: `${plural(total)}, scaled activation on a log scale, ${data.bins.per_octave} bins an octave` + (cuts.length ? "; lines: bands of the samples below." : ".") }));
  };
})();
