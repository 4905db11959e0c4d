/* Draws every <div class=plot> from the JSON that follows it, in the colours of the page's style. */
"use strict";
(() => {
  const plots = [...document.querySelectorAll(".plot")];
  const config = {
    displaylogo: false, responsive: true, scrollZoom: true, showSendToCloud: false, plotlyServerURL: "",
    modeBarButtonsToRemove: ["sendDataToCloud", "sendChartToCloud", "lasso2d", "select2d", "autoScale2d"],
    doubleClick: "reset",
  };

  /* A colour that is written as the name of a variable of the style becomes what the variable says now. */
  const coloured = (value, style, name = "") => {
    if (typeof value === "string") {
      return /color$/i.test(name) && value.startsWith("--") ? style.getPropertyValue(value).trim() : value;
    }
    if (Array.isArray(value)) return value.map((one) => (typeof one === "object" && one ? coloured(one, style) : one));
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, coloured(one, style, key)]));
  };

  const draw = () => {
    const style = getComputedStyle(document.documentElement);
    for (const plot of plots) {
      const figure = JSON.parse(plot.parentNode.querySelector("script[type='application/json']").textContent);
      const { data, layout } = coloured(figure, style);
      layout.font = { ...layout.font, family: getComputedStyle(document.body).fontFamily };
      Plotly.react(plot, data, layout, config);
    }
  };

  /* The wheel goes on scrolling the page; with Ctrl it zooms. */
  for (const plot of plots) {
    plot.addEventListener("wheel", (event) => event.ctrlKey || event.stopPropagation(), { capture: true });
  }
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const paper = (on) => () => {
    document.documentElement.classList.toggle("print", on);
    draw();
  };
  draw();
  dark.addEventListener("change", draw);
  addEventListener("beforeprint", paper(true));
  addEventListener("afterprint", paper(false));
})();
