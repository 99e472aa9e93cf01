// The circle: sentences in order, clockwise from the top; size by measure, colour by kind.
// The base links are drawn when a choice changes; pointing only draws those of one sentence.
(function () {
  "use strict";
  const report = window.report;
  const { svg, byId, state } = report;
  const [CENTRE, RADIUS, NEAR] = [360, 300, 52];
  let nodes = [];
  let spots = [];
  let shown = new Set();
  let drawn = null; // what the base links were drawn for
  let unit = 1; // length of a pixel in the drawing

  // A gap at the top parts the last sentence from the first.
  function place(i, radius) {
    const gap = Math.max(0.1, (2 * Math.PI) / Math.max(1, report.count));
    const angle = -Math.PI / 2 + gap / 2 + (report.count > 1 ? (i / (report.count - 1)) * (2 * Math.PI - gap) : 0);
    return { x: CENTRE + radius * Math.cos(angle), y: CENTRE + radius * Math.sin(angle), angle };
  }
  const at = (value) => value.toFixed(1);

  // Bends towards the centre, less for near sentences.
  function curve(from, to) {
    const [a, b] = [spots[from], spots[to]];
    const chord = Math.hypot(a.x - b.x, a.y - b.y) / (2 * RADIUS);
    const pull = 0.35 + 0.55 * Math.min(1, chord);
    const bend = (p, q) => CENTRE + ((p + q) / 2 - CENTRE) * (1 - pull);
    return `M${at(a.x)} ${at(a.y)}Q${at(bend(a.x, b.x))} ${at(bend(a.y, b.y))} ${at(b.x)} ${at(b.y)}`;
  }

  const linkPath = (from, to, value, extra) => svg("path", {
    class: `link ${report.linkSide(value)}${extra || ""}`, d: curve(from, to), "data-from": from, "data-to": to,
    style: { "--size": report.linkSize(value).toFixed(3) },
  });

  function build() {
    spots = Array.from({ length: report.count }, (_, i) => place(i, RADIUS));
    const [first, last] = [spots[0], spots[spots.length - 1]];
    const big = report.count > 2 ? 1 : 0; // SVG: the long way round
    byId("thread").setAttribute("d", report.count > 1 ? `M${at(first.x)} ${at(first.y)}A${RADIUS} ${RADIUS} 0 ${big} 1 ${at(last.x)} ${at(last.y)}` : "");
    ticks();
    nodes = spots.map((spot, i) => svg("circle", { cx: at(spot.x), cy: at(spot.y), "data-index": i }));
    byId("nodes").replaceChildren(...nodes);
    byId("circle").setAttribute("aria-label", `Circle of ${report.count} sentences. Arrow keys walk, Enter pins.`);
  }

  function ticks() {
    const step = [1, 5, 10, 20, 50].find((n) => report.count / n <= 26) || 100;
    const texts = [];
    for (let i = 0; i < report.count; i += step) {
      const spot = place(i, RADIUS + 13 + 9 * unit);
      texts.push(svg("text", { class: "tick", x: at(spot.x), y: at(spot.y), "data-tick": i, text: i }));
    }
    byId("ticks").replaceChildren(...texts);
  }

  function paint() {
    shown = report.kept();
    const metric = report.metric();
    const most = Math.min(17, Math.max(7, 1400 / Math.max(1, report.count)));
    nodes.forEach((node, i) => {
      const radius = 2.6 + (most - 2.6) * Math.sqrt(report.size(i));
      const side = metric ? metric.side(metric.value(i)) : "none";
      node.setAttribute("class", `node tag-${report.tagOf(i).short} ${side}${shown.has(i) ? "" : " away"}${state.sentence === i ? " pinned" : ""}`);
      node.style.setProperty("--size", report.size(i).toFixed(3));
      node.setAttribute("r", shown.has(i) ? radius.toFixed(2) : "1.4");
    });
    // Pinning changes no link, and they are the most of the drawing.
    const { trace, matrix, k } = state;
    const drawing = JSON.stringify([trace, matrix, k, [...shown]]);
    if (drawing === drawn) return;
    drawn = drawing;
    const paths = [];
    if (k) for (const i of shown) for (const link of report.linksOf(i, k).outgoing) {
      if (shown.has(link.sentence)) paths.push(linkPath(i, link.sentence, link.value));
    }
    byId("links").replaceChildren(...paths);
  }

  // At least three each way for the sentence in focus, however few are drawn for all.
  function paintFocus() {
    const now = report.focusSentence();
    byId("circle").classList.toggle("has-focus", now !== null);
    nodes.forEach((node, i) => {
      node.classList.toggle("focused", now === i);
      node.classList.remove("linked");
    });
    const { outgoing, incoming } = report.linksOf(now, Math.max(3, state.k));
    byId("focus-links").replaceChildren(
      ...incoming.map((link) => linkPath(link.sentence, now, link.value, " incoming")),
      ...outgoing.map((link) => linkPath(now, link.sentence, link.value, " outgoing")));
    const labels = now === null ? [] : [
      ...incoming.map((link) => ({ i: link.sentence, text: "from " + link.sentence, side: report.linkSide(link.value) })),
      { i: now, text: String(now), side: "self" },
      ...outgoing.map((link) => ({ i: link.sentence, text: "to " + link.sentence, side: report.linkSide(link.value) })),
    ];
    for (const label of labels) nodes[label.i].classList.add("linked");
    byId("labels").replaceChildren(...spread(labels).map((label) => svg("text", {
      class: "label " + label.side, x: at(label.x), y: at(label.y), text: label.text,
      "text-anchor": Math.abs(Math.cos(label.angle)) < 0.35 ? "middle" : Math.cos(label.angle) > 0 ? "start" : "end",
    })));
    if (spots.length && now !== null) {
      byId("focus-ring").setAttribute("cx", at(spots[now].x));
      byId("focus-ring").setAttribute("cy", at(spots[now].y));
      byId("focus-ring").setAttribute("r", (Number(nodes[now].getAttribute("r")) + 5).toFixed(2));
    }
    byId("focus-ring").setAttribute("class", now === null ? "off" : report.walked() === now ? "walked" : "");
  }

  // Texts are wider than high, so they need more room at the top and the bottom.
  const apart = (angle) => (unit * (16 + 42 * Math.sin(angle) ** 2)) / RADIUS;

  function measure() {
    const frame = byId("circle").getBoundingClientRect();
    if (!frame.width) return;
    const before = unit;
    unit = 720 / Math.min(frame.width, frame.height);
    byId("circle").style.setProperty("--unit", unit.toFixed(3));
    if (Math.abs(unit - before) > 0.01 && report.count) {
      ticks();
      paintFocus();
    }
  }

  // Labels of neighbours are pushed along the circle until they stand apart.
  function spread(labels) {
    const placed = labels.map((label) => ({ ...label, angle: spots[label.i].angle })).sort((a, b) => a.i - b.i);
    const middle = placed.findIndex((label) => label.side === "self");
    for (let k = middle + 1; k < placed.length; k++) placed[k].angle = Math.max(placed[k].angle, placed[k - 1].angle + apart(placed[k].angle));
    for (let k = middle - 1; k >= 0; k--) placed[k].angle = Math.min(placed[k].angle, placed[k + 1].angle - apart(placed[k].angle));
    const far = RADIUS + 14 + 12 * unit;
    return placed.map((label) => ({ ...label, x: CENTRE + far * Math.cos(label.angle), y: CENTRE + far * Math.sin(label.angle) }));
  }

  // The nearest sentence within reach of the circle's line: small nodes are easy to hit.
  function nearest(event) {
    const frame = byId("circle").getBoundingClientRect();
    const scale = 720 / Math.min(frame.width, frame.height);
    const x = (event.clientX - frame.left - frame.width / 2) * scale + CENTRE;
    const y = (event.clientY - frame.top - frame.height / 2) * scale + CENTRE;
    if (Math.abs(Math.hypot(x - CENTRE, y - CENTRE) - RADIUS) > NEAR) return null;
    let best = null;
    let least = NEAR;
    for (const i of shown) {
      const distance = Math.hypot(spots[i].x - x, spots[i].y - y);
      if (distance < least) [best, least] = [i, distance];
    }
    return best;
  }

  report.startCircle = function () {
    const circle = byId("circle");
    circle.addEventListener("mousemove", (event) => {
      const i = nearest(event);
      circle.classList.toggle("at-node", i !== null);
      report.hover(i);
    });
    circle.addEventListener("mouseleave", () => report.hover(null));
    circle.addEventListener("click", (event) => {
      const i = nearest(event);
      if (i !== null) report.select(i);
    });
    report.onTrace(build);
    report.onChange(() => {
      measure();
      paint();
    });
    new ResizeObserver(measure).observe(circle);
    report.onHover(paintFocus);
  };
})();
