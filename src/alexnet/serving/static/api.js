// What the page asks the server. A token comes behind # in the address and stays in this tab.

const KEY = "alexnet-token";
const AGAIN = 1000; // milliseconds
const given = new URLSearchParams(location.hash.slice(1)).get("token");
if (given !== null) {
  sessionStorage.setItem(KEY, given);
  history.replaceState(null, "", location.pathname);
}

export async function request(path, query = {}, picture = null, signal = undefined) {
  const words = new URLSearchParams(Object.entries(query).filter(([, value]) => value !== null && value !== undefined));
  const headers = {};
  const token = sessionStorage.getItem(KEY);
  if (token !== null) headers.Authorization = `Bearer ${token}`;
  if (picture) headers["Content-Type"] = "application/octet-stream";
  let response;
  try {
    response = await fetch(`${path}?${words}`, { method: picture ? "POST" : "GET", body: picture, headers, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer; it may have been stopped.");
  }
  if (response.status === 202) { // it is being computed still
    await new Promise((resolve) => setTimeout(resolve, AGAIN));
    return request(path, query, picture, signal);
  }
  if (response.ok) return response;
  let sentence = `The server answered ${response.status}.`;
  try {
    sentence = (await response.json()).error ?? sentence;
  } catch {
    // no sentence of the server's own
  }
  if (response.status === 401) sentence += " Open this page with #token=TOKEN behind its address.";
  throw new Error(sentence);
}

export async function ask(path, query, picture, signal) {
  return (await request(path, query, picture, signal)).json();
}

// For what is asked anew before it is answered: each signal ends the one before, so that the last to be asked is shown.
export function turns(signal) {
  let last = null;
  signal.addEventListener("abort", () => last?.abort());
  return () => {
    last?.abort();
    last = new AbortController();
    return last.signal;
  };
}

export async function blobUrl(path, query, signal) {
  return URL.createObjectURL(await (await request(path, query, null, signal)).blob());
}
