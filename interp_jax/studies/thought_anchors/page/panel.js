// The detail panel: one sentence, its numbers, links, answers and what stood there instead.
(function () {
  "use strict";
  const report = window.report;
  const { data, el, byId, known } = report;
  const panel = byId("panel");
  const FIRST = 8;
  let shownAll = false;

  function overview() {
    const method = report.method();
    const ranked = method
      ? data.trace.sentences.map((_, i) => i).filter((i) => known(method.value(i)))
        .sort((a, b) => Math.abs(method.value(b)) - Math.abs(method.value(a))).slice(0, 5)
      : [];
    panel.replaceChildren(
      el("h2", { text: "Select a sentence" }),
      el("p", { class: "aside", text: "Its numbers, its links and what the model writes in its place appear here." }),
      ranked.length ? el("h3", { text: "Strongest by " + report.inText(method.name) }) : null,
      el("ol", { class: "ranking" }, ranked.map((i) => el("li", {},
        report.sentenceButton(i, String(i)), el("span", { class: "snippet", dir: "auto", text: data.trace.sentences[i].text }),
        el("span", { class: "figure", text: method.write(method.value(i)) })))),
      el("h3", { text: "Keys" }),
      el("dl", { class: "keys" }, [["\u2190 \u2192", "previous, next sentence"], ["1\u2013" + Math.max(1, report.methods.filter((m) => m.available).length), "colour by another method"], ["Esc", "select nothing"]]
        .map(([key, what]) => el("div", {}, el("dt", {}, el("kbd", { text: key })), el("dd", { text: what })))));
  }

  function head(i) {
    const sentence = data.trace.sentences[i];
    const step = (by, text, mark) => el("button", {
      type: "button", class: "icon", "aria-label": text, text: mark, "data-step": by,
      disabled: i + by < 0 || i + by >= report.count, on: { click: () => report.move(by) },
    });
    return [
      el("div", { class: "panel-head" },
        el("h2", {}, "Sentence " + i, el("small", { text: " of 0\u2013" + (report.count - 1) })),
        step(-1, "Previous sentence", "\u2190"), step(1, "Next sentence", "\u2192"),
        el("button", { type: "button", class: "icon", "aria-label": "Close", text: "\u00d7", id: "close", on: { click: () => report.select(null) } })),
      sentence.label ? tagLine(sentence.label) : null,
      el("p", { class: "quote", dir: "auto", id: "quote", text: sentence.text }),
    ];
  }

  function tagLine(label) {
    const tag = report.tagOf(label);
    if (!tag) return el("p", { class: "tag", text: String(label) });
    return el("p", { class: "tag", title: tag.meaning }, el("i", { class: "tag-dot", style: { background: tag.colour } }), " ", tag.words);
  }

  function dependencies(i) {
    const own = data.trace.sentences[i].depends_on;
    if (!own) return [];
    const later = data.trace.sentences.map((_, j) => j).filter((j) => (data.trace.sentences[j].depends_on || []).includes(i));
    const list = (name, items) => el("div", { class: "label-" + name.replace(" ", "-").toLowerCase() }, el("dt", { text: name }),
      el("dd", {}, items.length ? items.flatMap((j, k) => [k ? ", " : null, report.sentenceButton(j, String(j))]) : "none"));
    return [el("h3", {}, "Dependencies ", el("small", { text: "as labelled" })),
      el("dl", { class: "links" }, list("Builds on", own), list("Used by", later))];
  }

  // Thought Branches: what happens when the content stays out, and how long it takes.
  function content(i) {
    const entry = report.parts.answers && report.parts.answers[i];
    const found = entry && entry.content;
    if (!found) return [];
    const row = (name, key, value, notes) => el("div", { "data-content": key }, el("dt", { text: name }),
      el("dd", {}, el("b", { text: value }), notes ? el("small", { text: notes }) : null));
    const measured = (name, key, write) => {
      const range = report.range(found[key + "_interval"], write);
      return row(name, key, known(found[key]) ? write(found[key]) : "undefined", range ? "95\u2009% " + range : "");
    };
    return [el("h3", {}, "Content taken out ", el("small", { text: `${found.absent} rollouts without it, ${found.present} with it` })),
      el("dl", { class: "measures" },
        measured("Stays out of a rollout", "absent_fraction", report.percent),
        measured("Accuracy with it minus without", "accuracy", report.signed),
        measured("KL of the answers", "kl", report.number),
        measured("Log-odds with it minus without", "log_odds", report.signed),
        known(found.resilience) ? row("Removals until it stays out", "resilience", report.number(found.resilience),
          `mean of ${found.chains}; stayed out in ${report.percent(found.stayed_out)}`) : null)];
  }

  function numbers(i) {
    const rows = report.methods.filter((m) => m.available).map((method) => {
      const value = method.value(i);
      const notes = [];
      const range = report.range(method.range(i), method.write);
      if (range) notes.push("95\u2009% " + range);
      const reference = method.reference(i);
      if (known(value) && known(reference) && reference !== 0) notes.push(method.referenceName + " " + method.write(reference));
      let verdict = null;
      if (known(value) && method.tested(i)) {
        const clear = method.clear(i);
        const against = method.key === "suppression" ? "distance" : method.kind === "moves" ? "chance" : "zero";
        const word = method.key === "suppression" ? (value > reference ? "above distance" : "below distance") : "clear of " + against;
        verdict = el("span", { class: "verdict-word " + (clear && word !== "below distance" ? "clear" : "unsure"), text: clear ? word : "not clear of " + against });
      }
      return el("div", { class: method.key === report.state.method ? "current" : null, "data-method": method.key },
        el("dt", { text: method.name }),
        el("dd", {}, el("b", { class: known(value) ? method.side(value) : null, text: known(value) ? method.write(value) : "undefined" }),
          notes.length ? el("small", { text: notes.join("; ") }) : null, verdict));
    });
    const entry = report.parts.answers && report.parts.answers[i];
    if (entry) {
      rows.push(el("div", { "data-method": "shares" }, el("dt", { text: "New sentence differs" }), el("dd", {}, el("b", { text: report.percent(entry.different_trajectories) }),
        el("small", { text: "overdetermined " + report.percent(entry.overdeterminedness) }))));
    }
    return rows.length ? [el("h3", { text: "Importance" }), el("dl", { class: "measures" }, rows)] : [];
  }

  function links(i) {
    const matrix = report.matrix();
    if (!matrix) return [];
    const found = report.linksOf(i, 3);
    const list = (name, items) => el("div", { class: name },
      el("dt", { text: name === "outgoing" ? "Leads to" : "Draws on" }),
      el("dd", {}, items.length ? items.map((item) => el("span", { class: "link" }, report.sentenceButton(item.sentence, String(item.sentence)), " " + matrix.write(item.value))) : "none"));
    return [el("h3", {}, "Links ", el("small", { text: report.inText(matrix.name) })),
      el("dl", { class: "links" }, list("outgoing", found.outgoing), list("incoming", found.incoming))];
  }

  function answers(i) {
    if (!report.parts.answers) return [];
    return [el("h3", {}, "Answers ", el("small", { text: "written on from before it" })), report.answerStrip(i),
      el("p", { class: "aside", id: "panel-answers", text: report.describeAnswers(i) })];
  }

  function alternatives(i) {
    const entry = report.parts.answers && report.parts.answers[i];
    if (!entry) return [];
    const threshold = data.rollouts ? data.rollouts.similarity_threshold : 0.8;
    const all = entry.alternatives;
    const different = all.filter((other) => known(other.similarity) && other.similarity < threshold);
    const kept = (report.state.filter === "different" ? different : all).slice()
      .sort((a, b) => (known(a.similarity) ? a.similarity : 2) - (known(b.similarity) ? b.similarity : 2));
    const option = (key, text) => el("label", {}, el("input", {
      type: "radio", name: "filter", value: key, id: "filter-" + key, checked: report.state.filter === key,
      on: { change: () => { report.set({ filter: key }); byId("filter-" + key).focus(); } },
    }), el("span", { text }));
    const visible = shownAll ? kept : kept.slice(0, FIRST);
    const items = visible.map((other) => {
      const grade = other.is_correct === true ? ["right", "right"] : other.is_correct === false && known(other.answer) ? ["wrong", "wrong"] : ["none", ""];
      return el("li", {}, el("p", { class: "quote", dir: "auto", text: other.text }),
        el("p", { class: "alternative-facts" },
          known(other.similarity) || entry.n ? el("span", { text: known(other.similarity) ? "similarity " + other.similarity.toFixed(2) : "similarity unknown" }) : null,
          !entry.n && !known(other.answer) ? null : el("span", { class: "answer", text: known(other.answer) && other.answer !== "" ? "answer " + other.answer : "no answer" }),
          grade[1] ? el("span", { class: "mark " + grade[0], text: grade[1] }) : null));
    });
    return [
      el("h3", { text: "Written in its place" }),
      el("fieldset", { class: "switch small" }, el("legend", { class: "hidden", text: "Which alternatives" }),
        option("all", `All ${all.length}`), option("different", `Different only ${different.length}`)),
      items.length ? el("ol", { class: "alternatives", id: "alternatives" }, items)
        : el("p", { class: "aside", id: "alternatives", text: all.length ? `None is less similar than ${threshold}.` : "No alternatives were kept." }),
      visible.length < kept.length ? el("button", {
        type: "button", class: "more", id: "more", text: `Show all ${kept.length}`, on: { click: () => { shownAll = true; render(); } },
      }) : null,
    ];
  }

  function render() {
    const i = report.state.sentence;
    const held = panel.contains(document.activeElement) ? document.activeElement : null;
    const again = held && (held.dataset.step ? `[data-step="${held.dataset.step}"]` : null);
    panel.classList.toggle("open", i !== null);
    document.body.classList.toggle("with-sheet", i !== null);
    if (i === null) overview();
    else panel.replaceChildren(...[head(i), numbers(i), content(i), dependencies(i), links(i), answers(i), alternatives(i)].flat().filter(Boolean));
    if (again && panel.querySelector(again)) panel.querySelector(again).focus();
  }

  report.startPanel = () => report.onChange((before) => {
    if (before.sentence !== report.state.sentence) {
      shownAll = false;
      panel.scrollTop = 0;
    }
    render();
  });
})();
