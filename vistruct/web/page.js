// The page's own drawing: a canvas that pans, zooms and takes prompts; words, tables and messages, put in as text only.
window.vistruct = (() => {
  "use strict";
  const make = (tag, name, text) => {
    const one = document.createElement(tag);
    if (name) one.className = name;
    if (text !== undefined) one.textContent = text;
    return one;
  };
  const css = (c, a = 1) => `rgba(${c[0]},${c[1]},${c[2]},${a})`;
  const ICONS = {
    move: "M12 2v20M2 12h20M12 2l-3 3M12 2l3 3M12 22l-3-3M12 22l3-3M2 12l3-3M2 12l3 3M22 12l-3-3M22 12l-3 3",
    point: "M12 9a3 3 0 1 0 0 6a3 3 0 1 0 0-6M12 2v4M12 18v4M2 12h4M18 12h4",
    box: "M4 5h16v14h-16z",
    scribble: "M3 17c4-12 7-12 7-4s4 6 5 0s3-6 6-4",
    mask: "M12 3c5 0 9 3 8 9s-6 9-10 8s-7-4-6-9s4-8 8-8zM8 12l8-4M8 16l8-5",
    plus: "M12 5v14M5 12h14", minus: "M5 12h14", fit: "M4 9v-5h5M20 9v-5h-5M4 15v5h5M20 15v5h-5",
    names: "M4 6h16M4 12h10M4 18h13", undo: "M9 14l-5-5l5-5M4 9h10a6 6 0 0 1 0 12h-3",
  };
  const TITLES = {
    move: "Move the picture (drag; wheel or pinch zooms)", point: "Ask about a point: click",
    box: "Ask about a box: drag", scribble: "Ask about a scribble: draw a line", mask: "Ask about a mask: paint",
  };
  const button = (icon, title) => {
    const one = make("button", "vt-tool");
    one.type = "button"; one.title = title; one.setAttribute("aria-label", title);
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    svg.setAttribute("viewBox", "0 0 24 24"); path.setAttribute("d", ICONS[icon]);
    svg.append(path); one.append(svg);
    return one;
  };
  const slider = (title, value) => {
    const label = make("label", "vt-slide", title), one = make("input");
    one.type = "range"; one.min = 0; one.max = 100; one.value = value; one.setAttribute("aria-label", title);
    label.append(one);
    return [label, one];
  };
  const PROMPT = [255, 90, 160];
  let current = null; // the viewer that prompts are read from

  function viewer(element, props, watch) {
    const root = element.querySelector(".vt-viewer"), bar = make("div", "vt-bar"), stage = make("div", "vt-stage");
    const canvas = make("canvas"), empty = make("div", "vt-empty", "Choose an image or upload one");
    const status = make("div", "vt-status"), chips = make("div", "vt-chips"), legend = make("div", "vt-legend");
    canvas.tabIndex = 0;
    canvas.setAttribute("role", "application");
    canvas.setAttribute("aria-label", "The image; arrow keys move it, plus and minus zoom, 0 fits it");
    stage.append(canvas, empty, status);
    root.replaceChildren(bar, stage, chips, legend);
    const s = {
      data: {}, images: [], areas: null, at: { k: 1, x: 0, y: 0 }, tool: "move", regions: [], draft: null,
      opacity: 0.75, wipe: 0.5, names: true, hidden: new Set(), lit: new Set(), hover: null, pointers: new Map(),
    };
    const api = { s, regions: () => s.regions, draw, fit, place };
    current = api;

    const tools = make("div", "vt-group"), zoom = make("div", "vt-group"), more = make("div", "vt-group vt-more");
    const toolButtons = {};
    const pick = (name) => {
      s.tool = name; s.isJoining = false; // a mask may have many strokes; picked anew, another mask begins
      for (const [key, one] of Object.entries(toolButtons)) one.setAttribute("aria-pressed", key === name);
      canvas.style.cursor = name === "move" ? "grab" : "crosshair";
    };
    const act = (group, icon, title, what) => {
      const one = button(icon, title);
      one.addEventListener("click", what); group.append(one);
      return one;
    };
    act(zoom, "minus", "Smaller", () => zoomAt(1 / 1.4));
    act(zoom, "fit", "Whole picture", () => { fit(); draw(); });
    act(zoom, "plus", "Larger", () => zoomAt(1.4));
    const namesButton = act(more, "names", "Names on the picture", () => {
      s.names = !s.names; namesButton.setAttribute("aria-pressed", s.names); draw();
    });
    namesButton.setAttribute("aria-pressed", true);
    const [opacityLabel, opacity] = slider("Overlay", 75), [wipeLabel, wipe] = slider("Before / after", 50);
    opacity.addEventListener("input", () => { s.opacity = opacity.value / 100; draw(); });
    wipe.addEventListener("input", () => { s.wipe = wipe.value / 100; draw(); });
    more.append(opacityLabel, wipeLabel);
    bar.append(tools, zoom, more);

    function offer(names) {
      tools.replaceChildren();
      for (const key of Object.keys(toolButtons)) delete toolButtons[key];
      for (const name of ["move", ...names]) toolButtons[name] = act(tools, name, TITLES[name], () => pick(name));
      pick(toolButtons[s.tool] ? s.tool : "move");
      tools.hidden = !names.length;
    }

    // --- what is shown
    let turn = 0;
    async function show() {
      const data = props.value || {}, mine = ++turn, load = async (uri) => {
        const one = new Image(); one.src = uri; await one.decode(); return one;
      };
      const images = await Promise.all((data.images || []).map(load));
      const areas = data.areas ? await load(data.areas) : null;
      if (mine !== turn) return; // something newer has come
      const isNew = data.key !== s.data.key;
      s.data = data; s.images = images; s.areas = areas; s.lit.clear(); s.hidden.clear();
      if (isNew) s.regions = [];
      if (data.sent !== undefined && data.sent !== s.sent) { s.sent = data.sent; s.regions = []; }
      offer(data.tools || []);
      wipeLabel.hidden = images.length < 2;
      opacityLabel.hidden = !areas && !(data.marks || []).length;
      namesButton.hidden = !(data.marks || []).length;
      more.hidden = wipeLabel.hidden && opacityLabel.hidden && namesButton.hidden;
      empty.hidden = images.length > 0; bar.hidden = !images.length;
      size();
      if (isNew) fit();
      drawChips(); drawLegend(); draw();
    }
    function size() {
      const width = stage.clientWidth, [w, h] = s.data.size || [3, 2];
      const height = s.images.length ? Math.max(260, Math.min(width * h / w, window.innerHeight * 0.68)) : 260;
      const ratio = window.devicePixelRatio || 1;
      stage.style.height = `${height}px`;
      canvas.width = Math.round(width * ratio); canvas.height = Math.round(height * ratio);
    }
    function fit() {
      const [w, h] = s.data.size || [1, 1], k = Math.min(stage.clientWidth / w, stage.clientHeight / h);
      s.at = { k, x: (stage.clientWidth - w * k) / 2, y: (stage.clientHeight - h * k) / 2 };
    }
    function zoomAt(factor, x = stage.clientWidth / 2, y = stage.clientHeight / 2) {
      const [w, h] = s.data.size || [1, 1], least = 0.5 * Math.min(stage.clientWidth / w, stage.clientHeight / h);
      const k = Math.min(Math.max(s.at.k * factor, least), 64), f = k / s.at.k;
      s.at = { k, x: x - (x - s.at.x) * f, y: y - (y - s.at.y) * f };
      draw();
    }
    function place(x, y) { return [x * s.at.k + s.at.x, y * s.at.k + s.at.y]; } // image -> stage
    const inside = (event) => {
      const r = canvas.getBoundingClientRect(), [w, h] = s.data.size || [0, 0];
      const x = (event.clientX - r.left - s.at.x) / s.at.k, y = (event.clientY - r.top - s.at.y) / s.at.k;
      return [Math.min(Math.max(x, 0), w), Math.min(Math.max(y, 0), h)];
    };

    // --- the canvas
    function draw() {
      const g = canvas.getContext("2d"), ratio = window.devicePixelRatio || 1, { k, x, y } = s.at;
      g.setTransform(1, 0, 0, 1, 0, 0);
      g.clearRect(0, 0, canvas.width, canvas.height);
      if (!s.images.length) return;
      const [w, h] = s.data.size;
      g.setTransform(ratio * k, 0, 0, ratio * k, ratio * x, ratio * y);
      g.imageSmoothingEnabled = k * ratio * w / s.images[0].naturalWidth < 2;
      g.imageSmoothingQuality = "high";
      const two = s.images.length > 1;
      g.drawImage(s.images[s.images.length - 1], 0, 0, w, h);
      const over = () => {
        if (s.areas) {
          g.globalAlpha = s.opacity; g.imageSmoothingEnabled = false;
          g.drawImage(s.areas, 0, 0, w, h);
          g.globalAlpha = 1;
        }
      };
      if (two) {
        over();
        g.imageSmoothingEnabled = true;
        g.save(); g.beginPath(); g.rect(0, 0, w * s.wipe, h); g.clip();
        g.drawImage(s.images[0], 0, 0, w, h); g.restore();
        g.fillStyle = "#fff"; g.fillRect(w * s.wipe - 1 / k, 0, 2 / k, h);
      } else over();
      const marks = shown();
      for (const mark of marks) outline(g, mark, marks.length > 300 ? k * 1.8 : k);
      g.setTransform(ratio, 0, 0, ratio, 0, 0);
      for (const mark of marks) keypoints(g, mark);
      if (s.names && marks.length <= 80) {
        const taken = [];
        for (const mark of marks) chip(g, mark, taken);
      }
      (s.data.asked || []).forEach((one, i) => prompt(g, one, i, true));
      s.regions.forEach((one, i) => prompt(g, one, i, false));
      if (s.draft) prompt(g, s.draft, s.regions.length - (joins(s.draft) ? 1 : 0), false);
    }
    function joins(draft) {
      const last = s.regions[s.regions.length - 1];
      return draft.kind === "mask" && s.isJoining && last !== undefined && last.kind === "mask";
    }
    function shown() {
      return (s.data.marks || []).filter((mark) => !s.hidden.has(mark.name));
    }
    function outline(g, mark, k) {
      if (!mark.rings.length) return;
      const path = new Path2D(), isLit = s.lit.has(mark.row) || s.hover === mark;
      for (const ring of mark.rings) {
        ring.forEach(([px, py], i) => (i ? path.lineTo(px, py) : path.moveTo(px, py)));
        path.closePath();
      }
      const dim = s.lit.size && !isLit ? 0.3 : 1;
      g.lineJoin = "round";
      if (mark.area || isLit) {
        g.fillStyle = css(mark.colour, (mark.area ? 0.55 : 0.35) * s.opacity * dim); g.fill(path, "evenodd");
      }
      g.strokeStyle = `rgba(0,0,0,${0.55 * dim})`; g.lineWidth = (isLit ? 5.5 : 3.5) / k; g.stroke(path);
      g.strokeStyle = css(mark.colour, dim); g.lineWidth = (isLit ? 3.5 : 2) / k; g.stroke(path);
    }
    function keypoints(g, mark) {
      for (const [px, py, seen] of mark.points || []) {
        if (!(seen > 0)) continue;
        const [a, b] = place(px, py);
        g.beginPath(); g.arc(a, b, s.lit.has(mark.row) ? 6.5 : 4.5, 0, 7);
        g.fillStyle = css(mark.colour); g.fill();
        g.lineWidth = 1.5; g.strokeStyle = "rgba(0,0,0,.75)"; g.stroke();
      }
    }
    const bounds = (mark) => {
      if (mark.box) return mark.box;
      const all = [...mark.rings.flat(), ...(mark.points || []).filter((p) => p[2] > 0)];
      let box = [Infinity, Infinity, -Infinity, -Infinity];
      for (const [px, py] of all) {
        box = [Math.min(box[0], px), Math.min(box[1], py), Math.max(box[2], px), Math.max(box[3], py)];
      }
      return (mark.box = box);
    };
    function chip(g, mark, taken) {
      const box = bounds(mark);
      if (!isFinite(box[0])) return;
      const text = mark.name + (mark.score === null ? "" : ` ${mark.score.toFixed(2)}`);
      g.font = "600 12px system-ui, sans-serif";
      const wide = g.measureText(text).width + 10, [a, b] = place(box[0], box[1]);
      const left = Math.max(2, Math.min(a, stage.clientWidth - wide - 2)), top = Math.max(2, b - 20);
      if (left + wide < 0 || top > stage.clientHeight || b < -30) return;
      if (taken.some((t) => left < t[2] && t[0] < left + wide && top < t[3] && t[1] < top + 18)) return;
      taken.push([left, top, left + wide, top + 18]);
      g.fillStyle = css(mark.colour, s.lit.size && !s.lit.has(mark.row) ? 0.4 : 0.95);
      g.beginPath(); g.roundRect(left, top, wide, 18, 4); g.fill();
      const [r, gr, bl] = mark.colour;
      g.fillStyle = 0.3 * r + 0.59 * gr + 0.11 * bl > 120 ? "#111" : "#fff";
      g.textBaseline = "middle"; g.fillText(text, left + 5, top + 9.5);
    }
    function prompt(g, region, number, isSent) {
      const strokes = region.strokes || [region];
      const points = strokes[0].xy.map(([px, py]) => place(px, py));
      const path = new Path2D();
      g.save();
      g.lineCap = g.lineJoin = "round"; g.globalAlpha = isSent ? 0.75 : 1;
      if (isSent) g.setLineDash([6, 5]);
      if (region.kind === "box") {
        const [[a, b], [c, d]] = points.length > 1 ? points : [points[0], points[0]];
        path.rect(Math.min(a, c), Math.min(b, d), Math.abs(c - a), Math.abs(d - b));
      } else if (region.kind === "point") path.arc(points[0][0], points[0][1], 8, 0, 7);
      else points.forEach(([a, b], i) => (i ? path.lineTo(a, b) : path.moveTo(a, b)));
      if (region.kind === "mask") {
        g.setLineDash([]);
        g.strokeStyle = css(PROMPT, isSent ? 0.3 : 0.5);
        for (const one of strokes) {
          const line = new Path2D();
          one.xy.forEach(([px, py], i) => (i ? line.lineTo(...place(px, py)) : line.moveTo(...place(px, py))));
          if (one.xy.length === 1) line.lineTo(place(...one.xy[0])[0] + 0.01, place(...one.xy[0])[1]);
          g.lineWidth = 2 * one.radius * s.at.k; g.stroke(line);
        }
      } else {
        if (region.kind !== "scribble") { g.fillStyle = css(PROMPT, 0.16); g.fill(path); }
        g.strokeStyle = "rgba(0,0,0,.6)"; g.lineWidth = 4.5; g.stroke(path);
        g.strokeStyle = css(PROMPT); g.lineWidth = 2.5; g.stroke(path);
      }
      g.restore();
      const [a, b] = points[0];
      g.fillStyle = css(PROMPT, isSent ? 0.75 : 1); g.beginPath(); g.arc(a, b, 9, 0, 7); g.fill();
      g.fillStyle = "#fff"; g.font = "700 11px system-ui, sans-serif"; g.textAlign = "center";
      g.textBaseline = "middle"; g.fillText(String(number + 1), a, b + 0.5); g.textAlign = "left";
    }

    // --- the pointer
    let drag = null, pinch = null;
    canvas.addEventListener("pointerdown", (event) => {
      if (!s.images.length) return;
      canvas.setPointerCapture(event.pointerId);
      s.pointers.set(event.pointerId, [event.clientX, event.clientY]);
      if (s.pointers.size === 2) { s.draft = null; drag = null; pinch = spread(); return; }
      const tool = event.button === 1 || event.shiftKey ? "move" : s.tool, spot = inside(event);
      if (tool === "move") { drag = [event.clientX, event.clientY, s.at.x, s.at.y]; canvas.style.cursor = "grabbing"; }
      else s.draft = { kind: tool, xy: [spot], ...(tool === "mask" ? { radius: 12 / s.at.k } : {}) };
      draw();
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!s.images.length) return;
      if (s.pointers.has(event.pointerId)) s.pointers.set(event.pointerId, [event.clientX, event.clientY]);
      if (pinch && s.pointers.size === 2) {
        const now = spread(), r = canvas.getBoundingClientRect();
        s.at.x += now.x - pinch.x; s.at.y += now.y - pinch.y;
        zoomAt(now.d / pinch.d, now.x - r.left, now.y - r.top);
        pinch = now;
      } else if (drag) {
        s.at.x = drag[2] + event.clientX - drag[0]; s.at.y = drag[3] + event.clientY - drag[1]; draw();
      } else if (s.draft) {
        const spot = inside(event), xy = s.draft.xy;
        if (s.draft.kind === "box") s.draft.xy = [xy[0], spot];
        else if (s.draft.kind === "point") s.draft.xy = [spot];
        else if (Math.hypot(spot[0] - xy[xy.length - 1][0], spot[1] - xy[xy.length - 1][1]) > 2 / s.at.k) xy.push(spot);
        draw();
      } else hover(event);
    });
    const spread = () => {
      const [[a, b], [c, d]] = [...s.pointers.values()];
      return { x: (a + c) / 2, y: (b + d) / 2, d: Math.max(1, Math.hypot(a - c, b - d)) };
    };
    const up = (event) => {
      s.pointers.delete(event.pointerId);
      pinch = null;
      if (drag) { drag = null; canvas.style.cursor = s.tool === "move" ? "grab" : "crosshair"; }
      if (!s.draft) return;
      const { kind, xy } = s.draft, done = s.draft;
      s.draft = null;
      const isSmall = kind === "box" && (xy.length < 2 || Math.abs(xy[0][0] - xy[1][0]) * s.at.k < 3
        || Math.abs(xy[0][1] - xy[1][1]) * s.at.k < 3);
      if (joins(done)) s.regions[s.regions.length - 1].strokes.push({ radius: done.radius, xy });
      else if (kind === "mask") s.regions.push({ kind, strokes: [{ radius: done.radius, xy }] });
      else if (!isSmall && !(kind === "scribble" && xy.length < 2)) s.regions.push({ kind, xy });
      s.isJoining = kind === "mask";
      drawChips(); draw();
    };
    canvas.addEventListener("pointerup", up);
    canvas.addEventListener("pointercancel", (event) => { s.draft = null; up(event); });
    canvas.addEventListener("pointerleave", () => { s.hover = null; status.textContent = ""; draw(); });
    canvas.addEventListener("wheel", (event) => {
      if (!s.images.length) return;
      event.preventDefault();
      const r = canvas.getBoundingClientRect();
      zoomAt(Math.exp(-event.deltaY * 0.0015), event.clientX - r.left, event.clientY - r.top);
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => {
      const moves = { ArrowLeft: [40, 0], ArrowRight: [-40, 0], ArrowUp: [0, 40], ArrowDown: [0, -40] };
      if (moves[event.key]) { s.at.x += moves[event.key][0]; s.at.y += moves[event.key][1]; draw(); }
      else if (event.key === "+" || event.key === "=") zoomAt(1.4);
      else if (event.key === "-") zoomAt(1 / 1.4);
      else if (event.key === "0") { fit(); draw(); }
      else return;
      event.preventDefault();
    });
    function hover(event) {
      const [x, y] = inside(event);
      let best = null, least = Infinity;
      for (const mark of shown()) {
        const [a, b, c, d] = bounds(mark), area = (c - a) * (d - b);
        if (x >= a && x <= c && y >= b && y <= d && area < least) { best = mark; least = area; }
      }
      const said = best ? `${best.name}${best.score === null ? "" : " " + best.score.toFixed(3)}   ` : "";
      status.textContent = `${said}x ${Math.floor(x)}, y ${Math.floor(y)}`;
      if (best !== s.hover) { s.hover = best; draw(); }
    }

    // --- below the canvas
    function drawChips() {
      chips.replaceChildren();
      s.regions.forEach((region, i) => {
        const one = make("span", "vt-chip"), out = make("button", "", "×");
        one.append(make("b", "", String(i + 1)), make("span", "", region.kind));
        out.type = "button"; out.title = `Remove ${region.kind} ${i + 1}`; out.setAttribute("aria-label", out.title);
        out.addEventListener("click", () => { s.regions.splice(i, 1); drawChips(); draw(); });
        one.append(out); chips.append(one);
      });
      if (s.regions.length) {
        chips.append(make("span", "vt-hint", "stand in the question where it says <region>, in this order, or at its end"));
      }
      chips.hidden = !s.regions.length;
    }
    function drawLegend() {
      legend.replaceChildren();
      for (const entry of s.data.legend || []) {
        const one = make("button", "vt-entry"), swatch = make("i");
        one.type = "button"; one.title = "Show or hide";
        swatch.style.background = css(entry.colour);
        one.append(swatch, make("span", "", entry.name), make("em", "", entry.amount));
        if (s.data.areas) one.disabled = true;
        else one.addEventListener("click", () => {
          if (!s.hidden.delete(entry.name)) s.hidden.add(entry.name);
          one.classList.toggle("vt-off", s.hidden.has(entry.name)); draw();
        });
        legend.append(one);
      }
      for (const text of s.data.notes || []) legend.append(make("div", "vt-hint", text));
    }
    document.addEventListener("vt-light", (event) => { s.lit = new Set(event.detail); draw(); });
    new ResizeObserver(() => { if (stage.clientWidth) { size(); fit(); draw(); } }).observe(root);
    watch("value", show);
    show();
  }

  function chat(element, props, watch) {
    const root = element.querySelector(".vt-chat");
    const light = (rows) => document.dispatchEvent(new CustomEvent("vt-light", { detail: rows }));
    const show = () => {
      const turns = (props.value && props.value.turns) || [];
      root.replaceChildren(...turns.map((turn) => {
        const one = make("div", `vt-turn vt-${turn.role}`);
        if (turn.role === "user") {
          let number = 0;
          turn.text.split("<region>").forEach((part, i) => {
            if (i) one.append(make("b", "vt-region", String(++number)));
            one.append(part);
          });
        } else {
          let at = 0;
          const signs = Array.from(turn.text); // as Python counts
          for (const s of turn.spoken || []) {
            one.append(signs.slice(at, s.start).join(""));
            const words = make("button", "vt-said", signs.slice(s.start, s.end).join(""));
            words.type = "button";
            words.style.setProperty("--said", css(s.colour)); words.style.setProperty("--faint", css(s.colour, 0.22));
            if (turn.isLast) {
              for (const [on, rows] of [["mouseenter", s.marks], ["focus", s.marks], ["mouseleave", []], ["blur", []]]) {
                words.addEventListener(on, () => light(rows));
              }
            } else words.disabled = true;
            one.append(words);
            at = s.end;
          }
          one.append(signs.slice(at).join(""));
          if (turn.pending) one.append(make("span", "vt-caret"));
          for (const note of turn.notes || []) one.append(make("div", "vt-hint", note));
        }
        return one;
      }));
      root.hidden = !turns.length;
      root.scrollTop = root.scrollHeight;
    };
    watch("value", show);
    show();
  }

  function table(element, props, watch) {
    const root = element.querySelector(".vt-table");
    const show = () => {
      const { columns = [], rows = [], total = 0 } = props.value || {};
      root.replaceChildren();
      root.hidden = !rows.length;
      if (!rows.length) return;
      const one = make("table"), head = make("tr");
      const isNumber = columns.map((_, i) => rows.every((row) => typeof row[i] === "number"));
      columns.forEach((name, i) => head.append(make("th", isNumber[i] ? "vt-number" : "", name)));
      const top = make("thead"), body = make("tbody");
      top.append(head);
      for (const row of rows) {
        const line = make("tr");
        row.forEach((cell, i) => line.append(make("td", isNumber[i] ? "vt-number" : "", String(cell))));
        body.append(line);
      }
      one.append(top, body);
      root.append(one);
      if (total > rows.length) root.append(make("div", "vt-hint", `${rows.length} of ${total} rows; the files have all`));
    };
    watch("value", show);
    show();
  }

  function notice(element, props, watch) {
    const root = element.querySelector(".vt-notice");
    const show = () => {
      const { what = "", where = "", fix = "", lines = [] } = props.value || {};
      root.replaceChildren();
      root.hidden = !what && !lines.length;
      root.classList.toggle("vt-error", Boolean(what));
      root.setAttribute("role", what ? "alert" : "status");
      if (what) root.append(make("strong", "", what));
      if (where) root.append(make("div", "vt-where", where));
      if (fix) root.append(make("div", "vt-fix", `Try: ${fix}`));
      for (const line of lines) root.append(make("div", "", line));
    };
    watch("value", show);
    show();
  }

  const shade = () => {
    document.body.classList.toggle("dark");
  };
  return { viewer, chat, table, notice, shade, regions: () => JSON.stringify(current ? current.regions() : []), get current() { return current; } };
})();
