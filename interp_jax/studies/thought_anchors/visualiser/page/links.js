// Links between sentences: the matrices behind one signature, and the strongest links of each.
// get(source, target) is null where the source does not come before the target.
(function () {
  "use strict";
  const report = window.report;
  const { known } = report;
  const MOST = 10;

  const cell = (key) => (source, target) => {
    const rows = report.trace && report.trace[key];
    if (!rows || source >= target || !rows[source]) return null;
    const value = rows[source][target - source - 1];
    return known(value) ? value : null;
  };

  // Cells minus the mean of the other pairs at their distance: what distance does not explain.
  let profile = { trace: null };
  function beyondDistance(source, target) {
    const value = cell("suppression")(source, target);
    if (value === null) return null;
    if (profile.trace !== report.trace) {
      profile = { trace: report.trace, total: [], count: [] };
      report.trace.suppression.forEach((row) => row.forEach((other, k) => {
        if (!known(other)) return;
        profile.total[k] = (profile.total[k] || 0) + other;
        profile.count[k] = (profile.count[k] || 0) + 1;
      }));
    }
    const k = target - source - 1;
    const others = profile.count[k] - 1;
    return others > 0 ? value - (profile.total[k] - value) / others : null;
  }

  const disturbs = (than) => (value) => `disturbs it ${value >= 0 ? "more" : "less"} than ${than}`;
  report.matrices = [
    {
      key: "resampling", part: "resampling", name: "Resampling", get: cell("resampling"), both: true,
      ends: ["makes it more likely to be said", "makes it less likely to be said"],
      verb: (value) => (value >= 0 ? "makes it more likely to be said" : "makes it less likely to be said"),
      help: "How much more often rollouts say something like the later sentence when the earlier one is kept rather than written anew.",
    },
    {
      key: "suppression", part: "suppression", name: "Attention suppression", get: cell("suppression"), both: false,
      ends: ["disturbs it more than the average source"], verb: disturbs("the average source does"),
      help: "Hiding the earlier sentence from attention: how much the later one is disturbed, against the average over its sources. Only more than average counts as a link.",
    },
    {
      key: "beyond", part: "suppression", name: "Suppression beyond distance", get: beyondDistance, both: false,
      ends: ["disturbs it more than its distance predicts"], verb: disturbs("its distance predicts"),
      help: "Attention suppression minus the mean of the other pairs at the same distance, since near sentences disturb each other whatever they say. Only more than that counts as a link.",
    },
    {
      key: "masking", part: "masking", name: "Masking graph", get: cell("masking"), both: false,
      ends: ["changes it more than the average source"], verb: disturbs("the average source does"),
      help: "Deleting the earlier sentence and moving up what follows: KL in nats of the later one's tokens, against the average over its sources. Only more than average counts as a link.",
    },
  ].map((matrix) => ({ ...matrix, signed: true, write: report.signed }));

  report.hasMatrix = (matrix) => Boolean(report.trace && report.trace[matrix.part]);
  report.matrix = () => report.matrices.find((matrix) => matrix.key === report.state.matrix) || report.matrices[0];
  report.usableMatrix = function (wish, metric) {
    const usable = report.matrices.filter(report.hasMatrix).map((matrix) => matrix.key);
    if (usable.includes(wish)) return wish;
    return metric === "outgoing_suppression" && usable.includes("suppression") ? "suppression" : usable[0] || null;
  };
  report.linkSide = (value) => (value >= 0 ? "helps" : "hurts");

  // The ten strongest links of every sentence, both ways, sign kept; made once for each matrix.
  let ranked = { trace: null };
  function rank(matrix) {
    const rows = Array.from({ length: report.count }, () => ({ outgoing: [], incoming: [] }));
    let top = 0;
    for (let s = 0; s < report.count; s++) for (let t = s + 1; t < report.count; t++) {
      const value = matrix.get(s, t);
      if (!known(value) || value === 0 || (value < 0 && !matrix.both)) continue;
      rows[s].outgoing.push({ sentence: t, value });
      rows[t].incoming.push({ sentence: s, value });
      top = Math.max(top, Math.abs(value));
    }
    for (const row of rows) for (const way of ["outgoing", "incoming"]) {
      row[way].sort((a, b) => Math.abs(b.value) - Math.abs(a.value) || a.sentence - b.sentence);
      row[way] = row[way].slice(0, MOST);
    }
    ranked = { trace: report.trace, matrix, rows, top: top || 1 };
  }
  report.linksOf = function (sentence, limit) {
    if (sentence === null || !report.trace) return { outgoing: [], incoming: [] };
    const matrix = report.matrix();
    if (ranked.trace !== report.trace || ranked.matrix !== matrix) rank(matrix);
    const { outgoing, incoming } = ranked.rows[sentence];
    return { outgoing: outgoing.slice(0, limit), incoming: incoming.slice(0, limit) };
  };
  // Size of a link from 0 to 1; call after `linksOf`.
  report.linkSize = (value) => Math.abs(value) / ranked.top;

  report.linkText = function (sentence) {
    const matrix = report.matrix();
    if (sentence === null) return "Point at a sentence, or walk with the arrow keys: its links appear.";
    const tag = report.tagOf(sentence).name.toLowerCase();
    if (!report.hasMatrix(matrix)) return `Sentence ${sentence} (${tag}). Links were not measured.`;
    const { outgoing, incoming } = report.linksOf(sentence, 3);
    const list = (links) => links.map((link) => `${link.sentence} (${matrix.write(link.value)})`).join(", ") || "none";
    return `Sentence ${sentence} (${tag}) leads to ${list(outgoing)}; draws on ${list(incoming)}.`;
  };
})();
