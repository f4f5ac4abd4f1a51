/** The recordings of jobs, kept in this browser: the server deletes them when a job ends. */

import { job } from "./api.js";
import { forgetSpeakerNames } from "./remembered.js";

const STORE = "recordings";

/** @returns {Promise<IDBDatabase>} */
function open() {
  return new Promise((resolve, reject) => {
    const opening = indexedDB.open("whisperx-api-server", 1);
    opening.onupgradeneeded = () => opening.result.createObjectStore(STORE);
    opening.onsuccess = () => resolve(opening.result);
    opening.onerror = () => reject(opening.error);
  });
}

/**
 * @template T
 * @param {IDBTransactionMode} mode
 * @param {(store: IDBObjectStore) => IDBRequest<T>} act
 * @returns {Promise<T | undefined>} undefined if the browser keeps nothing, as in private windows
 */
async function withStore(mode, act) {
  try {
    const database = await open();
    const transaction = database.transaction(STORE, mode);
    const asked = act(transaction.objectStore(STORE));
    return await new Promise((resolve, reject) => {
      transaction.oncomplete = () => resolve(asked.result);
      transaction.onabort = () => reject(transaction.error);
    }).finally(() => database.close());
  } catch (error) {
    if (error instanceof DOMException) return undefined;
    throw error;
  }
}

/**
 * @param {string} id
 * @returns {Promise<Blob | undefined>}
 */
export function recording(id) {
  return withStore("readonly", (store) => store.get(id));
}

/**
 * @param {string} id
 * @param {Blob} blob
 */
export function keepRecording(id, blob) {
  return withStore("readwrite", (store) => store.put(blob, id));
}

/** @param {string} id */
export function forgetRecording(id) {
  return withStore("readwrite", (store) => store.delete(id));
}

/** Forget what belongs to jobs that the server has deleted. */
export async function forgetOldRecordings() {
  for (const id of (await withStore("readonly", (store) => store.getAllKeys())) ?? []) {
    const gone = await job(String(id)).then(() => false, (error) => error.status === 404);
    if (!gone) continue;
    await forgetRecording(String(id));
    forgetSpeakerNames(String(id));
  }
}
