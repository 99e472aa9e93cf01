// The ways of measuring importance, and the sentence-to-sentence matrices, behind one signature.
// A method gives value(i), range(i) (an interval or null) and reference(i) (what chance or
// distance would give). `helps` is +1 or -1 where the sign says whether a sentence helps.
(function () {
  "use strict";
  const report = window.report;
  const { data, known, hasRange } = report;
  const ran = (part) => known(part) && !("not_shown" in Object(part));
  const why = (part) => (known(part) ? part.not_shown : "This method was not run.");
  const answers = ran(data.resampling) ? data.resampling : null;
  const receiver = ran(data.receiver) ? data.receiver : null;
  const hiding = ran(data.suppression) ? data.suppression : null;
  const deleting = ran(data.masking) ? data.masking : null;
  report.parts = { answers, receiver, hiding, deleting };
  report.why = why;

  function fromAnswers(key, name, unit, helps, ends, help) {
    const kl = key.endsWith("kl");
    return {
      key, name, unit, helps, ends, help,
      family: key.split("_")[0],
      kind: kl ? "moves" : "signed",
      write: kl ? report.number : report.signed,
      reason: why(data.resampling),
      available: answers !== null && answers.some((entry) => known(entry[key])),
      value: (i) => (answers ? answers[i][key] : null),
      range: (i) => (answers ? answers[i][key + "_interval"] : null),
      reference: (i) => (kl && answers && known(answers[i][key + "_null"]) ? answers[i][key + "_null"] : kl ? null : 0),
      referenceName: kl ? "chance reaches" : "no effect",
      tested: (i) => hasRange(answers[i][key + "_interval"]) || (kl && known(answers[i][key + "_null"])),
    };
  }
  const control = hiding && hiding.control && hiding.control.outgoing ? hiding.control.outgoing : null;

  const forced = [
    fromAnswers("forced_kl", "Forced answer, KL", "nats", 0, ["no change", "moves the answers"],
      "How far the answer given at once shifts when this sentence is added before the thinking is closed. It has no sign."),
    fromAnswers("forced_accuracy", "Forced answer, accuracy", "accuracy", 1, ["hurts", "helps"],
      "Accuracy of the answer given at once after this sentence minus accuracy of that given before it. Positive: the sentence helps."),
  ];
  report.methods = [
    fromAnswers("resampling_kl", "Resampling, KL", "nats", 0, ["no change", "moves the answers"],
      "How far the answers shift when this sentence is written anew: KL between the answers with a new sentence here and with this one kept. It has no sign."),
    fromAnswers("resampling_accuracy", "Resampling, accuracy", "accuracy", 1, ["hurts", "helps"],
      "Accuracy with this sentence kept minus accuracy with it written anew. Positive: the sentence helps."),
    fromAnswers("counterfactual_kl", "Counterfactual, KL", "nats", 0, ["no change", "moves the answers"],
      "The same shift, counting only rollouts whose new sentence means something else. It has no sign."),
    fromAnswers("counterfactual_accuracy", "Counterfactual, accuracy", "accuracy", -1, ["hurts", "helps"],
      "Accuracy when a different sentence stands here minus accuracy with this one kept. NEGATIVE: the sentence helps, and it is tinted so."),
    ...forced.filter((method) => method.available),
    {
      key: "receiver", name: "Receiver heads", unit: "mean attention", family: "receiver", kind: "moves",
      helps: 0, ends: ["little looked at", "much looked at"], write: report.number,
      help: "How much later sentences attend to this one, over the heads with the sharpest peaks. Looked at is not yet used.",
      reason: why(data.receiver),
      available: receiver !== null && (receiver.scores || []).some(known),
      value: (i) => (receiver ? receiver.scores[i] : null),
      range: (i) => (receiver && receiver.intervals ? receiver.intervals[i] : null),
      reference: () => null, referenceName: "", tested: () => false,
    },
    {
      key: "suppression", name: "Suppression", unit: "log KL", family: "suppression", kind: "signed",
      helps: 1, ends: ["less than others", "disturbs more than others"], write: report.signed,
      help: "How much hiding this sentence from attention disturbs the sentences after it, against the average of all sources. Negative is less than average, not the opposite effect.",
      reason: why(data.suppression),
      available: hiding !== null && hiding.outgoing.some(known),
      value: (i) => (hiding ? hiding.outgoing[i] : null),
      range: (i) => (hiding && hiding.outgoing_intervals ? hiding.outgoing_intervals[i] : null),
      reference: (i) => (control ? control[i] : null),
      referenceName: "distance alone predicts",
      tested: (i) => known(control && control[i]),
    },
  ];
  for (const method of report.methods) {
    const sizes = [];
    for (let i = 0; i < report.count; i++) {
      if (method.available && known(method.value(i))) sizes.push(Math.abs(method.value(i)));
    }
    method.largest = Math.max(1e-12, ...sizes);
    // Does sentence i clear its reference? Without a test there is nothing to doubt by.
    method.clear = function (i) {
      const value = method.value(i);
      if (!known(value) || !method.tested(i)) return true;
      const range = hasRange(method.range(i)) ? method.range(i) : [value, value];
      const reference = method.reference(i);
      if (method.kind === "moves") return !known(reference) || range[0] > reference;
      return range[0] > reference || range[1] < reference;
    };
    // CSS class for the side a value lies on.
    method.side = function (value) {
      if (method.kind === "moves") return "moves";
      return value * (method.helps || 1) >= 0 ? "helps" : "hurts";
    };
  }
  report.method = () => report.methods.find((m) => m.key === report.state.method) || null;

  // get(source, target) is null where the source does not come before the target.
  report.matrices = [];
  if (hiding) {
    report.matrices.push({
      key: "suppression", name: "Suppression", signed: true, write: report.signed,
      verb: (value) => (value >= 0 ? "disturbs it more than the average source does" : "disturbs it less than the average source does"),
      help: "Hiding the column's sentence from attention: how much the row's sentence is disturbed, against the average over its earlier sentences.",
      get: (source, target) => (source < target ? hiding.matrix[target][source] : null),
    });
    if (hiding.raw) {
      report.matrices.push({
        key: "raw", name: "Suppression, raw", signed: false, write: report.number,
        verb: () => "mean ln KL at the target's tokens, not normalised",
        help: "The same before normalising: mean ln KL between the next-token distributions with and without the column's sentence.",
        get: (source, target) => (source < target ? hiding.raw[target][source] : null),
      });
    }
  }
  if (deleting) {
    report.matrices.push({
      key: "masking", name: "Masking", signed: true, write: report.signed,
      verb: (value) => (value >= 0 ? "changes it more than the average source does" : "changes it less than the average source does"),
      help: "Deleting the column's sentence and moving up what follows: KL in nats of the row's tokens, against the average over its earlier sentences.",
      get: (source, target) => (source < target ? deleting.matrix[target][source] : null),
    });
  }
  if (data.sentence_matrix) {
    report.matrices.push({
      key: "resampling", name: "Resampling", signed: true, write: report.signed,
      verb: (value) => (value >= 0 ? "makes it more likely to be said" : "makes it less likely to be said"),
      help: "How much more often rollouts say something like the row's sentence when the column's sentence is kept rather than written anew.",
      get: (source, target) => (source < target ? data.sentence_matrix[source][target] : null),
    });
  }
  report.matrix = () => report.matrices.find((m) => m.key === report.state.matrix) || null;

  // The strongest links of a sentence, sign kept. In the suppression matrices only a high
  // value is a link (a low one is a weak effect); in the resampling matrix both signs are.
  report.linksOf = function (sentence, limit) {
    const matrix = report.matrix();
    const links = { outgoing: [], incoming: [] };
    if (!matrix || sentence === null) return links;
    const strength = (value) => (matrix.key === "resampling" ? Math.abs(value) : value);
    const worth = (value) => known(value) && (matrix.key === "raw" || strength(value) > 0);
    for (let other = 0; other < report.count; other++) {
      const out = matrix.get(sentence, other);
      const into = matrix.get(other, sentence);
      if (worth(out)) links.outgoing.push({ sentence: other, value: out });
      if (worth(into)) links.incoming.push({ sentence: other, value: into });
    }
    for (const name of Object.keys(links)) {
      links[name].sort((a, b) => strength(b.value) - strength(a.value));
      links[name] = links[name].slice(0, limit);
    }
    return links;
  };
})();
