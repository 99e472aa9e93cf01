// The head of the page and the trace: sentences as text, tinted by the chosen method.
(function () {
  "use strict";
  const report = window.report;
  const { data, el, byId, known } = report;
  const spans = [];

  report.sentenceButton = (sentence, text) =>
    el("button", {
      type: "button", class: "sentence-link", text: text || "sentence " + sentence,
      "data-sentence": sentence,
      on: {
        click: () => report.select(sentence),
        mouseenter: () => report.hover(sentence),
        mouseleave: () => report.hover(null),
      },
    });

  function buildHead() {
    byId("title").textContent = data.title;
    const model = data.model;
    const parts = [model.id];
    if (data.problem && data.problem.id) parts.push(data.problem.id);
    if (known(data.run.seed)) parts.push("seed " + data.run.seed);
    if (data.run.date) parts.push(data.run.date);
    byId("byline").append(...parts.map((text) => el("span", { text })));
    byId("headline").textContent = data.headline;
    for (const finding of data.findings) {
      const silent = finding.status === "not shown";
      const badge = { clear: "above chance", "within chance": "not above chance", untested: "no test", "not shown": "not shown" };
      const name = {
        "suppression clear": "above distance", "suppression within chance": "not above distance",
        "masking clear": "above distance", "masking within chance": "not above distance",
        "ablation clear": "unlike random heads", "ablation within chance": "like random heads",
      };
      byId("findings").append(el("li", { class: silent ? "silent" : null, "data-method": finding.method },
        el("span", { class: "finding-name", text: finding.name }),
        el("span", { class: "finding-body" },
          finding.sentence === null ? null : report.sentenceButton(finding.sentence, "Sentence " + finding.sentence),
          finding.sentence === null ? null : " ",
          el("span", { class: "badge " + finding.status.replace(" ", "-"), text: name[finding.method + " " + finding.status] || badge[finding.status] }),
          el("span", { class: "finding-text", text: finding.text }),
          finding.caveat ? el("span", { class: "caveat", text: finding.caveat }) : null)));
    }
    const rollouts = data.rollouts;
    byId("rollout-facts").textContent = rollouts
      ? `${report.number(rollouts.per_sentence)} rollouts per sentence` +
        (known(rollouts.temperature) ? ` at temperature ${rollouts.temperature}, top-p ${rollouts.top_p}, at most ${report.number(rollouts.max_new_tokens)} new tokens` : "") + ": " +
        (known(rollouts.unfinished_share) ? `${report.percent(rollouts.unfinished_share)} did not finish, ` : "") +
        `${report.percent(rollouts.unanswered_share)} gave no readable answer.`
      : report.parts.answers ? "The rollouts themselves are not among the files."
        : "No rollouts were made: only the white-box methods are shown.";
  }

  function buildProblem() {
    const { problem, trace } = data;
    byId("problem").hidden = !problem;
    if (!problem) return;
    byId("question").textContent = problem.question;
    const add = (name, ...value) => byId("verdict").append(el("div", {}, el("dt", { text: name }), el("dd", {}, value)));
    add("Right answer", known(problem.answer) ? String(problem.answer) : "not known");
    const verdict = trace.is_correct === true ? ["right", "correct"] : trace.is_correct === false ? ["wrong", "wrong"] : null;
    add("This trace says", known(trace.answer) ? String(trace.answer) : "no readable answer",
      verdict ? el("span", { class: "mark " + verdict[0], text: verdict[1] }) : null);
    if (problem.rule) add("Answers read by", problem.rule);
    if (problem.screen) {
      const screen = problem.screen;
      const range = report.range(screen.interval, report.percent);
      add("Chosen", `by ${screen.chosen_by || "hand"} from ${report.number(screen.candidates)} candidates; ` +
        `solved ${report.percent(screen.accuracy)} of the time${range ? ` (${range})` : ""}, n = ${report.number(screen.n)}`);
    }
  }

  function buildSwitch() {
    const available = report.methods.filter((m) => m.available);
    available.forEach((method, k) => {
      const input = el("input", {
        type: "radio", name: "method", value: method.key, id: "method-" + method.key,
        on: { change: () => report.set({ method: method.key }) },
      });
      byId("method-switch").append(el("label", { for: input.id }, input,
        el("span", {}, method.name, el("kbd", { text: k + 1, "aria-hidden": "true" }))));
    });
    byId("method-switch").hidden = !available.length;
  }

  function buildTrace() {
    for (const [text, index] of data.trace.pieces) {
      if (index === null) {
        byId("trace").append(document.createTextNode(text));
        continue;
      }
      const span = el("span", {
        class: "sentence", role: "button", tabindex: "-1", "data-index": index, text,
        on: {
          click: () => report.select(index),
          mouseenter: () => report.hover(index),
          mouseleave: () => report.hover(null),
          focus: () => report.hover(index),
          blur: () => report.hover(null),
          keydown: (event) => {
            if (event.key !== "Enter" && event.key !== " ") return;
            event.preventDefault();
            report.select(index);
          },
        },
      });
      const tag = report.tagOf(data.trace.sentences[index].label);
      if (tag) {
        span.setAttribute("data-tag", tag.short);
        span.style.setProperty("--tag", tag.colour);
      }
      spans[index] = span;
      byId("trace").append(span);
    }
  }

  function buildTags() {
    const counts = new Map();
    for (const sentence of data.trace.sentences) counts.set(sentence.label, (counts.get(sentence.label) || 0) + 1);
    byId("tags").hidden = !data.trace.tags.length;
    for (const tag of data.trace.tags) {
      byId("tags").append(el("span", { class: "tag-key", title: tag.meaning, "data-tag": tag.short },
        el("i", { class: "tag-dot", style: { background: tag.colour } }), `${tag.words} ${counts.get(tag.name) || 0}`));
    }
  }

  function paint() {
    const method = report.method();
    spans.forEach((span, i) => {
      const value = method ? method.value(i) : null;
      const size = known(value) ? Math.abs(value) / method.largest : 0;
      const classes = ["sentence"];
      if (known(value)) classes.push(method.side(value), method.clear(i) ? "clear" : "unsure");
      if (report.state.sentence === i) classes.push("selected");
      span.setAttribute("class", classes.join(" "));
      span.style.setProperty("--size", size.toFixed(4));
      span.setAttribute("aria-pressed", report.state.sentence === i ? "true" : "false");
      span.setAttribute("tabindex", (report.state.sentence === null ? i === 0 : report.state.sentence === i) ? "0" : "-1");
    });
    byId("method-help").textContent = method ? method.help : "No method could be shown for this trace.";
    const input = method && byId("method-" + method.key);
    if (input) input.checked = true;
    paintLegend(method);
  }

  function paintLegend(method) {
    const legend = byId("legend");
    legend.replaceChildren();
    if (!method) return;
    const signed = method.kind === "signed";
    const top = method.largest;
    const ends = signed ? [method.helps < 0 ? top : -top, method.helps < 0 ? -top : top] : [0, top];
    legend.append(
      el("span", { text: `${method.ends[0]} ${method.write(ends[0])}` }),
      el("span", { class: "scale " + (signed ? "diverging" : "sequential"), "aria-hidden": "true" }),
      el("span", { text: `${method.write(ends[1])} ${method.ends[1]}` }));
    if ([...spans.keys()].some((i) => known(method.value(i)) && !method.clear(i))) {
      legend.append(el("span", { class: "key-unsure" }, el("i", { "aria-hidden": "true" }),
        method.key === "suppression" ? "no more than distance predicts" : signed ? "not clear of zero" : "not clear of chance"));
    }
  }

  function paintLinks() {
    const now = report.focusSentence();
    const links = report.linksOf(now, 3);
    const out = new Set(links.outgoing.map((link) => link.sentence));
    const into = new Set(links.incoming.map((link) => link.sentence));
    spans.forEach((span, i) => {
      span.classList.toggle("link-out", out.has(i));
      span.classList.toggle("link-in", into.has(i));
      span.classList.toggle("hovered", now === i);
    });
    byId("links").textContent = report.linkText(now, links);
  }

  report.linkText = function (sentence, links) {
    const matrix = report.matrix();
    if (!matrix) return "Links between sentences were not measured.";
    if (sentence === null) return "Point at a sentence: those it leads to most are underlined, those it draws on are dashed.";
    const list = (items) => items.map((item) => `${item.sentence} (${matrix.write(item.value)})`).join(", ") || "none";
    return `Sentence ${sentence} leads to ${list(links.outgoing)}; draws on ${list(links.incoming)}. By ${report.inText(matrix.name)}.`;
  };

  report.startTrace = function () {
    buildHead();
    buildProblem();
    buildSwitch();
    buildTrace();
    buildTags();
    report.onChange((before) => {
      paint();
      const now = report.state.sentence;
      if (now === null || now === before.sentence) return;
      if (document.activeElement && document.activeElement.closest("#trace")) spans[now].focus({ preventScroll: true });
      const box = spans[now].getBoundingClientRect();
      const inView = byId("reasoning").getBoundingClientRect();
      const reading = inView.top < innerHeight && inView.bottom > 0;
      const sheet = getComputedStyle(byId("panel")).position === "fixed";
      if (reading && (box.top < 0 || box.bottom > innerHeight * (sheet ? 0.45 : 0.9))) spans[now].scrollIntoView({ block: "center" });
    });
    report.onHover(paintLinks);
    document.querySelector(".skip").addEventListener("click", (event) => {
      event.preventDefault(); // a jump would replace the hash, and with it the selection
      byId("trace-title").focus();
    });
    if (report.state.sentence !== null) spans[report.state.sentence].scrollIntoView({ block: "center" });
  };
})();
