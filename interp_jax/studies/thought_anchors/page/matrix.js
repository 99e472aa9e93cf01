// The sentence-to-sentence heat map: a canvas with a cursor for mouse and keys.
(function () {
  "use strict";
  const report = window.report;
  const { el, svg, byId, known } = report;
  const canvas = byId("matrix");
  const EDGE = 30;
  let cursor = null; // {source, target}
  let geometry = null;
  let cells = null; // {key, sheet}: all cells, drawn once and copied whenever a mark moves

  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  function rgb(name) {
    const text = css(name);
    return [1, 3, 5].map((k) => parseInt(text.slice(k, k + 2), 16));
  }
  const mix = (a, b, t) => `rgb(${a.map((x, k) => Math.round(x + (b[k] - x) * t)).join(",")})`;

  // The scale ends at the 98th percentile of the sizes, so that one cell does not bleach the rest.
  function scaleOf(matrix) {
    const values = [];
    for (let t = 0; t < report.count; t++) for (let s = 0; s < t; s++) {
      const value = matrix.get(s, t);
      if (known(value)) values.push(value);
    }
    values.sort((a, b) => (matrix.signed ? Math.abs(a) - Math.abs(b) : a - b));
    if (!values.length) return { low: -1, high: 1 };
    const at = (share) => values[Math.min(values.length - 1, Math.floor(share * values.length))];
    if (matrix.signed) {
      const size = Math.abs(at(0.98)) || Math.abs(values[values.length - 1]) || 1;
      return { low: -size, high: size };
    }
    return { low: at(0.02), high: at(0.98) > at(0.02) ? at(0.98) : at(0.02) + 1 };
  }

  function draw() {
    const matrix = report.matrix();
    if (!matrix) return;
    const width = Math.floor(canvas.parentElement.clientWidth);
    if (width < 40) return;
    const cell = (width - EDGE - 2) / report.count;
    const ratio = window.devicePixelRatio || 1;
    const size = Math.round(width * ratio);
    if (canvas.width !== size) canvas.width = canvas.height = size;
    canvas.style.width = canvas.style.height = width + "px";
    geometry = { cell };
    const pen = canvas.getContext("2d");
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, size, size);
    pen.drawImage(sheetOf(matrix, cell, size, ratio), 0, 0);
    pen.scale(ratio, ratio);
    drawLabels(pen, cell);
    drawMarks(pen, cell);
  }

  // What the cells look like depends on nothing but this key; pointing changes none of it.
  function sheetOf(matrix, cell, size, ratio) {
    const colours = ["--surface", "--helps", "--hurts", "--moves"].map(css);
    const key = [matrix, report.trace, report.count, size, ratio, colours.join()];
    if (cells && cells.key.every((part, k) => part === key[k])) return cells.sheet;
    const sheet = document.createElement("canvas");
    sheet.width = sheet.height = size;
    const pen = sheet.getContext("2d");
    pen.scale(ratio, ratio);
    const { low, high } = scaleOf(matrix);
    const [paper, blue, orange, violet] = ["--surface", "--helps", "--hurts", "--moves"].map(rgb);
    const gap = cell > 9 ? 1 : 0;
    for (let t = 0; t < report.count; t++) for (let s = 0; s < t; s++) {
      const value = matrix.get(s, t);
      if (!known(value)) continue;
      if (matrix.signed) pen.fillStyle = mix(paper, value >= 0 ? blue : orange, Math.min(1, Math.abs(value) / high));
      else pen.fillStyle = mix(paper, violet, Math.min(1, Math.max(0, (value - low) / (high - low))));
      pen.fillRect(EDGE + s * cell, t * cell, cell - gap + (gap ? 0 : 0.5), cell - gap + (gap ? 0 : 0.5));
    }
    cells = { key, sheet };
    return sheet;
  }

  function drawLabels(pen, cell) {
    const step = [1, 2, 5, 10, 20, 50].find((n) => n * cell >= (report.count > 100 ? 26 : 17)) || 100;
    pen.fillStyle = css("--ink-3");
    pen.font = "11px " + css("--sans");
    for (let i = 0; i < report.count; i += step) {
      pen.textAlign = "right";
      pen.textBaseline = "middle";
      if (i) pen.fillText(i, EDGE - 7, (i + 0.5) * cell);
      pen.textAlign = "center";
      pen.textBaseline = "top";
      if (i < report.count - 1) pen.fillText(i, EDGE + (i + 0.5) * cell, report.count * cell + 5);
    }
    pen.textAlign = "right";
    pen.textBaseline = "top";
    pen.font = "12px " + css("--sans");
    if (report.count * cell > 240) {
      pen.fillText("column acts on row \u2199", EDGE + report.count * cell - 4, report.count * cell * 0.06);
    }
  }

  function drawMarks(pen, cell) {
    const now = report.focusSentence();
    pen.strokeStyle = css("--ink-2");
    pen.lineWidth = 1.25;
    const last = report.count;
    if (now !== null) {
      if (now) pen.strokeRect(EDGE, now * cell, now * cell, cell);
      if (now < last - 1) pen.strokeRect(EDGE + now * cell, (now + 1) * cell, cell, (last - now - 1) * cell);
    }
    if (cursor) {
      pen.strokeStyle = css("--ink");
      pen.lineWidth = 2;
      pen.strokeRect(EDGE + cursor.source * cell - 0.5, cursor.target * cell - 0.5, cell, cell);
    }
  }

  function read() {
    const matrix = report.matrix();
    const box = byId("matrix-readout");
    if (!cursor) {
      box.textContent = "Point at a cell, or focus the map and use the arrow keys.";
      return;
    }
    const value = matrix.get(cursor.source, cursor.target);
    const pair = `Sentence ${cursor.source} on sentence ${cursor.target}: `;
    box.textContent = known(value) ? `${pair}${matrix.write(value)}; ${matrix.verb(value)}.` : `${pair}undefined.`;
  }

  function point(event) {
    if (!geometry) return;
    const box = canvas.getBoundingClientRect();
    const source = Math.floor((event.clientX - box.left - EDGE) / geometry.cell);
    const target = Math.floor((event.clientY - box.top) / geometry.cell);
    setCursor(source >= 0 && source < target && target < report.count ? { source, target } : null);
  }

  function setCursor(next) {
    if (next && cursor && next.source === cursor.source && next.target === cursor.target) return;
    cursor = next;
    draw();
    read();
  }

  const STEPS = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] };
  function onKey(event) {
    if (event.key === "Enter" && cursor) report.select(cursor.source);
    else if (STEPS[event.key] && report.count > 1) {
      const from = cursor || { source: 0, target: 0 };
      const target = Math.min(report.count - 1, Math.max(1, from.target + STEPS[event.key][1]));
      const source = Math.min(target - 1, Math.max(0, from.source + STEPS[event.key][0]));
      setCursor({ source, target });
    } else return;
    event.preventDefault();
  }

  function buildSwitch() {
    for (const matrix of report.matrices) {
      const input = el("input", {
        type: "radio", name: "matrix", value: matrix.key, id: "matrix-" + matrix.key,
        on: { change: () => report.set({ matrix: matrix.key }) },
      });
      byId("matrix-switch").append(el("label", { for: input.id }, input, el("span", { text: matrix.name })));
    }
  }

  function paintSides() {
    const matrix = report.matrix();
    byId("matrix-" + matrix.key).checked = true;
    byId("matrix-help").textContent = matrix.help;
    canvas.setAttribute("aria-label", `Heat map, ${matrix.name}: ${report.count} by ${report.count} sentences`);
    const { low, high } = scaleOf(matrix);
    byId("matrix-ramp").replaceChildren(
      el("span", { class: "scale strong " + (matrix.signed ? "diverging" : "sequential"), "aria-hidden": "true" }),
      el("span", { class: "axis" }, el("span", { text: matrix.write(low) }), matrix.signed ? el("span", { text: "0" }) : null, el("span", { text: matrix.write(high) })));
    byId("matrix-table").replaceChildren(report.tableFor("Matrix as a table (rows: later sentence)",
      ["", ...Array.from({ length: report.count - 1 }, (_, s) => String(s))],
      () => Array.from({ length: report.count - 1 }, (_, k) =>
        [String(k + 1), ...Array.from({ length: report.count - 1 }, (_, s) => (s <= k ? matrix.write(matrix.get(s, k + 1)) : ""))])));
  }

  // The mean effect at each distance: what a method blind to content would predict.
  function buildDistance(part, name) {
    const profile = part ? part.distance_profile.filter(known) : [];
    if (profile.length < 2) return;
    const [low, high] = [Math.min(0, ...profile), Math.max(0, ...profile)];
    const [width, height] = [220, 84];
    const y = (v) => 4 + ((high - v) / (high - low || 1)) * (height - 8);
    const step = width / profile.length;
    const bars = profile.map((v, k) => svg("rect", {
      class: v >= 0 ? "helps" : "hurts", x: k * step + step * 0.1, width: Math.max(0.5, step * 0.8), y: Math.min(y(0), y(v)), height: Math.max(0.5, Math.abs(y(v) - y(0))),
    }));
    const explained = part.control ? part.control.explained : null;
    byId("distance").append(el("figure", { class: "distance" },
      el("figcaption", {}, el("b", { text: name + " by distance" }), known(explained) ? ` Distance alone explains ${report.percent(explained)} of the variance.` : " Near sentences count more whatever they say."),
      svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${name}: mean normalised effect at distance 1 to ${profile.length}` },
        svg("line", { x1: 0, x2: width, y1: y(0), y2: y(0) }), bars),
      el("span", { class: "axis", "aria-hidden": "true" }, el("span", { text: "1 sentence" }), el("span", { text: profile.length + " sentences" })),
      report.tableFor("Profile as a table", ["Distance", "Mean effect"], () => profile.map((v, k) => [String(k + 1), report.signed(v)]))));
  }

  report.startMatrix = function () {
    if (!report.matrices.length || report.count < 2) {
      byId("matrix-switch").hidden = byId("matrix-layout").hidden = true;
      const reason = report.count < 2 ? "The trace has a single sentence." : report.why(report.data.suppression);
      byId("matrix-help").replaceChildren(el("b", { text: "Not shown. " }), reason);
      return;
    }
    buildSwitch();
    buildDistance(report.parts.hiding, "Suppression");
    buildDistance(report.parts.deleting, "Masking");
    canvas.addEventListener("mousemove", point);
    canvas.addEventListener("mouseleave", () => setCursor(null));
    canvas.addEventListener("click", (event) => {
      point(event);
      if (cursor) report.select(cursor.source);
    });
    canvas.addEventListener("keydown", onKey);
    report.onChange(() => {
      paintSides();
      read();
    });
    report.onHover(draw);
    window.addEventListener("resize", draw);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  };
})();
