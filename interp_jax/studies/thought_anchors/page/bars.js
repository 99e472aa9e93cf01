// Methods side by side: one row per sentence, one column of bars per method, links as arcs.
(function () {
  "use strict";
  const report = window.report;
  const { data, el, svg, byId, known, hasRange } = report;
  const rows = [];
  let arcs = null;
  let measure = "kl";

  // Resampling and counterfactual each take one column; the measure follows the switch.
  function columns() {
    return report.methods.filter((m) => m.available &&
      (m.family === "receiver" || m.family === "suppression" || m.key.endsWith(measure)));
  }

  function domain(method) {
    let low = 0;
    let high = 0;
    for (let i = 0; i < report.count; i++) {
      const range = method.range(i);
      const points = [method.value(i), method.reference(i)].concat(hasRange(range) ? range : []);
      for (const point of points.filter(known)) {
        low = Math.min(low, point);
        high = Math.max(high, point);
      }
    }
    return low === high ? [0, 1] : [low, high];
  }

  function bar(method, i, [low, high]) {
    const value = method.value(i);
    const at = (x) => ((x - low) / (high - low)) * 100;
    const cell = el("div", { class: "bar", "data-method": method.key });
    if (low < 0) cell.append(el("i", { class: "zero", style: { left: at(0) + "%" } }));
    if (!known(value)) return cell.append(el("span", { class: "undefined", text: "\u2013" })), cell;
    cell.append(el("i", {
      class: "fill " + method.side(value) + (method.clear(i) ? "" : " unsure"),
      style: { left: Math.min(at(0), at(value)) + "%", width: Math.abs(at(value) - at(0)) + "%" },
    }));
    const reference = method.reference(i);
    if (known(reference) && reference !== 0) cell.append(el("i", { class: "reference", style: { left: at(reference) + "%" } }));
    const range = method.range(i);
    if (hasRange(range)) {
      cell.append(el("i", { class: "range", style: { left: at(range[0]) + "%", width: at(range[1]) - at(range[0]) + "%" } }));
    }
    return cell;
  }

  function build() {
    const shown = columns();
    const grid = byId("bars");
    grid.hidden = byId("bars-readout").hidden = !shown.length;
    grid.replaceChildren();
    rows.length = 0;
    grid.style.setProperty("--columns", Math.max(1, shown.length));
    const domains = shown.map(domain);
    grid.append(el("div", { class: "bar-row heads" }, el("span", { class: "gutter" }), el("span", { class: "index" }), el("span", { class: "snippet" }),
      shown.map((method, k) => el("div", { class: "bar-head" },
        el("button", {
          type: "button", "data-method": method.key, on: { click: () => report.set({ method: method.key }) },
        }, el("b", { text: method.name.split(",")[0] }), el("small", { text: method.key.endsWith("kl") ? "KL, nats" : method.unit })),
        el("span", { class: "axis", "aria-hidden": "true" }, el("span", { text: report.number(domains[k][0]) }), el("span", { text: report.number(domains[k][1]) }))))));
    for (let i = 0; i < report.count; i++) {
      const row = el("div", {
        class: "bar-row", "data-index": i,
        on: { click: () => report.select(i), mouseenter: () => report.hover(i), mouseleave: () => report.hover(null) },
      }, el("span", { class: "gutter" }), el("span", { class: "index", text: i }),
        el("span", { class: "snippet", dir: "auto", text: data.trace.sentences[i].text }),
        shown.map((method, k) => bar(method, i, domains[k])));
      rows.push(row);
      grid.append(row);
    }
    arcs = svg("svg", { class: "arcs", "aria-hidden": "true" });
    grid.append(arcs);
  }

  function paintRows() {
    const now = report.focusSentence();
    const method = report.method();
    rows.forEach((row, i) => {
      row.classList.toggle("selected", report.state.sentence === i);
      row.classList.toggle("hovered", now === i);
    });
    for (const button of byId("bars").querySelectorAll(".bar-head button")) {
      button.setAttribute("aria-pressed", method && button.dataset.method === method.key ? "true" : "false");
    }
    byId("bars-readout").textContent = now === null
      ? "Point at a row to read its numbers; choose a column's name to colour the trace by it."
      : `Sentence ${now}: ` + columns().map((m) => report.inText(m.name) + " " + report.describe(m, now)).join("; ") + ".";
    paintArcs(now);
  }

  // "+0.31 (0.1 to 0.5)", with the reference where there is one.
  report.describe = function (method, i) {
    const value = method.value(i);
    if (!known(value)) return "undefined here";
    const notes = [report.range(method.range(i), method.write)];
    const reference = method.reference(i);
    if (known(reference) && reference !== 0) notes.push(method.referenceName + " " + method.write(reference));
    const text = notes.filter(known).join("; ");
    return method.write(value) + (text ? ` (${text})` : "");
  };

  function paintArcs(now) {
    arcs.replaceChildren();
    if (now === null || !rows.length) return;
    const frame = byId("bars").getBoundingClientRect();
    const width = rows[0].querySelector(".gutter").getBoundingClientRect().width;
    if (!width || !frame.height) return;
    arcs.setAttribute("viewBox", `0 0 ${width} ${frame.height}`);
    arcs.style.width = width + "px";
    arcs.style.height = frame.height + "px";
    const middle = (i) => {
      const box = rows[i].getBoundingClientRect();
      return box.top - frame.top + box.height / 2;
    };
    const links = report.linksOf(now, 3);
    const draw = (link, kind) => {
      const [from, to] = [middle(now), middle(link.sentence)];
      const reach = Math.min(1, 0.35 + Math.abs(link.sentence - now) / Math.max(6, report.count)) * (width - 8) * 1.3;
      const side = link.value >= 0 || report.matrix().key === "raw" ? "helps" : "hurts";
      arcs.append(svg("path", { class: `${kind} ${side}`, d: `M${width - 3} ${from}C${width - 3 - reach} ${from} ${width - 3 - reach} ${to} ${width - 3} ${to}` }));
      arcs.append(svg("circle", { class: side, cx: width - 3, cy: to, r: 2.5 }));
    };
    links.outgoing.forEach((link) => draw(link, "outgoing"));
    links.incoming.forEach((link) => draw(link, "incoming"));
  }

  function buildMissing() {
    const families = [["Resampling and counterfactual", data.resampling, ["resampling", "counterfactual"]],
      ["Receiver heads", data.receiver, ["receiver"]], ["Suppression", data.suppression, ["suppression"]]];
    for (const [name, part, keys] of families) {
      if (report.methods.some((m) => m.available && keys.includes(m.family))) continue;
      const reason = known(part) && part.not_shown ? part.not_shown : known(part) ? "It has no value for any sentence." : "This method was not run.";
      byId("bars-missing").append(el("p", { class: "missing" }, el("b", { text: name + ": not shown. " }), reason));
    }
    const all = report.methods.filter((m) => m.available);
    if (!all.length) return;
    byId("bars-table").append(report.tableFor("All numbers as a table", ["Sentence", ...all.map((m) => m.name)], () =>
      data.trace.sentences.map((_, i) => [String(i), ...all.map((m) => report.describe(m, i))])));
  }

  report.startBars = function () {
    buildMissing();
    build();
    report.onChange((before) => {
      const method = report.method();
      const wanted = method && /accuracy$/.test(method.key) ? "accuracy" : method && /kl$/.test(method.key) ? "kl" : measure;
      if (wanted !== measure) {
        measure = wanted;
        build();
      }
    });
    report.onHover(paintRows);
    window.addEventListener("resize", () => paintArcs(report.focusSentence()));
  };
})();
