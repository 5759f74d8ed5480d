"use strict";
/** On paper: everything unfolded, every chart drawn, dark ink on white, as wide as a page. */
(() => {
  const root = document.documentElement;
  let folded = [];
  let theme;

  addEventListener("beforeprint", () => {
    folded = klann.all("main details:not([open])");
    for (const details of folded) details.open = true;
    theme = root.dataset.theme;
    root.dataset.theme = "light";
    root.classList.add("paper");
    klann.charts.fit();
  });
  addEventListener("afterprint", () => {
    for (const details of folded) details.open = false;
    if (theme) root.dataset.theme = theme;
    else delete root.dataset.theme;
    root.classList.remove("paper");
    klann.charts.unfit();
  });

  klann.find("#print").addEventListener("click", async (event) => {
    const button = event.currentTarget;
    button.disabled = true;
    for (const details of klann.all("main details")) details.open = true;
    await klann.charts.drawAll();
    button.disabled = false;
    print();
  });
})();
