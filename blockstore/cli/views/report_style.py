"""The style sheet and the script of the page that `blockstore report` makes.

Colours are those of Okabe and Ito, which colour-blind people can tell apart: cold ones for the memory of VMs, warm
ones for what the host pays. The script only shows values at the pointer; nothing is missing without it.
"""

from __future__ import annotations

from typing import Final

STYLE: Final = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #5c6670; --faint: #d9dee3; --paper: #fff; --card: #f5f7f9;
  --warn: #fff4d6; --warn-ink: #5d4200; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaee; --soft: #9aa5b0; --faint: #343b43; --paper: #15181c;
  --card: #1e2329; --warn: #3d3113; --warn-ink: #ffe3a3; } }
@media print { :root { --ink: #000; --soft: #444; --faint: #ccc; --paper: #fff; --card: #fff; --warn: #fff;
  --warn-ink: #000; color-scheme: light; } }
.zero { --paint: #a6adb4; } .shared { --paint: #0072b2; } .patched { --paint: #56b4e9; }
.compressed { --paint: #009e73; } .dense { --paint: #00573f; } .raw { --paint: #f0e442; }
.paged { --paint: #8c96c6; }
.pool { --paint: #e69f00; } .tables { --paint: #cc79a7; } .daemon_memory { --paint: #7d5a3c; }
.resident { --paint: #d55e00; } .snapshots { --paint: #b09e7c; }
.touched { --paint: var(--ink); } .saved { --paint: #009e73; } .refaults { --paint: #d55e00; }
.vm0 { --paint: #0072b2; } .vm1 { --paint: #e69f00; } .vm2 { --paint: #009e73; } .vm3 { --paint: #cc79a7; }
.vm4 { --paint: #56b4e9; } .vm5 { --paint: #d55e00; } .vm6 { --paint: #f0e442; } .vm7 { --paint: #7d5a3c; }
.others { --paint: #a6adb4; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 24px 32px 48px; max-width: 1200px; background: var(--paper); color: var(--ink);
  font: 14px/1.45 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; font-variant-numeric: tabular-nums; }
h1 { margin: 0; font-size: 24px; line-height: 1.25; overflow-wrap: anywhere; }
h2 { margin: 36px 0 12px; font-size: 17px; }
p { margin: 4px 0; } .soft, dd { color: var(--soft); }
.warning { margin: 12px 0 0; padding: 8px 12px; border-left: 4px solid #e69f00; background: var(--warn);
  color: var(--warn-ink); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(170px, 1fr)); gap: 12px; margin-top: 20px; }
.card { padding: 10px 14px 12px; border: 1px solid var(--faint); border-radius: 6px; background: var(--card); }
.card b { display: block; font-size: 24px; line-height: 1.3; font-weight: 600; }
.bar { margin: 10px 0 18px; } .bar svg { display: block; width: 100%; height: 30px; background: var(--card); }
.bar .head { display: flex; justify-content: space-between; margin-bottom: 4px; }
svg .area { fill: var(--paint); stroke: var(--paper); stroke-width: .7; }
svg .line { fill: none; stroke: var(--paint); stroke-width: 2; stroke-linejoin: round;
  stroke-linecap: round; }
svg .piece { fill: var(--paint); }
.bar .piece { stroke: var(--paper); vector-effect: non-scaling-stroke; }
svg text { fill: var(--soft); font-size: 12px; } svg .value { text-anchor: end; } svg .time { text-anchor: middle; }
svg .grid { stroke: var(--faint); } svg .axis { stroke: var(--soft); }
svg .mark { stroke: var(--ink); stroke-dasharray: 2 4; } svg .pointer { stroke: var(--soft); }
.legend { display: flex; flex-wrap: wrap; gap: 2px 18px; margin: 6px 0 0; padding: 0; list-style: none; }
.legend li { display: flex; align-items: center; gap: 6px; max-width: 100%; }
.legend bdi { max-width: 22em; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.swatch, .stroke { flex: none; display: inline-block; width: 0; height: 0; border: 6px solid var(--paint); }
.stroke { width: 16px; border-width: 2px 0 0; }
.charts { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 28px 24px; }
.chart { margin: 0; min-width: 0; break-inside: avoid; } .chart.wide { grid-column: 1 / -1; }
.chart svg { display: block; width: 100%; height: auto; touch-action: pan-y; }
.chart .legend { padding-left: 8px; font-size: 13px; }
figcaption { margin-bottom: 6px; font-weight: 600; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; } .volumes { width: 100%; font-size: 12px; }
caption { padding-bottom: 6px; text-align: left; color: var(--soft); font-size: 14px; }
th, td { padding: 3px 6px; border-bottom: 1px solid var(--faint); text-align: right; white-space: nowrap; }
th { font-weight: 600; } thead th { color: var(--soft); vertical-align: bottom; } .group { text-align: center; }
th[scope=row] { text-align: left; white-space: normal; overflow-wrap: anywhere; }
.volumes th, .volumes td { padding: 3px 4px; }
.volumes th[scope=row] { min-width: 10em; max-width: 16em; font-weight: 400; }
.volumes bdi { display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 3; overflow: hidden; }
.volumes .first { border-left: 1px solid var(--faint); } .all > * { font-weight: 600 !important; }
.mini { width: 82px; } .mini svg { display: block; width: 74px; height: 7px; margin: 2px 0; }
.loss { color: #d55e00; }
dl { columns: 2; column-gap: 32px; } dt { font-weight: 600; break-after: avoid; }
dd { margin: 0 0 8px; break-inside: avoid; }
#hover { position: fixed; z-index: 1; max-width: 340px; padding: 6px 10px; border: 1px solid var(--faint);
  border-radius: 4px; background: var(--paper); font-size: 12.5px; pointer-events: none; box-shadow: 0 2px 8px #0004; }
#hover div { display: flex; align-items: center; gap: 6px; } #hover span { margin-left: auto; padding-left: 14px; }
#hover bdi { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; } #hover span { white-space: nowrap; }
@media screen and (max-width: 800px) { body { padding: 16px; } .chart.wide { overflow-x: auto; }
  .chart.wide svg { width: 760px; } .charts { grid-template-columns: minmax(0, 1fr); } dl { columns: 1; } }
@media print { @page { size: A4 landscape; margin: 12mm; } body { max-width: none; padding: 0; font-size: 11px; }
  .volumes { font-size: 8.5px; } th, td, .volumes th, .volumes td { padding: 2px 3px; }
  .scroll { overflow: visible; }
  .mini, .mini svg { width: 70px; } tr, .bar, .card, table:not(.volumes) { break-inside: avoid; }
  h2 { break-after: avoid; } #hover { display: none; } }
"""

SCRIPT: Final = """
"use strict";
(() => {
  const charts = document.querySelector(".charts");
  if (!charts) return;
  const times = JSON.parse(charts.dataset.times), offset = Number(charts.dataset.offset);
  const box = document.body.appendChild(document.createElement("div"));
  box.id = "hover";
  box.hidden = true;
  const size = (bytes) => {
    let unit = 0;
    while (Math.abs(bytes) >= 1024 && unit < 6) { bytes /= 1024; unit += 1; }
    return (unit ? bytes.toFixed(1) : bytes) + " " + ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"][unit];
  };
  const write = { bytes: size, percent: (value) => value.toFixed(1) + " %", rate: (value) => value.toFixed(1) + " /s" };
  const add = (parent, tag, text, kind) => {
    const made = parent.appendChild(document.createElement(tag));
    made.textContent = text;
    if (kind) made.className = kind;
    return made;
  };
  for (const svg of charts.querySelectorAll("svg[data-chart]")) {
    const chart = JSON.parse(svg.dataset.chart);
    const line = svg.appendChild(document.createElementNS("http://www.w3.org/2000/svg", "line"));
    line.setAttribute("class", "pointer");
    line.setAttribute("y1", chart.top);
    line.setAttribute("y2", chart.bottom);
    line.style.display = "none";
    const span = times[times.length - 1] - times[0] || 1;
    const leave = () => { box.hidden = true; line.style.display = "none"; };
    const show = (event) => {
      const frame = svg.getBoundingClientRect();
      const at = (event.clientX - frame.left) / frame.width * chart.width;
      const wanted = times[0] + (at - chart.left) / (chart.right - chart.left) * span;
      let nearest = 0;
      times.forEach((time, place) => {
        if (Math.abs(time - wanted) < Math.abs(times[nearest] - wanted)) nearest = place;
      });
      const x = chart.left + (times[nearest] - times[0]) / span * (chart.right - chart.left);
      line.setAttribute("x1", x);
      line.setAttribute("x2", x);
      line.style.display = "";
      box.replaceChildren();
      add(box, "b", new Date((times[nearest] + offset) * 1000).toISOString().slice(0, 19).replace("T", " "));
      chart.names.forEach((name, place) => {
        const value = chart.values[place][nearest];
        if (value === null || (value === 0 && chart.names.length > 6)) return;
        const row = add(box, "div", "");
        add(row, "i", "", "swatch " + chart.paints[place]);
        add(row, "bdi", name);
        add(row, "span", write[chart.unit](value));
      });
      box.hidden = false;
      const left = event.clientX + 16 + box.offsetWidth > innerWidth ? event.clientX - 16 - box.offsetWidth
        : event.clientX + 16;
      box.style.left = Math.max(left, 0) + "px";
      box.style.top = Math.max(Math.min(event.clientY, innerHeight - box.offsetHeight - 8), 0) + "px";
    };
    svg.addEventListener("pointermove", show);
    svg.addEventListener("pointerleave", leave);
  }
})();
"""
