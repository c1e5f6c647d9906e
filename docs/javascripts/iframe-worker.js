// Search in pages that are opened from a folder. Browsers start no workers there, so that the search runs in a hidden frame
// that has a worker's interface: `postMessage` and "message" events on both sides.
if (location.protocol === "file:") {
  window.Worker = window.IFrameWorker = class extends EventTarget {
    constructor(url) {
      super();
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      this.frame.answer = data => this.dispatchEvent(new MessageEvent("message", { data }));
      this.loaded = new Promise(done => { this.frame.onload = done; });
      this.frame.srcdoc = `<script>postMessage = data => frameElement.answer(data);</script><script src="${url}"></script>`;
      document.body.append(this.frame);
    }

    postMessage(data) {
      this.loaded.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })));
    }
  };
}
