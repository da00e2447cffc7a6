// Draws the widgets stored in a page, without a server and without a download.
//
// widgetsnbextension, which comes with ipywidgets, brings every model and view as one script for the classic notebook.
// That script expects to find itself inside a notebook: the page plays that part here, with a kernel that never answers.
(() => {
  "use strict";
  const VIEW = "application/vnd.jupyter.widget-view+json";
  const STATE = "application/vnd.jupyter.widget-state+json";
  const bundle = new URL("vendor/widgets-bundle.js", document.currentScript.src);
  const nothing = () => {};

  // One output, the richest kind first, as a notebook would show it
  function draw(output) {
    const element = document.createElement("div");
    const data = output.data || {};
    const text = (kind) => [].concat(data[kind]).join("");
    const picture = ["image/png", "image/jpeg"].find((kind) => kind in data);
    if (picture) {
      const image = element.appendChild(document.createElement("img"));
      image.src = `data:${picture};base64,${text(picture).replace(/\s/g, "")}`;
    } else if ("image/svg+xml" in data) element.innerHTML = text("image/svg+xml");
    else if ("text/html" in data) element.innerHTML = text("text/html");
    else {
      const plain = "text" in output ? [].concat(output.text).join("") : text("text/plain");
      element.appendChild(document.createElement("pre")).textContent = plain;
    }
    return element;
  }

  let renderWidget;
  class OutputArea {
    constructor(options) { this.node = options.selector; this.element = { trigger: nothing }; }
    clear_output() { this.node.replaceChildren(); }
    fromJSON(outputs) { this.node.replaceChildren(...outputs.map(draw)); }
    toJSON() { return []; }
    register_mime_type(kind, render) { if (kind === VIEW) renderWidget = render; }
  }

  // Controls that would move and compute nothing are at rest; what they made can be heard
  function quieten(node) {
    const still = () => node.querySelectorAll(".jupyter-widgets:not(.widget-container):not(.jupyter-widgets-output-area):not(.widget-output)")
      .forEach((control) => { control.inert = true; });
    new MutationObserver(still).observe(node, { childList: true, subtree: true });
  }

  // Does a stored panel hold anything that was made, or controls alone?
  function holds(id, models) {
    const { model_name, state } = models[id] || { state: {} };
    return model_name === "OutputModel" && (state.outputs || []).length > 0
      || (state.children || []).some((child) => holds(child.replace("IPY_MODEL_", ""), models));
  }

  // Called by the bundle once every stored model has been made again
  function drawAll() {
    const models = JSON.parse(document.querySelector(`script[type="${STATE}"]`).textContent).state;
    for (const script of document.querySelectorAll(`script[type="${VIEW}"]`)) {
      const node = document.createElement("div");
      const note = document.createElement("p");
      node.className = "jupyter-widgets-view";
      note.className = "widget-note";
      note.textContent = "As the notebook shows it at first. Its controls need Python: open the notebook to move them.";
      const view = JSON.parse(script.textContent);
      if (!holds(view.model_id, models)) {
        const link = Object.assign(document.createElement("a"), { href: "guides.new_sound.html", textContent: "a new sound, here and now" });
        note.replaceChildren("The panel makes sounds where Python runs: open the notebook. Your browser alone can make one, too: ", link, ".");
      }
      script.after(node, note);
      const area = { keyboard_manager: { register_events: nothing }, create_output_subarea: () => [node],
                     handle_output: nothing, handle_clear_output: nothing };
      quieten(node);
      renderWidget.call(area, view, {}, { append: nothing });
    }
  }

  async function start() {
    const state = document.querySelector(`script[type="${STATE}"]`);
    if (!state) return;
    const kernel = { is_connected: () => true, comm_info: (target, reply) => reply({ content: { comms: {} } }) };
    const refuse = (a, b, c, d, e, f) => { throw new Error("this page has no kernel"); };
    kernel.comm_manager = { kernel, register_target: nothing, register_comm: nothing, new_comm: refuse };
    const events = { on: nothing };
    const actions = { register: nothing, get: nothing };
    const notebook = {
      kernel, events, container: events, keyboard_manager: { actions },
      metadata: { widgets: { [STATE]: JSON.parse(state.textContent) } },
      get_cells() { drawAll(); return []; },
    };
    window.Jupyter = {
      notebook, version: "7.0.0", menubar: { actions }, notification_area: { widget: nothing },
    };
    const modules = { "base/js/namespace": window.Jupyter, "base/js/events": events,
                      "notebook/js/outputarea": { OutputArea } };
    window.requirejs = (names, done) => Promise.resolve().then(() => done(...names.map((name) => modules[name])));
    window.requirejs.config = nothing;

    // The bundle knows the second MathJax, the page has the third
    if (window.MathJax) {
      window.MathJax.Hub = { Queue: ([, , element]) => window.MathJax.typesetPromise?.(element ? [element] : undefined) };
    }

    // The bundle adds its menu to this one
    const menu = document.body.appendChild(document.createElement("div"));
    menu.hidden = true;
    menu.innerHTML = "<ul><li><span id='help_menu'></span></li></ul>";

    const before = window.define;
    window.define = (names, make) => {
      window.define = before;
      make({ uri: bundle.href }).load_ipython_extension();
    };
    document.head.appendChild(document.createElement("script")).src = bundle;
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
