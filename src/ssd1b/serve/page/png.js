// Reading a request back out of a PNG that ssd1b wrote: its iTXt chunk, without a server.

export async function requestIn(file) {
  const view = new DataView(await file.arrayBuffer());
  const text = new TextDecoder();
  if (view.byteLength < 8 || view.getUint32(0) !== 0x89504e47) return null;
  let at = 8;
  while (at + 12 <= view.byteLength) {
    const length = view.getUint32(at);
    const kind = text.decode(new Uint8Array(view.buffer, at + 4, 4));
    if (at + 12 + length > view.byteLength) return null;
    if (kind === "iTXt") {
      const data = new Uint8Array(view.buffer, at + 8, length);
      const parts = [];
      let start = 0;
      const name = text.decode(data.subarray(0, data.indexOf(0)));
      start = name.length + 3; // the zero, then two bytes about compression: we write none
      for (let zeros = 0; zeros < 2 && start < length; start += 1) if (data[start] === 0) zeros += 1;
      parts.push(name, text.decode(data.subarray(start)));
      if (parts[0] === "ssd1b") {
        try { return JSON.parse(parts[1]).request ?? null; } catch { return null; }
      }
    }
    if (kind === "IEND") return null;
    at += 12 + length;
  }
  return null;
}
