// Numbers and tokens as a reader sees them.
(function () {
  "use strict";
  const report = window.report;
  const { known, number } = report;

  // Two significant digits in percent, however rare.
  report.share = function (value) {
    if (!known(value)) return "\u2013";
    if (value === 0) return "0\u2009%";
    const hundred = value * 100;
    if (hundred >= 10) return hundred.toFixed(0) + "\u2009%";
    if (hundred >= 0.001) return Number(hundred.toPrecision(2)) + "\u2009%";
    return hundred.toExponential(0).replace("-", "\u2212") + "\u2009%";
  };

  report.cell = function (column, value) {
    if (!known(value)) return "\u2013";
    if (column.kind === "class") return column.classes[value];
    if (column.kind === "share") return report.share(value);
    if (column.kind === "delta") return value.toFixed(3);
    return number(value);
  };

  // What does not show is given a sign.
  const SIGNS = { "\n": "\u21b5", "\r": "\u240d", "\t": "\u21e5", "\u00a0": "\u2423" };
  report.tokenText = function (text) {
    if (text === "") return "\u2205";
    return text.replace(/[\n\r\t\u00a0]/g, (sign) => SIGNS[sign])
      .replace(/[\u0000-\u001f\u007f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]/g, (sign) => "\u2039" + sign.charCodeAt(0).toString(16) + "\u203a");
  };
  // Alone, a space at either end would be lost to the eye.
  report.aloneText = (text) => report.tokenText(text).replace(/^ +| +$/g, (spaces) => "\u2423".repeat(spaces.length));
})();
