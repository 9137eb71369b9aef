// The laptop's camera: frames as JPEG files, as any camera would send them. Nothing is taken before someone asks.

const SIDE = 512; // of a frame's shorter side, at most: networks see no more

const WHY = {
  NotAllowedError: "The camera was not allowed; allow it in the browser’s address bar, and try again",
  NotFoundError: "There is no camera",
  NotReadableError: "The camera is in use by another program",
};

export class Camera {
  get running() {
    return Boolean(this.stream);
  }

  // ended: called once it has stopped, for whatever reason. Throws Error with what to do.
  async start(ended) {
    if (!navigator.mediaDevices) {
      throw new Error("Browsers give the camera to pages over HTTPS or on localhost alone; open this page there");
    }
    try {
      const video = {width: {ideal: 1280}, facingMode: {ideal: "environment"}};
      this.stream = await navigator.mediaDevices.getUserMedia({video, audio: false});
    } catch (error) {
      throw new Error(WHY[error.name] ?? `The camera cannot be used: ${error.message}`);
    }
    this.ended = ended;
    this.stream.getVideoTracks()[0].addEventListener("ended", () => this.stop());
    this.video = document.createElement("video");
    this.video.muted = true;
    this.video.playsInline = true;
    this.video.srcObject = this.stream;
    await this.video.play();
  }

  // The newest frame as a Blob; null once it has stopped.
  async frame() {
    if (!this.running) return null;
    const {videoWidth: width, videoHeight: height} = this.video;
    const scale = Math.min(1, SIDE / Math.min(width, height));
    const canvas = document.createElement("canvas");
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    canvas.getContext("2d").drawImage(this.video, 0, 0, canvas.width, canvas.height);
    return new Promise((resolve) => {
      canvas.toBlob(resolve, "image/jpeg", 0.92);
    });
  }

  stop() {
    if (!this.stream) return;
    for (const track of this.stream.getTracks()) track.stop();
    this.stream = null;
    this.video.srcObject = null;
    this.ended?.();
  }
}
