"use strict";
/** Plotly charts: the library and each figure are loaded when a chart comes near what is seen. */
klann.charts = (() => {
  const CONFIG = { displayModeBar: false, responsive: true };
  const NARROW = 480; // pixels
  const LEGEND_LINE = 20;
  const charts = new Map(); // plot element -> {key, asked, drawing, drawn, near, adapt, after}
  let library = null;

  function loadLibrary() {
    library ??= new Promise((resolve, reject) => {
      const script = klann.element("script", { src: "page/plotly.min.js" });
      script.onload = resolve;
      script.onerror = () => reject(new Error("page/plotly.min.js cannot be loaded. Is it still there?"));
      document.head.append(script);
    });
    return library;
  }

  /** Plotly's defaults from the style sheet's colours. */
  function template() {
    const style = getComputedStyle(document.documentElement);
    const css = (name) => style.getPropertyValue(name).trim();
    const axis = {
      gridcolor: css("--grid"),
      zerolinecolor: css("--grid"),
      linecolor: css("--grid"),
      tickcolor: css("--grid"),
    };
    const layout = {
      font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: css("--quiet") },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      xaxis: axis,
      yaxis: axis,
      hoverlabel: { bgcolor: css("--raised"), bordercolor: css("--line"), font: { color: css("--text") } },
    };
    return { layout };
  }

  /** On a phone there is no room beside or above a figure: its legend goes below, and the figure grows by it. */
  function narrow(plot, data, layout) {
    if (plot.clientWidth >= NARROW || layout.showlegend === false) return;
    const entries = data.filter((trace) => trace.name && trace.showlegend !== false).length;
    const room = LEGEND_LINE * entries + 10;
    const right = layout.legend?.x > 1 ? 24 : layout.margin.r;
    layout.margin = { ...layout.margin, t: 32, r: right, b: layout.margin.b + room };
    layout.legend = { x: 0, y: 0, yref: "container", yanchor: "bottom" };
    layout.height += room;
    plot.style.height = `${layout.height}px`;
  }

  /** A plot is drawn once for each key, however often it is asked for. */
  function draw(plot) {
    const chart = charts.get(plot);
    if (chart.asked !== chart.key) {
      chart.asked = chart.key;
      chart.drawing = drawAs(plot, chart, chart.key);
    }
    return chart.drawing;
  }

  async function drawAs(plot, chart, key) {
    try {
      const [figure] = await Promise.all([klann.loadFigure(key), loadLibrary()]);
      if (chart.key !== key) return; // another was chosen meanwhile
      const layout = { ...figure.layout, template: template(), height: figure.layout.height ?? plot.clientHeight, autosize: true };
      delete layout.width;
      narrow(plot, figure.data, layout);
      chart.adapt?.(figure.data, layout);
      if (!chart.drawn) plot.replaceChildren(); // what an earlier fault may have left
      await Plotly.react(plot, figure.data, layout, CONFIG);
      chart.drawn = true;
      plot.classList.remove("empty");
      chart.after?.(plot);
    } catch (error) {
      if (chart.drawn) Plotly.purge(plot);
      chart.drawn = false;
      plot.classList.add("empty");
      plot.textContent = error.message;
    }
  }

  const watcher = new IntersectionObserver(
    (entries) => {
      for (const { target, isIntersecting } of entries) {
        if (!charts.has(target)) continue;
        charts.get(target).near = isIntersecting;
        if (isIntersecting) draw(target);
      }
    },
    { rootMargin: "400px" },
  );

  /** Draw figure `key` in `plot` once it is near; `adapt(data, layout)` before, `after(plot)` behind. */
  function show(plot, key, { adapt, after } = {}) {
    const known = charts.get(plot);
    charts.set(plot, Object.assign(known ?? { drawn: false, near: false }, { key, adapt, after }));
    if (!known) watcher.observe(plot);
    else if (known.near) draw(plot);
  }

  function forget(plot) {
    watcher.unobserve(plot);
    if (charts.get(plot)?.drawn) Plotly.purge(plot);
    charts.delete(plot);
  }

  const drawn = () => [...charts].filter(([, chart]) => chart.drawn).map(([plot]) => plot);
  const relayout = (changes) => drawn().map((plot) => Plotly.relayout(plot, changes(plot)));

  klann.on("theme", () => relayout(() => ({ template: template() })));
  for (const plot of klann.all("[data-figure]")) show(plot, plot.dataset.figure);

  return {
    show,
    forget,
    /** Draw all that is on the page, also what is far from view. */
    drawAll: () => Promise.all([...charts.keys()].map(draw)),
    /** Fit every chart to the width that it has now, in the colours of now: at once, for a printer. */
    fit: () => relayout((plot) => ({ width: plot.parentElement.clientWidth, template: template() })),
    unfit: () => relayout(() => ({ width: null, autosize: true, template: template() })),
  };
})();
