// nu_r against nu_eps: the nearest latent is told under the pointer, and by arrow keys.
(function () {
  "use strict";
  const report = window.report;
  const { svg, known } = report;
  const GROUPS = { "effective chat-only": "effective", shared: "beside" };
  const [LOW, HIGH] = [-0.25, 1.5];

  report.scatter = function (points, bounds, say) {
    const [width, height, left, foot] = [760, 420, 44, 40];
    const clamp = (value) => Math.min(HIGH, Math.max(LOW, value));
    const x = (value) => left + ((clamp(value) - LOW) / (HIGH - LOW)) * (width - left);
    const y = (value) => height - ((clamp(value) - LOW) / (HIGH - LOW)) * height;
    const figure = svg("svg", {
      class: "figure", viewBox: `0 0 ${width} ${height + foot}`, role: "application", tabindex: "0",
      "aria-label": "Scatter of both ratios; arrow keys go from latent to latent. The numbers are in the table below.",
    });
    figure.append(svg("rect", { class: "zone", x: x(LOW), y: y(bounds.nu_r), width: x(bounds.nu_eps) - x(LOW), height: y(LOW) - y(bounds.nu_r) }));
    for (const at of [0, 0.5, 1, 1.5]) {
      figure.append(svg("line", { class: "rule", x1: left, x2: width, y1: y(at), y2: y(at) }));
      figure.append(svg("line", { class: "rule", x1: x(at), x2: x(at), y1: 0, y2: height }));
      figure.append(svg("text", { x: left - 8, y: y(at) + 4, "text-anchor": "end" }, String(at)));
      figure.append(svg("text", { x: x(at), y: height + 16, "text-anchor": at === 1.5 ? "end" : "middle" }, String(at)));
    }
    figure.append(svg("line", { class: "bound", x1: x(bounds.nu_eps), x2: x(bounds.nu_eps), y1: 0, y2: height }));
    figure.append(svg("line", { class: "bound", x1: left, x2: width, y1: y(bounds.nu_r), y2: y(bounds.nu_r) }));
    figure.append(svg("text", { x: width, y: height + 34, "text-anchor": "end" }, "\u03bd\u03b5, in the base residual"));
    figure.append(svg("text", { x: 0, y: -6 }, "\u03bdr, in the base reconstruction"));
    const all = [];
    for (const [group, one] of Object.entries(points)) {
      one.latents.forEach((latent, k) => {
        if (!known(one.nu_eps[k]) || !known(one.nu_r[k])) return;
        const node = svg("circle", { class: GROUPS[group] || "beside", cx: x(one.nu_eps[k]), cy: y(one.nu_r[k]), r: 3.2, "data-latent": latent });
        figure.append(node);
        all.push({ group, latent, k, one, node, x: x(one.nu_eps[k]), y: y(one.nu_r[k]) });
      });
    }
    // Arrow keys go from left to right.
    const order = all.slice().sort((a, b) => a.x - b.x || a.y - b.y || a.latent - b.latent);
    let at = null;
    const choose = (point) => {
      if (at) at.node.classList.remove("at");
      at = point;
      if (at) at.node.classList.add("at");
      say(at);
    };
    figure.addEventListener("pointermove", (event) => {
      const box = figure.getBoundingClientRect();
      const scale = width / box.width;
      const [px, py] = [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
      let best = null;
      let nearest = 24 ** 2;
      for (const point of all) {
        const distance = (point.x - px) ** 2 + (point.y - py) ** 2;
        if (distance < nearest) [best, nearest] = [point, distance];
      }
      if (best && best !== at) choose(best);
    });
    figure.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (!step || !order.length) return;
      event.preventDefault();
      const place = at ? order.indexOf(at) + step : step > 0 ? 0 : order.length - 1;
      choose(order[Math.min(order.length - 1, Math.max(0, place))]);
    });
    return { figure, count: all.length };
  };
})();
