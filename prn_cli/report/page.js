"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("js");
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const byId = (id) => document.getElementById(id);
  const still = matchMedia("(prefers-reduced-motion: reduce)");

  // Theme: auto, light, dark. A page opened as a file may have no storage; the choice then lasts as long as the page.
  const themes = ["auto", "light", "dark"];
  const button = byId("theme");
  const recall = () => { try { return localStorage.getItem("prn-theme"); } catch { return null; } };
  const setTheme = (theme) => {
    if (theme === "auto") delete root.dataset.theme; else root.dataset.theme = theme;
    button.querySelector("span").textContent = theme;
    try { localStorage.setItem("prn-theme", theme); } catch { /* no storage */ }
  };
  let theme = themes.includes(recall()) ? recall() : "auto";
  setTheme(theme);
  button.hidden = false;
  button.addEventListener("click", () => {
    theme = themes[(themes.indexOf(theme) + 1) % themes.length];
    setTheme(theme);
  });

  // One stop for the Tab key in each list; arrows move within it.
  const visible = (element) => element.getClientRects().length > 0;
  const focusOn = (stops, stop) => {
    for (const other of stops) other.tabIndex = other === stop ? 0 : -1;
    stop.focus({ preventScroll: true });
    stop.scrollIntoView({ block: "nearest", inline: "nearest", behavior: still.matches ? "instant" : "smooth" });
  };
  for (const list of all("[data-roving]")) {
    const stops = all("[data-stop]", list);
    if (!stops.length) continue;
    stops.forEach((stop, i) => { stop.tabIndex = i ? -1 : 0; });
    list.addEventListener("focusin", (event) => {
      const stop = event.target.closest("[data-stop]");
      if (stop) for (const other of stops) other.tabIndex = other === stop ? 0 : -1;
    });
    list.addEventListener("keydown", (event) => {
      if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
      const here = event.target.closest("[data-stop]");
      const lines = list.dataset.roving === "grid"
        ? all("article", list).filter(visible).map((article) => all("[data-stop]", article))
        : stops.filter(visible).map((stop) => [stop]);
      const y = lines.findIndex((line) => line.includes(here));
      if (y < 0) return;
      const x = lines[y].indexOf(here);
      const to = {
        ArrowUp: [y - 1, x], ArrowDown: [y + 1, x], ArrowLeft: [y, x - 1], ArrowRight: [y, x + 1],
        Home: [0, 0], End: [lines.length - 1, 0], PageUp: [Math.max(y - 10, 0), x],
        PageDown: [Math.min(y + 10, lines.length - 1), x],
      }[event.key];
      if (!to) return;
      event.preventDefault();
      const line = lines[to[0]];
      const stop = line && (line[to[1]] || (to[0] !== y ? line[line.length - 1] : null));
      if (stop) focusOn(stops, stop);
    });
  }

  // The rest of the images.
  const images = byId("images");
  const more = byId("all");
  const showAll = (on) => {
    images.classList.toggle("all", on);
    more.setAttribute("aria-expanded", String(on));
    more.textContent = on ? more.dataset.less : more.dataset.more;
    const stops = all("[data-stop]", images);
    const current = stops.find((stop) => stop.tabIndex === 0);
    if (!current || !visible(current)) {
      const first = stops.find(visible);
      for (const stop of stops) stop.tabIndex = stop === first ? 0 : -1;
    }
  };
  if (more) {
    more.addEventListener("click", () => showAll(!images.classList.contains("all")));
    showAll(false);
  }
  const wanted = () => {
    const article = /^#image-\d+$/.test(location.hash) && byId(location.hash.slice(1));
    if (!article) return;
    article.classList.add("wanted");
    article.scrollIntoView({ block: "start", behavior: "instant" });
    const first = article.querySelector("[data-stop]");
    if (first) focusOn(all("[data-stop]", images), first);
  };
  addEventListener("hashchange", wanted);
  for (const link of all(".gains a")) {
    link.addEventListener("click", () => { if (link.hash === location.hash) wanted(); });
  }
  wanted();

  // One picture, large. Arrows as in the gallery; Esc closes, and the focus goes back to what is shown.
  const dialog = byId("viewer");
  let shown = null;
  const show = (panel) => {
    shown = panel;
    const article = panel.closest("article");
    const image = panel.querySelector("img");
    const articles = all("article", images).filter((other) => visible(other) || other === article);
    byId("viewer-title").textContent = `${panel.dataset.title}: ${article.querySelector("h3 bdi").textContent}`;
    byId("viewer-line").textContent = article.querySelector(".line").textContent;
    byId("viewer-legend").textContent = panel.dataset.legend;
    byId("viewer-place").textContent = `image ${articles.indexOf(article) + 1} of ${articles.length}, ${panel.dataset.title}`;
    const large = byId("viewer-image");
    large.src = image.src;
    large.alt = image.alt;
    large.classList.toggle("blocks", panel.classList.contains("blocks"));
  };
  const step = (dy, dx) => {
    const article = shown.closest("article");
    const articles = all("article", images).filter((other) => visible(other) || other === article);
    const target = articles[articles.indexOf(article) + dy];
    if (!target) return;
    const here = all("[data-stop]", article);
    const panels = all("[data-stop]", target);
    const same = panels.findIndex((panel) => panel.dataset.title === shown.dataset.title);
    const next = dy ? panels[same < 0 ? 0 : same] : here[here.indexOf(shown) + dx];
    if (next) show(next);
  };
  if (images) {
    images.addEventListener("click", (event) => {
      const panel = event.target.closest(".panel");
      if (!panel) return;
      show(panel);
      dialog.showModal();
    });
  }
  for (const control of all("[data-step]", dialog)) {
    control.addEventListener("click", () => step(...control.dataset.step.split(",").map(Number)));
  }
  byId("viewer-close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("keydown", (event) => {
    const by = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!by || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    step(...by);
  });
  dialog.addEventListener("close", () => focusOn(all("[data-stop]", images), shown));
})();
