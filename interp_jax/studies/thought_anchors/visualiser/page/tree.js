// The tree: what a sentence leads to, or what led to it, level by level.
// A sentence appears once, at the first level it is reached on.
(function () {
  "use strict";
  const report = window.report;
  const { el, svg, byId, known, state } = report;
  const MOST = 50;
  let centred = null; // the root that was last brought into view
  const [ROW, GAP] = [64, 40];

  report.root = () => (state.sentence !== null ? state.sentence : report.strongest()[0]);

  function grow(root) {
    const nodes = [{ i: root, level: 0, parent: null, value: null, children: [] }];
    const seen = new Set([root]);
    let met = 0;
    let over = 0;
    for (let next = 0; next < nodes.length; next++) {
      const node = nodes[next];
      if (node.level >= state.depth) continue;
      for (const link of report.linksOf(node.i, state.branch)[state.way]) {
        if (seen.has(link.sentence)) met++;
        else if (nodes.length >= MOST) over++;
        else {
          seen.add(link.sentence);
          const child = { i: link.sentence, level: node.level + 1, parent: node, value: link.value, children: [] };
          node.children.push(child);
          nodes.push(child);
        }
      }
    }
    return { nodes, met, over };
  }

  // Leaves take a row each, in the order of the text; a parent stands in the middle of its children.
  function layOut(root) {
    let rows = 0;
    (function visit(node) {
      node.children.sort((a, b) => a.i - b.i);
      node.children.forEach(visit);
      node.row = node.children.length ? (node.children[0].row + node.children[node.children.length - 1].row) / 2 : rows++;
    })(root);
    return rows;
  }

  function draw() {
    const box = byId("tree");
    if (state.view !== "tree" || !report.count) return;
    const { nodes, met, over } = grow(report.root());
    const rows = layOut(nodes[0]);
    const levels = 1 + Math.max(...nodes.map((node) => node.level));
    const room = box.parentElement.clientWidth - 4;
    const wide = Math.min(290, Math.max(146, (room - (levels - 1) * GAP) / levels));
    const left = (node) => node.level * (wide + GAP);
    const middle = (node) => node.row * ROW + ROW / 2;
    const edges = nodes.filter((node) => node.parent).map((node) => {
      const [x1, y1, x2, y2] = [left(node.parent) + wide, middle(node.parent), left(node), middle(node)];
      const half = (x1 + x2) / 2;
      return svg("path", {
        class: "link " + report.linkSide(node.value), "data-from": node.parent.i, "data-to": node.i,
        d: `M${x1} ${y1}C${half} ${y1} ${half} ${y2} ${x2} ${y2}`, style: { "--size": report.linkSize(node.value).toFixed(3) },
      });
    });
    const [width, height] = [levels * (wide + GAP) - GAP, rows * ROW];
    const buttons = nodes.map((node) => {
      const text = report.trace.sentences[node.i].text;
      const value = known(node.value) ? report.matrix().write(node.value) : null;
      return el("button", {
        type: "button", class: `tree-node tag-${report.tagOf(node.i).short}${node.parent ? "" : " root"}`, "data-index": node.i, "data-level": node.level,
        style: { left: left(node) + "px", top: node.row * ROW + 4 + "px", width: wide + "px", height: ROW - 8 + "px" },
        on: {
          click: () => report.select(node.i),
          mouseenter: () => report.hover(node.i),
          mouseleave: () => report.hover(null),
        },
      },
      el("span", { class: "tree-head" }, el("b", { text: node.i }),
        value ? el("i", { class: report.linkSide(node.value), text: value }) : el("i", { text: "start" })),
      el("span", { class: "tree-words", dir: "auto", text: known(text) ? text : "" }));
    });
    const held = box.contains(document.activeElement);
    box.style.setProperty("width", width + "px");
    box.style.setProperty("height", height + "px");
    box.replaceChildren(svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" }, edges), ...buttons);
    if (held) box.querySelector(".root").focus({ preventScroll: true });
    if (centred !== state.trace + nodes[0].i + state.way) {
      centred = state.trace + nodes[0].i + state.way;
      const frame = box.closest(".stage-body");
      frame.scrollTop = Math.max(0, middle(nodes[0]) - frame.clientHeight / 2 + 40);
    }
    const what = state.way === "outgoing" ? `What sentence ${nodes[0].i} leads to` : `What led to sentence ${nodes[0].i}`;
    byId("tree-title").replaceChildren(el("b", { text: what + ". " }),
      nodes.length > 1 ? `${nodes.length} sentences. ` : report.hasMatrix(report.matrix()) ? "No link. " : "Links were not measured. ",
      met ? `${met} links lead to sentences already shown. ` : "", over ? `${over} more do not fit: a tree holds ${MOST}. ` : "");
    byId("tree-title").dataset.nodes = nodes.length;
    paintFocus();
  }

  function paintFocus() {
    if (state.view !== "tree") return;
    const now = report.focusSentence();
    for (const node of byId("tree").querySelectorAll(".tree-node")) node.classList.toggle("focused", Number(node.dataset.index) === now);
  }

  report.startTree = function () {
    report.onChange(draw);
    report.onHover(paintFocus);
    window.addEventListener("resize", draw);
  };
})();
