"use strict";
/** Light or dark: as the system has it, or as chosen here. Runs before the page is shown. */
(() => {
  const ORDER = ["auto", "light", "dark"];
  const root = document.documentElement;

  function remembered() {
    try {
      return localStorage.getItem("klann-theme");
    } catch {
      return null; // storage is switched off
    }
  }

  function remember(theme) {
    try {
      localStorage.setItem("klann-theme", theme);
    } catch {
      // then it holds for this visit
    }
  }

  function set(theme) {
    if (theme === "auto") delete root.dataset.theme;
    else root.dataset.theme = theme;
  }

  let theme = ORDER.includes(remembered()) ? remembered() : "auto";
  set(theme);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => klann.tell("theme"));
  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    button.textContent = `Theme: ${theme}`;
    button.addEventListener("click", () => {
      theme = ORDER[(ORDER.indexOf(theme) + 1) % ORDER.length];
      remember(theme);
      set(theme);
      button.textContent = `Theme: ${theme}`;
      klann.tell("theme");
    });
  });
})();
