"use strict";
document.querySelectorAll(".legend input").forEach(box => {
  box.addEventListener("change", () => {
    box.closest(".charts").classList.toggle("hide-" + box.dataset.series, !box.checked);
  });
});
const button = document.getElementById("theme");
button.hidden = false;
button.addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});
const short = value => Number(value.toPrecision(5)).toLocaleString("en", {maximumSignificantDigits: 5});
const nearest = (points, x) => {
  let low = 0, high = points.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (points[middle][0] < x) low = middle; else high = middle;
  }
  return Math.abs(points[low][0] - x) < Math.abs(points[high][0] - x) ? points[low] : points[high];
};
document.querySelectorAll("figure").forEach(figure => {
  const script = figure.querySelector("script");
  if (!script) return;
  const data = JSON.parse(script.textContent), svg = figure.querySelector("svg");
  const [left, right, top, bottom] = data.area, [from, to] = data.x;
  let tip, rule;
  const hide = () => { tip?.remove(); rule?.remove(); tip = rule = undefined; };
  figure.addEventListener("pointerleave", hide);
  figure.addEventListener("pointermove", event => {
    const box = svg.getBoundingClientRect(), frame = figure.getBoundingClientRect();
    const scale = box.width / svg.viewBox.baseVal.width, at = (event.clientX - box.left) / scale;
    if (at < left || at > right) return hide();
    const x = from + (at - left) / (right - left) * (to - from), scope = figure.closest(".charts");
    const shown = data.series.filter(s => s.points.length && !scope.classList.contains("hide-" + s.colour));
    if (!shown.length) return hide();
    if (!tip) {
      tip = figure.appendChild(document.createElement("div"));
      rule = figure.appendChild(document.createElement("div"));
      tip.className = "tip"; rule.className = "rule";
    }
    const values = shown.map(s => [s, nearest(s.points, x)]);
    tip.replaceChildren(data.xLabel + " " + short(values[0][1][0]));
    for (const [series, [, y]] of values) {
      const line = tip.appendChild(document.createElement("div")), mark = line.appendChild(document.createElement("i"));
      mark.style.cssText = scope.querySelector(`[data-series="${series.colour}"]`)?.nextElementSibling.style.cssText ?? "";
      line.append(series.name + ": " + short(y));
    }
    const px = box.left - frame.left + at * scale, py = box.top - frame.top;
    rule.style.cssText = `left:${px}px;top:${py + top * scale}px;height:${(bottom - top) * scale}px`;
    const flip = px + tip.offsetWidth + 14 > frame.width;
    tip.style.left = Math.max(0, flip ? px - tip.offsetWidth - 10 : px + 10) + "px";
    tip.style.top = py + top * scale + "px";
  });
});
