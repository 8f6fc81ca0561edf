// The server, as this page sees it: JSON, events, pictures, and the key where one is asked for.

const KEY = "ssd1b-key";
const CLIENT = "ssd1b-client";
const client = sessionStorage.getItem(CLIENT) ?? crypto.randomUUID?.() ?? String(Math.random());
sessionStorage.setItem(CLIENT, client);

export class ServerError extends Error {
  constructor(message, status) { super(message); this.status = status; }
}

function headers(more = {}) {
  const key = sessionStorage.getItem(KEY);
  return { "x-client-id": client, ...(key ? { authorization: `Bearer ${key}` } : {}), ...more };
}

async function askKey() {
  const dialog = document.getElementById("key-dialog");
  if (!dialog.open) dialog.showModal();
  await new Promise((done) => dialog.addEventListener("close", done, { once: true }));
  sessionStorage.setItem(KEY, document.getElementById("key").value);
}

export async function call(path, options = {}) {
  const answer = await fetch(path, { ...options, headers: headers(options.headers) });
  if (answer.status === 401) { await askKey(); return call(path, options); }
  if (!answer.ok) {
    const said = await answer.json().catch(() => ({}));
    throw new ServerError(said.error?.message ?? `The server answered ${answer.status}.`, answer.status);
  }
  return answer;
}

export const get = async (path) => (await call(path)).json();

export const post = async (path, body, more = {}) =>
  (await call(path, { method: "POST", body: JSON.stringify(body ?? {}), headers: { "content-type": "application/json", ...more } })).json();

// A picture's address for <img>: straight from the server or, where a key is needed, fetched with it.
const fetched = new Map();
export async function pictureUrl(url) {
  if (!sessionStorage.getItem(KEY)) return url;
  if (!fetched.has(url)) fetched.set(url, URL.createObjectURL(await (await call(url)).blob()));
  return fetched.get(url);
}

// A job's events, one by one, until it ends. Goes on by itself after the server was away.
export async function* events(id, onAway = () => {}) {
  for (;;) {
    try {
      const answer = await call(`/v1/jobs/${id}/events`);
      onAway(false);
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        text += value;
        let end;
        while ((end = text.indexOf("\n\n")) >= 0) {
          const line = text.slice(0, end).split("\n").find((each) => each.startsWith("data: "));
          text = text.slice(end + 2);
          if (!line) continue;
          const event = JSON.parse(line.slice(6));
          yield event;
          if (isFinal(event.state ?? event.type)) return;
        }
      }
    } catch (error) {
      if (error instanceof ServerError) throw error;
    }
    onAway(true);
    await new Promise((done) => setTimeout(done, 1000));
  }
}

export const isFinal = (state) => ["done", "failed", "cancelled", "interrupted"].includes(state);
