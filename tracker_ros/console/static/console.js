// SPDX-License-Identifier: Apache-2.0
// The console's page: one web socket, the cameras, and the commands of an operator.

import { Camera } from "./camera.js";
import { drawHistories, listTargets } from "./targets.js";
import { VideoLink, videoIsPossible } from "./video.js";

const MAX_LINES = 200, SILENT_MS = 2000;
const $ = (id) => document.getElementById(id);
const pressed = (button) => button.getAttribute("aria-pressed") === "true";
const press = (button, on) => button.setAttribute("aria-pressed", String(on));
const cameras = new Map();
const answers = new Map();
let socket = null, number = 0, delay = 250, heard = 0, selected = null, webrtc = false;
let decoding = Promise.resolve();

function camera(name) {
  if (!cameras.has(name)) {
    const made = new Camera(name, $("camera"),
      { act: command, onSelect: select, appends: () => pressed($("append")) });
    cameras.set(name, made);
    $("cameras").append(made.figure);
    select(selected ?? made);
    openVideo(made);
  }
  return cameras.get(name);
}

// The buttons mean the camera that was touched last.
function select(chosen) {
  selected = chosen;
  cameras.forEach((one) => one.figure.classList.toggle("selected", one === chosen && cameras.size > 1));
  press($("pause"), chosen.paused);
}

function openVideo(where) {
  if (!webrtc || where.link || !videoIsPossible()) return;
  where.link = new VideoLink((what) => ask(where, what),
    (facts, source) => where.show(facts, source, "webrtc"),
    (reason) => {
      where.link = null;
      say("info", `${where.name || "camera"}: JPEG instead of WebRTC: ${reason}`);
    });
}

function closeVideos() {
  webrtc = false;
  cameras.forEach((one) => {
    one.link?.close();
    one.link = null;
  });
}

function ask(where, what) {
  const message = { number: ++number, camera: where.name, ...what };
  if (socket?.readyState !== WebSocket.OPEN) {
    return Promise.resolve({ success: false, message: "no link to the console: nothing was sent" });
  }
  return new Promise((resolve) => {
    answers.set(message.number, resolve);
    socket.send(JSON.stringify(message));
  });
}

async function command(where, what) {
  const answer = await ask(where, what);
  say(answer.success ? "info" : "warning", `${what.do}: ${answer.message}`);
  return answer;
}

function say(level, text, time = Date.now() / 1000) {
  const line = document.createElement("li");
  line.className = level;
  line.textContent = `${new Date(time * 1000).toLocaleTimeString()} ${text}`;
  $("log").append(line);
  while ($("log").childElementCount > MAX_LINES) $("log").firstElementChild.remove();
  $("log").scrollTop = $("log").scrollHeight;
}

async function onPicture(data) {
  const size = new DataView(data).getUint32(0);
  const facts = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, size)));
  const blob = new Blob([new Uint8Array(data, 4 + size)], { type: "image/jpeg" });
  const place = camera(facts.camera);
  if (facts.name.endsWith("/score")) {
    URL.revokeObjectURL(place.score.src);
    place.score.src = URL.createObjectURL(blob);
    place.score.hidden = !place.targets.length;
    return;
  }
  const bitmap = await createImageBitmap(blob);
  place.show(facts, bitmap, "jpeg");
  bitmap.close();
}

const handlers = {
  server({ webrtc: offered }) {
    webrtc = offered;
    cameras.forEach(openVideo);
  },
  console({ cameras: names, models }) {
    names.forEach(camera);
    if ($("models").childElementCount) return;
    $("models").append(...models.map((name) => new Option(name)));
  },
  health({ camera: name, image_age, status_age }) { camera(name).ages = { image_age, status_age }; },
  paused({ camera: name, on }) {
    camera(name).paused = on;
    press($("pause"), selected.paused);
  },
  frame(facts) { camera(facts.camera).link?.know(facts); },
  targets({ camera: name, targets, frames }) {
    const place = camera(name);
    place.learn(targets, frames);
    listTargets($("targets"), cameras, place, command);
  },
  log({ level, time, text, camera: name }) {
    say(level, cameras.size > 1 && name ? `${name}: ${text}` : text, time);
  },
  answer({ number: which, ...answer }) {
    answers.get(which)?.(answer);
    answers.delete(which);
  },
};

function connect() {
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  const mine = socket = new WebSocket(`${scheme}//${location.host}/socket${location.search}`);
  mine.binaryType = "arraybuffer";
  mine.onopen = () => {
    delay = 250;
    $("log").replaceChildren();
    look();
  };
  mine.onmessage = ({ data }) => {
    heard = performance.now();
    if (typeof data === "string") {
      const message = JSON.parse(data);
      handlers[message.kind]?.(message);
      return;
    }
    decoding = decoding.then(() => onPicture(data)).catch((error) => say("warning", error.message))
      .then(() => mine.readyState === WebSocket.OPEN && mine.send('{"do": "acknowledge"}'));
  };
  mine.onclose = () => {
    closeVideos();
    answers.forEach((resolve) => resolve({ success: false, message: "the link broke" }));
    answers.clear();
    setTimeout(connect, delay);
    delay = Math.min(2 * delay, 5000);
  };
}

// A page that cannot be seen takes no pictures.
function look() {
  if (socket?.readyState === WebSocket.OPEN) {
    socket.send(JSON.stringify({ do: "look", on: !document.hidden }));
  }
}
document.addEventListener("visibilitychange", look);

setInterval(() => {
  const linked = socket?.readyState === WebSocket.OPEN && performance.now() - heard < SILENT_MS;
  $("link").textContent = linked ? "connected" : "no link";
  $("link").className = `badge ${linked ? "good" : "bad"}`;
  cameras.forEach((place) => place.judge(linked));
  drawHistories();
}, 250);

let since = performance.now();
setInterval(() => {
  const now = performance.now(), rates = [];
  for (const place of cameras.values()) {
    rates.push((1000 * place.pictures / (now - since)).toFixed(0));
    place.pictures = 0;
  }
  $("rate").textContent = `${rates.join(" + ")} pictures/s`;
  since = now;
}, 1000);

$("append").onclick = () => press($("append"), !pressed($("append")));
$("pause").onclick = () => selected && command(selected, { do: "enable", on: selected.paused });
$("clear").onclick = () => selected && command(selected, { do: "clear" });
$("model-form").onsubmit = (event) => {
  event.preventDefault();
  if (selected) command(selected, { do: "model", model: $("model").value.trim() });
};
document.addEventListener("keydown", ({ key, target, ctrlKey, metaKey, altKey }) => {
  if (target.matches("input") || ctrlKey || metaKey || altKey) return;
  ({ a: $("append"), p: $("pause"), c: $("clear") })[key.toLowerCase()]?.click();
});
connect();
