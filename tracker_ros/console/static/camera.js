// SPDX-License-Identifier: Apache-2.0
// One camera on the page: its picture with boxes, the box that is drawn, and what is missing.

export const COLOURS = { TRACKING: "#3ecf8e", UNCERTAIN: "#f5b83d", LOST: "#f2545b", IDLE: "#93a0aa" };
export const BADGES = { TRACKING: "good", UNCERTAIN: "doubt", LOST: "bad" };
const STALE_S = 2, MIN_DRAG = 5, FINGER = 44, RATE_MS = 2000;

// act(camera, command) carries a command out; onSelect(camera) says that buttons now mean this one;
// appends() tells whether a drawn box adds a target.
export class Camera {
  constructor(name, template, { act, onSelect, appends }) {
    [this.name, this.act, this.appends] = [name, act, appends];
    this.figure = template.content.firstElementChild.cloneNode(true);
    const part = (selector) => this.figure.querySelector(selector);
    part(".name").textContent = name || "camera";
    [this.badge, this.figures, this.notice] = [".state", ".figures", ".notice"].map(part);
    [this.score, this.canvas] = [".score", ".view"].map(part);
    this.pen = this.canvas.getContext("2d");
    this.picture = document.createElement("canvas");  // the picture that is shown, without boxes
    this.targets = [];
    this.shown = null;        // facts of that picture
    this.drag = null;         // {stamp, frame_id, x, y, w, h} in pixels of the camera's image
    this.ages = { image_age: null, status_age: null };
    this.arrived = 0;
    this.pictures = 0;
    this.counts = [];         // {time, received, tracked, dropped} of the last seconds
    this.paused = false;
    this.link = null;         // the video, if pictures come as one
    this.canvas.addEventListener("pointerdown", (event) => this.press(event));
    this.canvas.addEventListener("pointermove", (event) => this.move(event));
    this.canvas.addEventListener("pointerup", (event) => this.release(event));
    this.canvas.addEventListener("pointercancel", () => { this.drag = null; this.draw(); });
    this.canvas.addEventListener("keydown", (event) => this.key(event));
    this.canvas.addEventListener("focus", () => onSelect(this));
  }

  // While a box is drawn the picture stands still: the box belongs to what was under the finger.
  show(facts, source, kind) {
    this.pictures += 1;
    this.arrived = performance.now();
    if (this.drag?.from) return;
    const width = source.videoWidth ?? source.width, height = source.videoHeight ?? source.height;
    if (this.picture.width !== width || this.picture.height !== height) {
      [this.picture.width, this.picture.height] = [width, height];
      [this.canvas.width, this.canvas.height] = [width, height];
    }
    this.picture.getContext("2d").drawImage(source, 0, 0);
    this.shown = facts;
    Object.assign(this.canvas.dataset, { stamp: facts.stamp, kind, imageWidth: facts.width });
    this.draw();
  }

  draw() {
    if (!this.shown) return;
    const pen = this.pen, scale = this.canvas.width / this.shown.width;
    const unit = this.shown.width / (this.canvas.clientWidth || 640);  // a pixel of the page
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.drawImage(this.picture, 0, 0);
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.font = `${13 * unit}px system-ui, sans-serif`;
    for (const { id, box } of this.shown.boxes) {
      const target = this.targets.find((t) => t.id === id) ?? { state: "TRACKING" };
      const colour = COLOURS[target.state] ?? COLOURS.IDLE;
      pen.strokeStyle = colour;
      pen.lineWidth = 2 * unit;
      pen.strokeRect(...box);
      const words = [`#${id}`, target.label, target.score?.toFixed(2)];
      if (target.state !== "TRACKING") words.push(target.state.toLowerCase());
      this.label(words.filter(Boolean).join(" "), box, colour, unit);
    }
    if (!this.drag) return;
    const { x, y, w, h } = this.drag;
    pen.strokeStyle = "#4aa8ff";
    pen.setLineDash([6 * unit, 4 * unit]);
    pen.lineWidth = 2 * unit;
    pen.strokeRect(x, y, w, h);
    pen.setLineDash([]);
  }

  label(text, [x, y], colour, unit) {
    const pen = this.pen, wide = pen.measureText(text).width + 8 * unit, tall = 18 * unit;
    const left = Math.max(0, Math.min(x, this.shown.width - wide)), top = Math.max(0, y - tall);
    pen.fillStyle = "#000a";
    pen.fillRect(left, top, wide, tall);
    pen.fillStyle = colour;
    pen.fillText(text, left + 4 * unit, top + 13.5 * unit);
  }

  point(event) {
    const area = this.canvas.getBoundingClientRect(), { width, height } = this.canvas;
    const scale = Math.min(area.width / width, area.height / height);
    const left = area.left + (area.width - scale * width) / 2;
    const top = area.top + (area.height - scale * height) / 2;
    const image = this.shown.width / width, within = (value, most) => Math.min(Math.max(value, 0), most);
    return [within((event.clientX - left) / scale, width) * image,
      within((event.clientY - top) / scale, height) * image];
  }

  // The box belongs to the picture that was on the screen when the finger went down.
  begin(x, y, w, h) {
    const { stamp, frame_id } = this.shown;
    this.drag = { stamp, frame_id, from: [x, y], x, y, w, h };
  }

  press(event) {
    if (!this.shown || !event.isPrimary) return;
    this.canvas.focus({ preventScroll: true });
    this.canvas.setPointerCapture(event.pointerId);
    this.begin(...this.point(event), 0, 0);
  }

  move(event) {
    if (!this.drag?.from || !this.canvas.hasPointerCapture(event.pointerId)) return;
    const [x, y] = this.point(event), [x0, y0] = this.drag.from;
    Object.assign(this.drag, { x: Math.min(x, x0), y: Math.min(y, y0),
      w: Math.abs(x - x0), h: Math.abs(y - y0) });
    this.draw();
  }

  release(event) {
    if (!this.drag?.from || !this.canvas.hasPointerCapture(event.pointerId)) return;
    const { w, h, x, y } = this.drag;
    if (Math.max(w, h) >= MIN_DRAG * this.shown.width / 640) this.select();
    else {
      this.drag = null;
      const hit = this.hit(x, y);
      if (hit) this.act(this, { do: "remove", id: hit.id });
    }
    this.draw();
  }

  // The nearest target under a finger, which is wider than a small box.
  hit(x, y) {
    const finger = FINGER * this.shown.width / this.canvas.getBoundingClientRect().width;
    const distance = ({ box: [left, top, w, h] }) => Math.hypot(x - left - w / 2, y - top - h / 2);
    return this.shown.boxes.filter(({ box: [left, top, w, h] }) =>
      Math.abs(x - left - w / 2) <= Math.max(w, finger) / 2 &&
      Math.abs(y - top - h / 2) <= Math.max(h, finger) / 2)
      .sort((one, other) => distance(one) - distance(other))[0];
  }

  select() {
    const { stamp, frame_id, x, y, w, h } = this.drag;
    this.act(this, { do: "select", stamp, frame_id, box: [x, y, w, h], append: this.appends() });
    this.drag = null;
  }

  key(event) {
    if (!this.shown) return;
    const { width, height } = this.shown, step = width / (event.shiftKey ? 320 : 40);
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    const sizes = { "+": 1.15, "=": 1.15, "-": 1 / 1.15 };
    if (event.key === "Escape") this.drag = null;
    else if (event.key === "Delete" || event.key === "Backspace") {
      if (this.targets.length) this.act(this, { do: "remove", id: this.targets[0].id });
    } else if (event.key === "Enter" && this.drag) {
      Object.assign(this.drag, { stamp: this.shown.stamp, frame_id: this.shown.frame_id });
      this.select();
    } else if (event.key in moves || event.key in sizes) {
      if (!this.drag) this.begin(0.4 * width, 0.4 * height, 0.2 * width, 0.2 * height);
      const box = this.drag, [dx, dy] = moves[event.key] ?? [0, 0], grow = sizes[event.key] ?? 1;
      box.x += dx - box.w * (grow - 1) / 2;
      box.y += dy - box.h * (grow - 1) / 2;
      box.w *= grow;
      box.h *= grow;
      box.from = null;
    } else return;
    event.preventDefault();
    this.draw();
  }

  learn(targets, frames) {
    this.targets = targets.filter(({ id, state }) => id && state !== "IDLE");
    const time = performance.now(), counts = this.counts;
    if (counts.length && frames.received < counts.at(-1).received) counts.length = 0;
    counts.push({ time, ...frames });
    while (counts.length > 2 && counts[1].time < time - RATE_MS) counts.shift();
    if (!this.targets.length) this.score.hidden = true;
    const [first, last] = [counts[0], counts.at(-1)], seconds = (last.time - first.time) / 1000;
    if (seconds < 0.5) return;
    const rate = (what) => ((last[what] - first[what]) / seconds).toFixed(0);
    const words = [`camera ${rate("received")}/s`, `tracked ${rate("tracked")}/s`];
    if (this.targets.length) words.push(`${(1000 * this.targets[0].latency).toFixed(0)} ms old`);
    if (last.dropped > first.dropped) words.push(`left out ${rate("dropped")}/s`);
    this.figures.replaceChildren(...words.map((text) =>
      Object.assign(document.createElement("span"), { textContent: text })));
  }

  // Say plainly what is missing; the last picture stays, greyed.
  judge(linked) {
    const age = (performance.now() - this.arrived) / 1000;
    const { image_age: image, status_age: status } = this.ages;
    let text = "";
    if (!linked) text = "no link to the console";
    else if (image === null) text = "no image from the camera yet";
    else if (image > STALE_S) text = "the camera is silent";
    else if (status === null || status > Math.max(STALE_S, image + STALE_S)) text = "the tracker is silent";
    const gone = !linked || image === null || image > STALE_S;
    this.figure.classList.toggle("stale", gone);
    this.notice.hidden = !text;
    if (text && this.shown && gone) text += `, last picture ${age.toFixed(0)} s ago`;
    this.notice.textContent = text;
    const states = this.targets.map((target) => target.state);
    const state = ["TRACKING", "UNCERTAIN", "LOST", "LOADING"].find((s) => states.includes(s)) ?? "IDLE";
    const usual = this.paused ? "paused" : state.toLowerCase();
    this.badge.textContent = text ? (gone ? "no image" : "no tracker") : usual;
    this.badge.className = `badge state ${text ? "bad" : this.paused ? "doubt" : BADGES[state] ?? ""}`;
  }
}
