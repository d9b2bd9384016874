// A page that was opened as a file may not start a worker, which the search needs: a hidden frame runs it.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.waiting = [];
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.documentElement.append(this.frame);
      const inside = this.frame.contentWindow;
      inside.postMessage = (data) => this.deliver(this, MessageEvent, data);
      const script = inside.document.createElement("script");
      script.onload = () => {
        const messages = this.waiting;
        this.waiting = null;
        messages.forEach((data) => this.postMessage(data));
      };
      script.src = new URL(url, document.baseURI);
      inside.document.body.append(script);
    }
    // As between a page and a worker, what is sent is a copy, and arrives after the sender went on.
    deliver(target, Event, data) {
      const event = new Event("message", { data: structuredClone(data) });
      setTimeout(() => {
        target.dispatchEvent(event);
        if (target === this && this.onmessage) this.onmessage(event);
      });
    }
    postMessage(data) {
      if (this.waiting) return void this.waiting.push(structuredClone(data));
      const inside = this.frame.contentWindow;
      if (inside) this.deliver(inside, inside.MessageEvent, data);
    }
    terminate() {
      this.frame.remove();
    }
  };
}
