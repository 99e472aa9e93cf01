// What the reader has chosen, kept in the address's hash, and the traces, loaded when chosen.
// `sentence` is the pinned one, null when there is none; 0 is a sentence like any other.
// A sentence can also be walked to by keys, or pointed at by the mouse; neither is in the hash.
(function () {
  "use strict";
  const report = window.report;
  const { data, byId, known } = report;
  const VIEWS = ["circle", "tree", "matrix"];
  const NUMBERS = { k: [0, 10, 2], top: [20, 100, 100], branch: [1, 10, 3], depth: [1, 20, 2] };
  const state = (report.state = {
    trace: null, sentence: null, metric: null, matrix: null, view: "circle", way: "outgoing", off: [], text: "",
    ...Object.fromEntries(Object.entries(NUMBERS).map(([name, range]) => [name, range[2]])),
  });
  const listeners = { change: [], hover: [], trace: [] };
  const tell = (kind, detail) => { for (const listener of listeners[kind]) listener(detail); };
  const cache = new Map();
  let hovered = null;
  let walked = null;

  report.views = VIEWS;
  report.numbers = NUMBERS;
  report.trace = null;
  report.count = 0;
  report.parts = {}; // the report's heat map looks here for more than this page has
  report.onChange = (listener) => listeners.change.push(listener);
  report.onHover = (listener) => listeners.hover.push(listener);
  report.onTrace = (listener) => listeners.trace.push(listener);

  // The sentence to explain now, and the one whose details are shown: while one is pinned,
  // pointing at others shows their links but does not tear the details away.
  report.focusSentence = () => (hovered !== null ? hovered : walked !== null ? walked : state.sentence);
  report.detailSentence = () => (walked !== null ? walked : state.sentence !== null ? state.sentence : hovered);
  report.walked = () => walked;

  report.hover = function (sentence) {
    if (sentence === hovered) return;
    hovered = sentence;
    tell("hover");
  };
  report.walk = function (sentence) {
    hovered = null;
    walked = sentence;
    tell("hover");
  };

  report.set = function (changes, keepAddress) {
    const before = { ...state };
    const pinned = "sentence" in changes && changes.sentence !== state.sentence;
    Object.assign(state, changes);
    if ("sentence" in changes) walked = hovered = null;
    // Going back in the browser goes back to the sentence pinned before.
    if (!keepAddress) history[pinned ? "pushState" : "replaceState"](null, "", hashOf());
    tell("change", before);
    tell("hover");
  };
  report.select = (sentence) => report.set({ sentence });

  function hashOf() {
    const parts = new URLSearchParams();
    const put = (name, value, usual) => { if (known(value) && value !== usual) parts.set(name, value); };
    put("t", state.trace);
    put("s", state.sentence);
    put("by", state.metric);
    put("links", state.matrix);
    put("view", state.view, "circle");
    put("way", state.way, "outgoing");
    for (const [name, range] of Object.entries(NUMBERS)) put(name, state[name], range[2]);
    put("off", state.off.join("."), "");
    put("find", state.text, "");
    return "#" + parts.toString();
  }

  // What the hash asks for; what it does not name, or names wrongly, is as on a first visit.
  function readHash() {
    const parts = new URLSearchParams(location.hash.slice(1));
    const oneOf = (name, options, usual) => (options.includes(parts.get(name)) ? parts.get(name) : usual);
    const asked = {
      trace: oneOf("t", data.traces.map((trace) => trace.id), data.traces[0].id),
      sentence: /^\d{1,6}$/.test(parts.get("s") || "") ? Number(parts.get("s")) : null,
      metric: oneOf("by", report.metrics.map((metric) => metric.key), null),
      matrix: oneOf("links", report.matrices.map((matrix) => matrix.key), null),
      view: oneOf("view", VIEWS, "circle"),
      way: oneOf("way", ["outgoing", "incoming"], "outgoing"),
      off: (parts.get("off") || "").split(".").filter((short) => report.tags.some((tag) => tag.short === short)),
      text: parts.get("find") || "",
    };
    for (const [name, [low, high, usual]] of Object.entries(NUMBERS)) {
      const text = parts.get(name) || "";
      const number = /^\d{1,3}$/.test(text) ? Number(text) : usual;
      asked[name] = number >= low && number <= high ? number : usual;
    }
    return asked;
  }

  report.entry = (id) => data.traces.find((trace) => trace.id === (id || state.trace));

  // Shows a trace with the choices given; loads it first where it has not been loaded.
  report.open = function (id, changes, keepAddress) {
    waiting = { id, changes: changes || {}, keepAddress };
    document.documentElement.dataset.ready = "false";
    byId("status").textContent = "";
    if (cache.has(id)) return adopt();
    byId("status").textContent = "Reading the trace\u2026";
    const script = report.el("script", {
      src: "data/" + encodeURIComponent(report.entry(id).file),
      on: {
        error: () => {
          if (!waiting || waiting.id !== id) return;
          byId("status").textContent = `data/${report.entry(id).file} could not be read. Keep index.html and data/ together.`;
          document.documentElement.dataset.ready = "failed";
        },
      },
    });
    script.addEventListener("load", () => script.remove());
    document.head.append(script);
  };
  let waiting = null;

  // Called by a data file.
  report.register = function (id, trace) {
    cache.set(id, trace);
    if (waiting && waiting.id === id) adopt();
  };

  function adopt() {
    const { id, changes, keepAddress } = waiting;
    waiting = null;
    byId("status").textContent = "";
    report.trace = cache.get(id);
    report.count = report.trace.sentences.length;
    walked = hovered = null;
    const next = { ...state, ...changes, trace: id };
    if (!(next.sentence < report.count)) next.sentence = null;
    Object.assign(state, { trace: id }); // before the measures look at it
    next.metric = report.usableMetric(next.metric);
    next.matrix = report.usableMatrix(next.matrix, next.metric);
    tell("trace");
    report.set(next, keepAddress);
    document.documentElement.dataset.ready = "true";
  }

  report.startState = function () {
    window.addEventListener("hashchange", () => {
      const asked = readHash();
      report.open(asked.trace, asked, true);
    });
    const asked = readHash();
    report.open(asked.trace, asked, true);
  };
})();
