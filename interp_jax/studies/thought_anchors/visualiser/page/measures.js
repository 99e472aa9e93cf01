// Kinds of sentences, the measures of one sentence, and the conventions of their signs.
(function () {
  "use strict";
  const report = window.report;
  const { known } = report;

  report.tags = [
    ["PS", "problem_setup", "Problem set-up"],
    ["PG", "plan_generation", "Plan generation"],
    ["FR", "fact_retrieval", "Fact retrieval"],
    ["AC", "active_computation", "Active computation"],
    ["UM", "uncertainty_management", "Uncertainty management"],
    ["RC", "result_consolidation", "Result consolidation"],
    ["SC", "self_checking", "Self-checking"],
    ["FAE", "final_answer_emission", "Final answer"],
    ["XX", "unknown", "Not labelled"],
  ].map(([short, key, name]) => ({ short, key, name }));
  const unlabelled = report.tags[report.tags.length - 1];

  // Labels of other taxonomies are shown by their own name, in the colour of "not labelled".
  report.tagsOf = (i) => report.trace.sentences[i].tags.map((key) =>
    report.tags.find((tag) => tag.key === key) || { ...unlabelled, key, name: key });
  report.tagOf = (i) => report.tagsOf(i)[0] || unlabelled;

  const KL = "It has no sign. With the released smoothing (1e-9), an answer that only one side ever gives makes it as large as 20 to 25 nats.";
  // `helps` is the sign of a value that speaks for the sentence; 0: it has no such sign.
  report.metrics = [
    ["counterfactual_importance_kl", "Counterfactual, KL", "nats", 0,
      "How far the answers shift when a sentence of another meaning stands here. " + KL],
    ["counterfactual_importance_accuracy", "Counterfactual, accuracy", "accuracy", -1,
      "Accuracy with a sentence of another meaning here, minus accuracy with this one. NEGATIVE: the sentence helps."],
    ["resampling_importance_kl", "Resampling, KL", "nats", 0,
      "How far the answers shift when this sentence is written anew. " + KL],
    ["resampling_importance_accuracy", "Resampling, accuracy", "accuracy", 1,
      "Accuracy with this sentence kept, minus accuracy with it written anew. POSITIVE: the sentence helps."],
    ["forced_importance_kl", "Forced answer, KL", "nats", 0,
      "How far the answers shift when the model must answer right after the sentence. " + KL],
    ["forced_importance_accuracy", "Forced answer, accuracy", "accuracy", 1,
      "Accuracy when the model must answer right after the next sentence, minus the same after this one. POSITIVE: it counts as helping."],
    ["outgoing_suppression", "Attention suppression", "log KL", 0,
      "How much hiding this sentence from attention disturbs the later ones: mean over them, against the average of all sources. Below zero is less than average, not the opposite effect. Near sentences count more whatever they say."],
    ["outgoing_masking", "Masking graph", "KL, nats", 0,
      "How much deleting this sentence changes the later ones: mean over them, against the average of all sources. Below zero is less than average, not the opposite effect. Near sentences count more whatever they say."],
    ["outgoing_resampling", "Effect on later sentences", "share of rollouts", 0,
      "How much more often rollouts go on to say what the trace says later when this sentence is kept: mean over all later sentences."],
  ].map(([key, name, unit, helps, help]) => ({
    key, name, unit, helps, help,
    signed: !key.endsWith("kl"),
    write: key.endsWith("kl") ? report.number : report.signed,
    value: (i) => (report.trace.values[key] ? report.trace.values[key][i] : null),
    // The layout has no null: a measure that was not taken is zero everywhere.
    missing: () => (!report.trace.values[key] ? "not in the files" : report.trace.values[key].some((v) => v) ? null : "zero everywhere"),
    // CSS class for the side a value lies on.
    side(value) {
      if (!known(value) || !value) return "none";
      if (key.endsWith("kl")) return "moves";
      return value * (helps || 1) > 0 ? "helps" : "hurts";
    },
    verdict(value) {
      if (!helps || !known(value)) return "";
      return value === 0 ? "no change" : value * helps > 0 ? "helps" : "harms";
    },
  }));

  report.metric = () => report.metrics.find((metric) => metric.key === report.state.metric) || null;
  report.usableMetric = function (wish) {
    const usable = report.metrics.filter((metric) => !metric.missing()).map((metric) => metric.key);
    return usable.includes(wish) ? wish : usable[0] || null;
  };

  // Size of a sentence from 0 to 1 by the chosen measure.
  let sized = { trace: null };
  report.size = function (i) {
    const metric = report.metric();
    if (!metric) return 0;
    if (sized.trace !== report.trace || sized.metric !== metric) {
      const sizes = Array.from({ length: report.count }, (_, j) => Math.abs(metric.value(j) || 0));
      const order = sizes.map((_, j) => j).sort((a, b) => sizes[b] - sizes[a] || a - b);
      sized = { trace: report.trace, metric, sizes, order, top: Math.max(1e-12, ...sizes) };
    }
    return sized.sizes[i] / sized.top;
  };
  // Sentences, strongest first by the chosen measure.
  report.strongest = function () {
    if (!report.metric()) return Array.from({ length: report.count }, (_, i) => i);
    report.size(0);
    return sized.order;
  };

  // The reader's filters: by words and by kind (everywhere), by strength (in the circle).
  report.matches = function (i) {
    const { text, off } = report.state;
    if (off.includes(report.tagOf(i).short)) return false;
    return !text || (report.trace.sentences[i].text || "").toLowerCase().includes(text.toLowerCase());
  };
  report.kept = function () {
    const many = Math.ceil((report.count * report.state.top) / 100);
    return new Set(report.strongest().slice(0, many).filter(report.matches));
  };
})();
