// SPDX-License-Identifier: Apache-2.0
// The list of targets: state, score, where each is, and the last minute of its score and state.

import { BADGES, COLOURS } from "./camera.js";

const HISTORY_S = 60;
const rows = new Map();

class Row {
  constructor(camera, id, act) {
    this.element = document.createElement("li");
    this.badge = document.createElement("span");
    this.text = Object.assign(document.createElement("span"), { className: "facts" });
    const remove = document.createElement("button");
    remove.textContent = "×";
    remove.ariaLabel = `Stop following target ${id}`;
    remove.onclick = () => act(camera, { do: "remove", id });
    this.board = Object.assign(document.createElement("canvas"), { width: 320, height: 56 });
    this.board.role = "img";
    this.history = [];
    this.element.append(this.badge, remove, this.text, this.board);
  }

  update(name, target) {
    this.badge.className = `badge ${BADGES[target.state] ?? ""}`;
    this.badge.textContent = target.state;
    this.text.textContent = [name, ...describe(target)].filter(Boolean).join(" · ");
    this.board.ariaLabel = `Score over the last minute, now ${target.score.toFixed(2)}`;
    this.history.push({ time: performance.now() / 1000, score: target.score, state: target.state });
  }

  draw() {
    const { board, history } = this, pen = board.getContext("2d"), now = performance.now() / 1000;
    while (history.length && history[0].time < now - HISTORY_S) history.shift();
    pen.clearRect(0, 0, board.width, board.height);
    const place = (time) => board.width * (1 - (now - time) / HISTORY_S);
    history.forEach(({ time, score, state }, index) => {
      const end = Math.min(history[index + 1]?.time ?? now, time + 1), x = place(time);
      pen.fillStyle = COLOURS[state] ?? COLOURS.IDLE;
      const tall = Math.max(3, score * board.height);
      pen.fillRect(x, board.height - tall, Math.max(1, place(end) - x), tall);
    });
  }
}

function describe(target) {
  const degrees = (radians) => Math.abs(radians * 180 / Math.PI).toFixed(1);
  const words = [`#${target.id}`, target.label, target.score.toFixed(2), target.doubt];
  if (target.azimuth !== undefined) {
    words.push(`${degrees(target.azimuth)}° ${target.azimuth < 0 ? "left" : "right"}`,
      `${degrees(target.elevation)}° ${target.elevation < 0 ? "down" : "up"}`);
    const rate = Math.hypot(target.azimuth_rate, target.elevation_rate);
    if (Number.isFinite(rate)) words.push(`${degrees(rate)}°/s`);
  }
  if (target.distance !== undefined) words.push(`${target.distance.toFixed(1)} m`);
  if (target.state === "LOST") words.push(`not seen for ${target.seconds_since_seen.toFixed(0)} s`);
  return words;
}

// Rows stay the same elements while their targets live, so that they keep the focus.
export function listTargets(list, cameras, updated, act) {
  const alive = new Set();
  for (const camera of cameras.values()) {
    for (const target of camera.targets) {
      const key = `${camera.name} ${target.id}`;
      if (!rows.has(key)) {
        rows.set(key, new Row(camera, target.id, act));
        list.append(rows.get(key).element);
      }
      if (camera === updated) rows.get(key).update(cameras.size > 1 ? camera.name : "", target);
      alive.add(key);
    }
  }
  for (const [key, row] of rows) {
    if (alive.has(key)) continue;
    row.element.remove();
    rows.delete(key);
  }
}

export function drawHistories() {
  rows.forEach((row) => row.draw());
}
