// SPDX-License-Identifier: Apache-2.0
// The console's page: one web socket, a canvas per camera, and the commands of an operator.
"use strict";

const COLOURS = { TRACKING: "#3ecf8e", UNCERTAIN: "#f5b83d", LOST: "#f2545b", IDLE: "#93a0aa" };
const BADGES = { TRACKING: "good", UNCERTAIN: "doubt", LOST: "bad" };
const STALE_S = 2, HISTORY_S = 60, MIN_DRAG = 5;
const $ = (id) => document.getElementById(id);
const cameras = new Map();
const history = [];
const answers = new Map();
let pictures = 0, since = performance.now();
let socket = null, number = 0, delay = 250, heard = 0, selected = null;

class Camera {
  constructor(name) {
    this.name = name;
    this.figure = $("camera").content.firstElementChild.cloneNode(true);
    this.figure.querySelector(".name").textContent = name || "camera";
    this.canvas = this.figure.querySelector(".view");
    this.pen = this.canvas.getContext("2d");
    this.badge = this.figure.querySelector(".state");
    this.notice = this.figure.querySelector(".notice");
    this.score = this.figure.querySelector(".score");
    this.targets = [];
    this.shown = null;      // facts of the picture on the screen
    this.bitmap = null;
    this.drag = null;       // {stamp, frame_id, x, y, w, h} in image pixels
    this.ages = { image_age: null, status_age: null };
    this.arrived = 0;
    this.canvas.addEventListener("pointerdown", (event) => this.press(event));
    this.canvas.addEventListener("pointermove", (event) => this.move(event));
    this.canvas.addEventListener("pointerup", (event) => this.release(event));
    this.canvas.addEventListener("pointercancel", () => { this.drag = null; this.draw(); });
    this.canvas.addEventListener("keydown", (event) => this.key(event));
    this.canvas.addEventListener("focus", () => { selected = this; });
    $("cameras").append(this.figure);
    selected ??= this;
  }

  show(facts, bitmap) {
    pictures += 1;
    this.bitmap?.close();
    [this.shown, this.bitmap, this.arrived] = [facts, bitmap, performance.now()];
    if (this.canvas.width !== facts.width || this.canvas.height !== facts.height) {
      [this.canvas.width, this.canvas.height] = [facts.width, facts.height];
    }
    this.draw();
  }

  draw() {
    if (!this.bitmap) return;
    const pen = this.pen, { width, height } = this.canvas, unit = width / 640;
    pen.drawImage(this.bitmap, 0, 0, width, height);
    pen.font = `${14 * unit}px system-ui, sans-serif`;
    for (const { id, box } of this.shown.boxes) {
      const target = this.targets.find((t) => t.id === id) ?? { state: "TRACKING", score: 0 };
      pen.strokeStyle = pen.fillStyle = COLOURS[target.state] ?? COLOURS.IDLE;
      pen.lineWidth = 2.5 * unit;
      pen.strokeRect(...box);
      pen.fillText(`${id} ${target.label || ""} ${target.score.toFixed(2)}`, box[0],
        Math.max(14 * unit, box[1] - 5 * unit));
    }
    if (this.drag) {
      const { x, y, w, h } = this.drag;
      pen.strokeStyle = "#4aa8ff";
      pen.setLineDash([6 * unit, 4 * unit]);
      pen.lineWidth = 2 * unit;
      pen.strokeRect(x, y, w, h);
      pen.setLineDash([]);
    }
  }

  point(event) {
    const area = this.canvas.getBoundingClientRect();
    const scale = Math.min(area.width / this.canvas.width, area.height / this.canvas.height);
    const left = (area.width - scale * this.canvas.width) / 2;
    const top = (area.height - scale * this.canvas.height) / 2;
    const within = (value, limit) => Math.min(Math.max(value, 0), limit);
    return [within((event.clientX - area.left - left) / scale, this.canvas.width),
      within((event.clientY - area.top - top) / scale, this.canvas.height)];
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
    const { w, h, x, y } = this.drag, small = MIN_DRAG * this.canvas.width / 640;
    if (Math.max(w, h) >= small) this.select();
    else {
      this.drag = null;
      const hit = this.shown.boxes.find(({ box: [bx, by, bw, bh] }) =>
        x >= bx && y >= by && x <= bx + bw && y <= by + bh);
      if (hit) command(this, { do: "remove", id: hit.id });
    }
    this.draw();
  }

  select() {
    const { stamp, frame_id, x, y, w, h } = this.drag;
    const append = $("append").getAttribute("aria-pressed") === "true";
    command(this, { do: "select", stamp, frame_id, box: [x, y, w, h], append });
    this.drag = null;
  }

  key(event) {
    if (!this.shown) return;
    const { width, height } = this.canvas, step = width / (event.shiftKey ? 320 : 40);
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    const sizes = { "+": 1.15, "=": 1.15, "-": 1 / 1.15 };
    if (event.key === "Escape") this.drag = null;
    else if (event.key === "Delete" || event.key === "Backspace") {
      const first = this.targets.find((target) => target.state !== "IDLE");
      if (first) command(this, { do: "remove", id: first.id });
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
    this.badge.textContent = text ? (gone ? "no image" : "no tracker") : state.toLowerCase();
    this.badge.className = `badge state ${text ? "bad" : BADGES[state] ?? ""}`;
  }
}

function camera(name) {
  if (!cameras.has(name)) cameras.set(name, new Camera(name));
  return cameras.get(name);
}

function command(where, what) {
  const message = { number: ++number, camera: where?.name ?? "", ...what };
  if (socket?.readyState !== WebSocket.OPEN) {
    say("warning", "no link to the console: the command was not sent");
    return;
  }
  answers.set(message.number, what.do);
  socket.send(JSON.stringify(message));
}

function say(level, text, time = Date.now() / 1000) {
  const line = document.createElement("li");
  line.className = level;
  line.textContent = `${new Date(time * 1000).toLocaleTimeString()} ${text}`;
  $("log").append(line);
  while ($("log").childElementCount > 200) $("log").firstElementChild.remove();
  $("log").scrollTop = $("log").scrollHeight;
}

function listTargets() {
  const rows = [];
  for (const place of cameras.values()) {
    for (const target of place.targets.filter((t) => t.id)) {
      const row = document.createElement("li"), badge = document.createElement("span");
      badge.className = `badge ${BADGES[target.state] ?? ""}`;
      badge.textContent = target.state;
      const words = [place.name, `#${target.id}`, target.label, target.score.toFixed(2)];
      if (target.azimuth !== undefined) words.push(`${(target.azimuth * 180 / Math.PI).toFixed(1)}°`);
      if (target.distance !== undefined) words.push(`${target.distance.toFixed(1)} m`);
      if (target.state === "LOST") words.push(`${target.seconds_since_seen.toFixed(0)} s`);
      const remove = document.createElement("button");
      remove.textContent = "×";
      remove.ariaLabel = `Stop following target ${target.id}`;
      remove.onclick = () => command(place, { do: "remove", id: target.id });
      row.append(badge, words.filter(Boolean).join(" · "), remove);
      rows.push(row);
    }
  }
  $("targets").replaceChildren(...rows);
}

function drawHistory() {
  const board = $("history"), pen = board.getContext("2d"), now = performance.now() / 1000;
  while (history.length && history[0].time < now - HISTORY_S) history.shift();
  pen.clearRect(0, 0, board.width, board.height);
  pen.strokeStyle = "#2f363c";
  pen.strokeRect(0.5, 0.5, board.width - 1, board.height - 1);
  for (const { time, score, state } of history) {
    pen.fillStyle = COLOURS[state] ?? COLOURS.IDLE;
    const tall = Math.max(2, score * (board.height - 6));
    pen.fillRect(board.width * (1 - (now - time) / HISTORY_S), board.height - 3 - tall, 2, tall);
  }
}

async function onPicture(data) {
  const size = new DataView(data).getUint32(0);
  const facts = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, size)));
  const blob = new Blob([new Uint8Array(data, 4 + size)], { type: "image/jpeg" });
  const place = camera(facts.camera);
  if (facts.name.endsWith("/score")) {
    URL.revokeObjectURL(place.score.src);
    place.score.src = URL.createObjectURL(blob);
    place.score.hidden = false;
  } else place.show(facts, await createImageBitmap(blob));
}

const handlers = {
  console({ cameras: names }) { names.forEach(camera); },
  health({ camera: name, image_age, status_age }) { camera(name).ages = { image_age, status_age }; },
  targets({ camera: name, targets }) {
    const place = camera(name);
    place.targets = targets.filter((target) => target.id && target.state !== "IDLE");
    const first = place.targets[0];
    if (first && place === selected) {
      history.push({ time: performance.now() / 1000, score: first.score, state: first.state });
    }
    if (!place.targets.length) place.score.hidden = true;
    listTargets();
  },
  log({ level, time, text }) { say(level, text, time); },
  answer({ number: which, success, message }) {
    say(success ? "info" : "warning", `${answers.get(which) ?? "command"}: ${message}`);
    answers.delete(which);
  },
};

function connect() {
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  socket = new WebSocket(`${scheme}//${location.host}/socket${location.search}`);
  socket.binaryType = "arraybuffer";
  socket.onopen = () => { delay = 250; $("log").replaceChildren(); };
  socket.onmessage = async ({ data }) => {
    heard = performance.now();
    if (typeof data !== "string") {
      await onPicture(data);
      if (socket.readyState === WebSocket.OPEN) socket.send('{"do": "acknowledge"}');
      return;
    }
    const message = JSON.parse(data);
    handlers[message.kind]?.(message);
  };
  socket.onclose = () => {
    setTimeout(connect, delay);
    delay = Math.min(2 * delay, 5000);
  };
}

setInterval(() => {
  const linked = socket?.readyState === WebSocket.OPEN && performance.now() - heard < 2000;
  $("link").textContent = linked ? "connected" : "no link";
  $("link").className = `badge ${linked ? "good" : "bad"}`;
  cameras.forEach((place) => place.judge(linked));
  drawHistory();
}, 250);

setInterval(() => {
  const now = performance.now();
  $("rate").textContent = `${(1000 * pictures / (now - since)).toFixed(0)} pictures/s`;
  [pictures, since] = [0, now];
}, 1000);

function toggle(button) {
  const on = button.getAttribute("aria-pressed") !== "true";
  button.setAttribute("aria-pressed", String(on));
  return on;
}
$("append").onclick = () => toggle($("append"));
$("pause").onclick = () => command(selected, { do: "enable", on: !toggle($("pause")) });
$("clear").onclick = () => command(selected, { do: "clear" });
$("model-form").onsubmit = (event) => {
  event.preventDefault();
  command(selected, { do: "model", model: $("model").value.trim() });
};
document.addEventListener("keydown", ({ key, target, ctrlKey, metaKey, altKey }) => {
  if (target.matches("input") || ctrlKey || metaKey || altKey) return;
  ({ a: $("append"), p: $("pause"), c: $("clear") })[key.toLowerCase()]?.click();
});
connect();
