// Which latents are in the table, in which order.
(function () {
  "use strict";
  const report = window.report;
  const { data, state } = report;
  report.order = new Uint32Array(0);
  report.placeOf = new Int32Array(0); // latent -> row, -1 where filtered out

  // ">0.9", "<1e-3", ">=2", "0.4..0.6" -> a test; null where the text says nothing we know.
  report.readFilter = function (text) {
    const trimmed = text.trim();
    const one = /^(>=|<=|>|<|=)\s*(\S+)$/.exec(trimmed);
    const two = /^(\S+?)\s*\.\.\s*(\S+)$/.exec(trimmed);
    const numberOf = (part) => (/%$/.test(part) ? Number(part.slice(0, -1)) / 100 : Number(part));
    if (one) {
      const edge = numberOf(one[2]);
      if (Number.isNaN(edge)) return null;
      return { ">": (x) => x > edge, "<": (x) => x < edge, ">=": (x) => x >= edge, "<=": (x) => x <= edge, "=": (x) => x === edge }[one[1]];
    }
    if (two) {
      const [low, high] = [numberOf(two[1]), numberOf(two[2])];
      return Number.isNaN(low) || Number.isNaN(high) ? null : (x) => x >= low && x <= high;
    }
    return null;
  };

  function tests() {
    const found = [];
    for (const [key, text] of Object.entries(state.filters)) {
      const column = report.column(key);
      if (!column || !text) continue;
      if (column.kind === "class") {
        const chosen = column.classes.indexOf(text);
        if (chosen >= 0) found.push([column.values, (x) => x === chosen]);
      } else {
        const test = report.readFilter(text);
        if (test) found.push([column.values, test]);
      }
    }
    return found;
  }

  // NaN passes no filter, and stands last in either direction.
  report.sortRows = function () {
    const kept = tests();
    let count = 0;
    const chosen = new Uint32Array(data.latents);
    for (let latent = 0; latent < data.latents; latent++) {
      let passes = true;
      for (const [values, test] of kept) if (!test(values[latent])) { passes = false; break; }
      if (passes) chosen[count++] = latent;
    }
    const order = chosen.slice(0, count);
    const column = report.column(state.sort);
    if (column) {
      const { values } = column;
      const sign = state.up ? 1 : -1;
      order.sort((a, b) => {
        const [x, y] = [values[a], values[b]];
        if (x === y) return a - b;
        if (Number.isNaN(x)) return Number.isNaN(y) ? a - b : 1;
        if (Number.isNaN(y)) return -1;
        return x < y ? -sign : sign;
      });
    } else if (!state.up) order.reverse();
    report.order = order;
    report.placeOf = new Int32Array(data.latents).fill(-1);
    order.forEach((latent, row) => { report.placeOf[latent] = row; });
  };
})();
