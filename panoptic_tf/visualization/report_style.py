"""The report's style sheet: light and dark, no font and no picture from elsewhere."""

CSS = """
:root {
  color-scheme: light dark;
  --page: #f5f6f8; --card: #ffffff; --ink: #1b1f27; --muted: #667085; --line: #e4e7ec;
  --track: #eceff3; --accent: #3b6fe0; --accent-soft: #e8effd;
  --good: #12855a; --good-soft: #dff5ea; --bad: #c0362c; --bad-soft: #fde8e6;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #101217; --card: #191c23; --ink: #e8eaee; --muted: #98a1b0; --line: #2a2f3a;
    --track: #262b35; --accent: #7aa2ff; --accent-soft: #202c47;
    --good: #5fd3a2; --good-soft: #163227; --bad: #ff8a80; --bad-soft: #3b1e1c;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; padding: 2.5rem 1.25rem 4rem; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
}
main { max-width: 1240px; margin: 0 auto; }
h1 { margin: 0; font-size: 1.8rem; letter-spacing: -0.02em; line-height: 1.2;
  overflow-wrap: anywhere; }
h2 { margin: 2.75rem 0 0.9rem; font-size: 1.15rem; letter-spacing: -0.01em; }
h3 { margin: 1.5rem 0 0.75rem; font-size: 0.95rem; color: var(--muted); font-weight: 600; }
p { margin: 0.3rem 0 0.8rem; max-width: 75ch; }
.warning { border-left: 4px solid #d9822b; margin-top: 1.5rem; padding: 0.9rem 1rem; }
.muted { color: var(--muted); }
.card {
  background: var(--card); border: 1px solid var(--line); border-radius: 12px; overflow: hidden;
}
.scroll { overflow-x: auto; }

.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(132px, 1fr)); gap: 0.75rem;
  margin-top: 1.5rem; }
.tile { padding: 0.9rem 1rem; }
.tile b { display: block; font-size: 1.75rem; font-weight: 650; letter-spacing: -0.03em;
  line-height: 1.2; font-variant-numeric: tabular-nums; }
.tile span { color: var(--muted); font-size: 0.8rem; }
.tile.first { background: var(--accent-soft); border-color: transparent; }
.tile.first b { color: var(--accent); }

table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 0.5rem 0.52rem; text-align: right; white-space: nowrap; }
th { color: var(--muted); font-size: 0.78rem; font-weight: 550;
  border-bottom: 1px solid var(--line); }
td { border-top: 1px solid var(--line); }
tbody tr:first-child td { border-top: 0; }
tbody tr:hover td { background: color-mix(in srgb, var(--accent-soft) 45%, transparent); }
th:first-child, td:first-child { text-align: left; padding-left: 1.1rem; }
th:last-child, td:last-child { padding-right: 1.1rem; }
td.name { max-width: 22rem; overflow: hidden; text-overflow: ellipsis; font-weight: 550; }
td.bar { min-width: 190px; width: 32%; }
td.none, .none { color: var(--muted); }
tr.spans th { border-bottom: 0; padding-bottom: 0; font-weight: 650; text-align: center; }
tr.group td { background: var(--track); color: var(--muted); font-size: 0.78rem; font-weight: 600;
  padding-top: 0.35rem; padding-bottom: 0.35rem; text-align: left; }
.swatch { display: inline-block; width: 0.8em; height: 0.8em; border-radius: 3px;
  margin-right: 0.55em; vertical-align: -0.05em; }
.delta { font-size: 0.75rem; color: var(--muted); margin-left: 0.35rem; }
.delta.up { color: var(--good); } .delta.down { color: var(--bad); }
svg.bar { display: block; width: 100%; height: 10px; border-radius: 5px; background: var(--track); }
svg.bar rect { fill: var(--accent); }

.figures, .gallery { display: grid; gap: 1rem; }
.figures { grid-template-columns: repeat(auto-fit, minmax(min(460px, 100%), 1fr)); }
figure { margin: 0; }
figure img { display: block; width: 100%; height: auto; }
.figures figure { padding: 0.75rem 0.9rem; }
figcaption { display: flex; align-items: center; gap: 0.75rem; padding: 0.55rem 1rem;
  font-size: 0.85rem; }
figcaption .id { font-weight: 600; overflow-wrap: anywhere; }
figcaption .note { color: var(--muted); }
.chip { border-radius: 99px; padding: 0.08rem 0.6rem; font-weight: 600; white-space: nowrap;
  background: var(--track); color: var(--muted); font-variant-numeric: tabular-nums; }
.chip.best { background: var(--good-soft); color: var(--good); }
.chip.worst { background: var(--bad-soft); color: var(--bad); }
.legend { display: flex; flex-wrap: wrap; gap: 0.35rem 1.1rem; margin: 0 0 1rem;
  font-size: 0.85rem; color: var(--muted); }

dl { display: grid; grid-template-columns: minmax(9rem, max-content) 1fr; margin: 0;
  padding: 0.9rem 1.1rem; gap: 0.4rem 1.5rem; }
dt { color: var(--muted); }
dd { margin: 0; overflow-wrap: anywhere; white-space: pre-wrap;
  font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; font-size: 0.86rem; }
details { margin-top: 0.75rem; color: var(--muted); font-size: 0.88rem; }
summary { cursor: pointer; }
@media print { body { background: none; padding: 0; } .card { break-inside: avoid; } }
"""
