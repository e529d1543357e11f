// SPDX-License-Identifier: Apache-2.0
// Pictures of one camera as video over WebRTC, each with what the server knows of it.

const OPEN_MS = 10000, STALLED_MS = 3000, MAX_KNOWN = 64, MAX_HELD = 4;

export function videoIsPossible() {
  return typeof RTCPeerConnection === "function" &&
    "requestVideoFrameCallback" in HTMLVideoElement.prototype;
}

// ask(command) sends a command and resolves to its answer; onFrame(facts, source) gets each picture;
// onEnd(reason) is called once if the video cannot pass, or passes no longer.
export class VideoLink {
  constructor(ask, onFrame, onEnd) {
    [this.ask, this.onFrame, this.onEnd] = [ask, onFrame, onEnd];
    this.known = new Map();  // time stamp of RTP, counted from the server's: facts
    this.held = new Map();   // the same: a picture whose facts have not come yet
    this.origin = null;      // what the sender has added to all time stamps, a random number
    this.first = this.firstStamp = null;
    this.begun = this.shown = this.told = performance.now();
    this.video = document.createElement("video");
    this.video.muted = this.video.playsInline = true;
    this.peer = new RTCPeerConnection({ iceServers: [] });
    this.clock = setInterval(() => this.judge(), 500);
    this.start().catch((error) => this.end(error.message));
  }

  async start() {
    const { peer, video } = this;
    const way = peer.addTransceiver("video", { direction: "recvonly" });
    const codecs = RTCRtpReceiver.getCapabilities("video").codecs;
    way.setCodecPreferences?.(codecs.filter(({ mimeType }) => /h264|rtx/i.test(mimeType)));
    way.receiver.jitterBufferTarget = 0;  // the newest picture counts, not an even pace
    peer.ontrack = ({ track }) => {
      video.srcObject = new MediaStream([track]);
      video.play().catch((error) => this.end(error.message));
    };
    peer.onconnectionstatechange = () => {
      if (peer.connectionState === "failed") this.end("no connection");
    };
    this.listen();
    await peer.setLocalDescription();
    if (peer.iceGatheringState !== "complete") {
      await new Promise((resolve) => {
        peer.onicegatheringstatechange = () => peer.iceGatheringState === "complete" && resolve();
        setTimeout(resolve, 1000);
      });
    }
    const answer = await this.ask({ do: "video", step: "offer", sdp: peer.localDescription.sdp });
    if (!answer.success) throw new Error(answer.message);
    if (this.peer) await peer.setRemoteDescription({ type: "answer", sdp: answer.sdp });
  }

  listen() {
    this.video.requestVideoFrameCallback((now, { rtpTimestamp }) => {
      if (!this.peer) return;
      this.listen();
      this.shown = performance.now();
      if (rtpTimestamp === undefined) this.end("this browser does not tell which picture it shows");
      else if (this.origin === null) {
        this.firstStamp ??= rtpTimestamp;
        this.open();
      } else this.show((rtpTimestamp - this.origin) >>> 0);
    });
  }

  // The first picture is sent alone: its time stamps on both sides tell the random number.
  open() {
    if (this.firstStamp === null || this.first === null) return;
    this.origin = (this.firstStamp - this.first.ticks) >>> 0;
    this.ask({ do: "video", step: "opened" }).then(({ success, message }) => {
      if (!success) this.end(message);
    });
  }

  know(facts) {
    this.told = performance.now();
    if (facts.first) {
      this.first = facts;
      if (this.origin === null) this.open();
      return;
    }
    const held = this.held.get(facts.ticks);
    if (held) {
      this.held.delete(facts.ticks);
      this.onFrame(facts, held);
      held.close();
    } else {
      this.known.set(facts.ticks, facts);
      if (this.known.size > MAX_KNOWN) this.known.delete(this.known.keys().next().value);
    }
  }

  async show(ticks) {
    const facts = this.known.get(ticks);
    if (facts) {
      this.known.delete(ticks);
      this.onFrame(facts, this.video);
      return;
    }
    const picture = await createImageBitmap(this.video);
    const late = this.known.get(ticks);
    if (late) {
      this.known.delete(ticks);
      this.onFrame(late, picture);
      picture.close();
      return;
    }
    this.held.set(ticks, picture);
    if (this.held.size <= MAX_HELD) return;
    const [oldest, unused] = this.held.entries().next().value;
    unused.close();
    this.held.delete(oldest);
  }

  judge() {
    const now = performance.now();
    if (document.hidden) [this.begun, this.shown, this.told] = [now, now, now];
    else if (this.origin === null) {
      const connected = this.peer.connectionState === "connected";
      const since = !connected ? this.begun : this.first ? this.told : now;  // a camera may be silent
      if (now - since > OPEN_MS) this.end(connected ? "no picture came" : "no connection");
    } else if (this.told - this.shown > STALLED_MS) this.end("the pictures stopped");
  }

  end(reason) {
    if (!this.peer) return;
    this.close();
    this.ask({ do: "video", step: "stop" });
    this.onEnd(reason);
  }

  close() {
    clearInterval(this.clock);
    this.peer?.close();
    this.peer = null;
    this.video.srcObject = null;
    this.held.forEach((picture) => picture.close());
    this.held.clear();
  }
}
