// The look of a report: light and dark as the browser asks for it.
// What is drawn is draw.ts's and charts.ts's.

export const STYLE = `
:root {
  color-scheme: light dark;
  --back: #ffffff; --panel: #f7f8fa; --text: #1c2128; --muted: #667080; --line: #e2e6eb;
  --run-0: #2f6fd0; --run-1: #d9681d; --run-2: #23875a; --run-3: #b83a72;
  --run-4: #7a52c7; --run-5: #8a6a2f; --run-6: #158a9c; --run-7: #6b7480;
  --part-0: #2f6fd0; --part-1: #7aa7e8; --part-2: #23875a; --part-3: #e0a02c;
  --part-4: #7a52c7; --part-5: #b83a72; --part-6: #158a9c; --part-7: #8a6a2f;
}
@media (prefers-color-scheme: dark) {
  :root {
    --back: #14171c; --panel: #1b1f26; --text: #dfe4ea; --muted: #97a1ae; --line: #2c323b;
    --run-0: #6ea4f4; --run-1: #f0955a; --run-2: #58c08f; --run-3: #e87bab;
    --run-4: #ad8cf0; --run-5: #cbab6b; --run-6: #4cc0d2; --run-7: #a2abb6;
    --part-0: #6ea4f4; --part-1: #3f68a8; --part-2: #58c08f; --part-3: #e0b04c;
    --part-4: #ad8cf0; --part-5: #e87bab; --part-6: #4cc0d2; --part-7: #cbab6b;
  }
  .u-select { background: rgba(255, 255, 255, 0.1); }
}
body {
  margin: 0 auto; padding: 24px 20px 48px; max-width: 1180px; box-sizing: border-box;
  background: var(--back); color: var(--text);
  font: 14px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
}
h1 { font-size: 20px; margin: 0 0 14px; overflow-wrap: anywhere; }
h2 { font-size: 16px; margin: 32px 0 10px; }
h3 { font-size: 13px; margin: 14px 0 6px; color: var(--muted); font-weight: 600; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.uplot table { border-collapse: separate; }
section:not(.charts) th, section:not(.charts) td, body > .scroll th, body > .scroll td {
  text-align: left; padding: 4px 22px 4px 0; border-bottom: 1px solid var(--line);
  vertical-align: top; overflow-wrap: anywhere;
}
tbody th { font-weight: 400; color: var(--muted); white-space: nowrap; }
small, .note { color: var(--muted); }
i { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin-right: 7px; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 500px), 1fr)); gap: 16px; margin-top: 22px; }
figure { margin: 0; padding: 12px 12px 6px; background: var(--panel); border: 1px solid var(--line); border-radius: 8px; min-width: 0; }
figcaption { margin: 0 0 8px; }
figcaption span { color: var(--muted); font-size: 12px; margin-left: 6px; }
.u-legend { font-size: 12px; }
.u-legend th { color: var(--text); font-weight: 400; }
.bar { display: flex; height: 22px; border-radius: 4px; overflow: hidden; background: var(--panel); margin-bottom: 12px; }
.bar-name { margin: 0 0 4px; }
summary { cursor: pointer; margin: 12px 0 6px; color: var(--muted); }
`
