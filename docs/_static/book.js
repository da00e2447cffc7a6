// Long code shows its first lines; a press shows the rest, and one link opens all code of all pages from then on.
(() => {
  "use strict";
  const MOST = 13, SHOWN = 9, KEY = "foleybook-all-code"; // a box with more lines than MOST shows SHOWN of them
  const remembered = () => { try { return localStorage.getItem(KEY) === "yes"; } catch { return false; } };
  const remember = (all) => { try { localStorage.setItem(KEY, all ? "yes" : "no"); } catch { /* from a disk, some browsers keep nothing */ } };

  function shorten(box) {
    const pre = box.querySelector("pre"), lines = pre.textContent.trimEnd().split("\n").length;
    if (lines <= MOST || box.closest("details")) return; // what was folded opens whole
    const button = document.createElement("button");
    button.className = "fb-more";
    box.classList.add("fb-long");
    box.style.setProperty("--shown", SHOWN);
    const set = (open) => {
      box.classList.toggle("fb-open", open);
      button.textContent = open ? "fewer lines" : `${lines - SHOWN} more lines`;
      button.setAttribute("aria-expanded", open);
    };
    button.onclick = () => set(!box.classList.contains("fb-open"));
    box.parentNode.append(button);
    box.foleybookOpen = set;
    set(remembered());
  }

  function begin() {
    const boxes = [...document.querySelectorAll("div.cell_input div.highlight")].filter((b) => b.querySelector("pre"));
    boxes.forEach(shorten);
    const long = boxes.filter((b) => b.foleybookOpen), title = document.querySelector("article h1");
    if (!long.length || !title) return;
    const link = document.createElement("button");
    const say = () => { link.textContent = remembered() ? "long code in short" : "all code in full"; };
    link.className = "fb-all-code";
    link.onclick = () => {
      remember(!remembered());
      long.forEach((b) => b.foleybookOpen(remembered()));
      say();
    };
    say();
    title.after(link);
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", begin);
  else begin();
})();
