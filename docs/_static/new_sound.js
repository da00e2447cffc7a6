// A new sound on the reader's own machine: press a kind, hear what the model makes of fresh noise.
//
// Nothing is loaded before the first press. Model and runtime come as scripts that hold text, so that the page also works
// from a disk, where a browser fetches nothing.
(() => {
  "use strict";
  const vendor = new URL("vendor/new_sound/", document.currentScript.src);
  const box = () => document.getElementById("new-sound");
  let ready = null, session = null, busy = false;

  const make = (tag, props, ...inside) => {
    const e = Object.assign(document.createElement(tag), props);
    e.append(...inside);
    return e;
  };

  const script = (name) => new Promise((done, failed) => {
    document.head.append(make("script", { src: new URL(name, vendor).href, onload: done,
      onerror: () => failed(new Error("This copy of the site was built without the model.")) }));
  });

  // The smallest module with a SIMD instruction: i8x16.splat, i8x16.popcnt
  const SIMD = new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11]);
  // Out of base64; an iterator over 33 million letters would take longer than all the rest
  function bytes(text) {
    if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
    const letters = atob(text), out = new Uint8Array(letters.length);
    for (let k = 0; k < out.length; k++) out[k] = letters.charCodeAt(k);
    return out;
  }

  // What is needed, once: labels at once, the model and the runtime at the first press
  async function load() {
    if (typeof WebAssembly !== "object") throw new Error("This browser has no WebAssembly. Try a newer one.");
    if (!WebAssembly.validate(SIMD)) throw new Error("This browser runs no SIMD instructions. Try a newer one.");
    await script("ort.wasm.min.js");
    await script("runtime.js");
    await script("model.js");
    const held = window.foleybookProgram, ort = window.ort;
    const url = URL.createObjectURL(new Blob([atob(held.loader)], { type: "text/javascript" }));
    ort.env.wasm.wasmPaths = { mjs: url };
    ort.env.wasm.wasmBinary = bytes(held.runtime).buffer;
    ort.env.wasm.numThreads = 1;
    try { session = await ort.InferenceSession.create(bytes(held.model), { executionProviders: ["wasm"] }); }
    catch (e) { throw new Error(`This browser cannot run the model (${e.message || e}). Try a newer one, or a machine with more memory.`); }
    held.model = held.runtime = held.loader = "";
    return held;
  }

  // Standard normal numbers (Box and Muller 1958) out of the browser's own source of chance
  function normal(n) {
    const out = new Float32Array(n), few = new Uint32Array(16384);
    for (let i = 0, k = few.length; i < n; i += 2, k += 2) {
      if (k >= few.length) { crypto.getRandomValues(few); k = 0; }
      const r = Math.sqrt(-2 * Math.log((few[k] + 1) / 4294967297)), a = 2 * Math.PI * few[k + 1] / 4294967296;
      out[i] = r * Math.cos(a);
      if (i + 1 < n) out[i + 1] = r * Math.sin(a);
    }
    return out;
  }

  // A track of level, dB: -12 at each moment, 120 dB less a second later, never below -72
  function level(moments, frames, perSecond) {
    const out = new Float32Array(frames);
    if (!moments.length) return out;
    for (let k = 0; k < frames; k++) {
      out[k] = -72;
      for (const m of moments) {
        const since = k / perSecond - m;
        if (since > -1 / perSecond) out[k] = Math.max(out[k], -12 - 120 * Math.max(0, since));
      }
    }
    return out;
  }

  async function sound(held, label, moments) {
    const ort = window.ort, feeds = {};
    for (const [name, shape] of Object.entries(held.inputs)) {
      const n = shape.reduce((a, b) => a * b, 1);
      let data;
      if (name === "classes") { data = new Float32Array(n); data[held.labels.indexOf(label)] = 1; }
      else if (name === "level") data = level(moments, n, held.rate / held.hop);
      else data = normal(n);
      feeds[name] = new ort.Tensor("float32", data, shape);
    }
    return (await session.run(feeds)).audio.data;
  }

  // 16-bit wav
  function wav(x, rate) {
    const view = new DataView(new ArrayBuffer(44 + 2 * x.length));
    const word = (at, text) => [...text].forEach((c, k) => view.setUint8(at + k, c.charCodeAt(0)));
    word(0, "RIFF"); view.setUint32(4, 36 + 2 * x.length, true); word(8, "WAVEfmt ");
    view.setUint32(16, 16, true); view.setUint16(20, 1, true); view.setUint16(22, 1, true);
    view.setUint32(24, rate, true); view.setUint32(28, 2 * rate, true); view.setUint16(32, 2, true);
    view.setUint16(34, 16, true); word(36, "data"); view.setUint32(40, 2 * x.length, true);
    x.forEach((v, k) => view.setInt16(44 + 2 * k, Math.round(32767 * Math.max(-1, Math.min(1, v))), true));
    return new Blob([view.buffer], { type: "audio/wav" });
  }

  // Spectrum of a frame whose length is a power of two, in place (Cooley and Tukey 1965)
  function fft(re, im) {
    const n = re.length;
    for (let i = 1, j = 0; i < n; i++) {
      let bit = n >> 1;
      for (; j & bit; bit >>= 1) j ^= bit;
      j ^= bit;
      if (i < j) { [re[i], re[j]] = [re[j], re[i]]; [im[i], im[j]] = [im[j], im[i]]; }
    }
    for (let size = 2; size <= n; size *= 2)
      for (let k = 0; k < size / 2; k++) {
        const c = Math.cos(2 * Math.PI * k / size), s = -Math.sin(2 * Math.PI * k / size);
        for (let a = k; a < n; a += size) {
          const b = a + size / 2, x = re[b] * c - im[b] * s, y = re[b] * s + im[b] * c;
          re[b] = re[a] - x; im[b] = im[a] - y; re[a] += x; im[a] += y;
        }
      }
  }

  // Time to the right, octaves upwards, 70 dB from light to dark
  function picture(canvas, x) {
    const n = 1024, w = canvas.width, h = canvas.height, pen = canvas.getContext("2d"), image = pen.createImageData(w, h);
    const levels = new Float32Array(w * h), re = new Float32Array(n), im = new Float32Array(n);
    let most = -1e9;
    for (let col = 0; col < w; col++) {
      const start = Math.floor(col * Math.max(0, x.length - n) / w);
      for (let k = 0; k < n; k++) { re[k] = (x[start + k] || 0) * (0.5 - 0.5 * Math.cos(2 * Math.PI * k / n)); im[k] = 0; }
      fft(re, im);
      for (let row = 0; row < h; row++) {
        const bin = Math.round(2 ** (1 + 8 * (1 - row / h)));
        const v = 10 * Math.log10(re[bin] * re[bin] + im[bin] * im[bin] + 1e-12);
        levels[row * w + col] = v;
        if (v > most) most = v;
      }
    }
    levels.forEach((v, k) => {
      const t = Math.max(0, Math.min(1, 1 + (v - most) / 70));
      image.data.set([255 * Math.min(1, 1.6 * t), 255 * t * t, 90 + 90 * Math.sin(3 * t), 255], 4 * k);
    });
    pen.putImageData(image, 0, 0);
  }

  function show(held, label, x, seconds) {
    const row = make("div", { className: "new-sound-take" }), canvas = make("canvas", { width: 240, height: 80 });
    const blob = wav(x, held.rate), url = URL.createObjectURL(blob), player = make("audio", { controls: true, src: url });
    canvas.setAttribute("aria-label", `spectrogram of ${label}`);
    picture(canvas, x);
    const link = make("a", { href: url, download: `${label}.wav`, textContent: "download" });
    player.setAttribute("aria-label", label);
    row.append(canvas, make("div", {}, make("b", { textContent: label.replaceAll("_", " ") }), " ", link, player,
      make("small", { textContent: `made in ${seconds.toFixed(1)} s; ${held.licence}` })));
    box().querySelector(".new-sound-takes").prepend(row);
    row.scrollIntoView({ block: "nearest", behavior: "smooth" });
    window.foleybookMade = { label, samples: x, rate: held.rate, seconds };
    player.play().catch(() => {}); // where the browser wants another press for sound
  }

  async function press(button, label, moments, say) {
    if (busy) return;
    busy = true;
    for (const b of button.parentNode.children) b.setAttribute("aria-pressed", b === button);
    try {
      if (!ready) { say("loading the model, once ..."); ready = load(); }
      const held = await ready;
      say("at work ...");
      await new Promise((done) => setTimeout(done, 30)); // let the word appear
      const start = performance.now(), x = await sound(held, label, moments());
      show(held, label, x, (performance.now() - start) / 1000);
      say("");
    } catch (e) { ready = null; say(e.message || String(e)); }
    busy = false;
  }

  async function begin() {
    const here = box();
    if (!here) return;
    const told = make("output"), taps = [], strip = make("div", { className: "new-sound-strip" });
    const say = (text) => { told.textContent = text; };
    here.append(told);
    try { await script("about.js"); } catch (e) { say(e.message); return; }
    const about = window.foleybookAbout, moments = () => taps.map((s) => s * about.seconds);
    const clear = make("button", { textContent: "clear", hidden: true });
    strip.dataset.hint = `When? Tap here, from 0 s at the left to ${about.seconds} s at the right; then press a kind.`;
    strip.onclick = (e) => {
      const at = strip.getBoundingClientRect(), share = (e.clientX - at.x) / at.width;
      taps.push(share);
      const mark = make("i");
      mark.style.left = `${100 * share}%`;
      strip.append(mark);
      clear.hidden = false;
    };
    clear.onclick = () => { taps.length = 0; strip.replaceChildren(); clear.hidden = true; };
    const kinds = make("div", { className: "new-sound-kinds" });
    for (const label of about.labels)
      kinds.append(make("button", { textContent: label.replaceAll("_", " "), onclick: (e) => press(e.currentTarget, label, moments, say) }));
    here.append(kinds);
    if (about.level) here.append(make("div", { className: "new-sound-when" }, strip, clear));
    here.append(told, make("div", { className: "new-sound-takes" }));
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", begin);
  else begin();
})();
