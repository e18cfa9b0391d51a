"use strict";
(() => {
  const root = document.documentElement;
  const plots = () => (window.Bokeh ? Bokeh.documents.flatMap((doc) => doc.roots()) : []);

  // Bokeh reads its colours from the page's variables whenever it paints.
  const repaint = () => {
    for (const view of window.Bokeh ? Object.values(Bokeh.index.roots ?? {}) : []) view.request_paint?.();
    for (const plot of plots()) plot.change.emit();
  };
  const dark = matchMedia("(prefers-color-scheme: dark)");
  let chosen = false;
  const theme = (name) => {
    root.dataset.theme = name;
    repaint();
  };
  dark.addEventListener("change", () => chosen || theme(dark.matches ? "dark" : "light"));
  document.getElementById("theme").addEventListener("click", () => {
    chosen = true;
    theme(root.dataset.theme === "dark" ? "light" : "dark");
  });

  for (const box of document.querySelectorAll("[data-run]")) {
    box.addEventListener("change", () => {
      for (const plot of plots()) {
        for (const drawn of [...plot.renderers, ...plot.center]) {
          // What python's `line(tags=...)` tags is the glyph; of a mark it is the mark itself.
          const [run] = (drawn.glyph ?? drawn).tags;
          if (run === Number(box.dataset.run)) drawn.visible = box.checked;
        }
      }
    });
  }

  const given = document.getElementById("given");
  given.addEventListener("change", () => document.getElementById("values").classList.toggle("given", given.checked));

  // A finger scrolls the page; it zooms only where a tool was chosen.
  if (matchMedia("(pointer: coarse)").matches) {
    const wait = setInterval(() => {
      if (!plots().length) return;
      clearInterval(wait);
      for (const plot of plots()) {
        plot.toolbar.autohide = false;
        for (const tool of plot.toolbar.tools) if (tool.type === "BoxZoomTool") tool.active = false;
      }
    }, 100);
    setTimeout(() => clearInterval(wait), 10000);
  }
})();
