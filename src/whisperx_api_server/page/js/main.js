/** Starts the page: texts, the form, the list of jobs, and the job that the address names. */

import { all, byId } from "./elements.js";
import { installForm, offerModels } from "./form.js";
import { followJobs, showJobs } from "./jobs.js";
import { closeJob, openJob } from "./job.js";
import { installLive } from "./live.js";
import { clearError, onKey, showError } from "./problems.js";
import { installRecorder } from "./recorder.js";
import { forgetOldRecordings } from "./recordings.js";
import { loadStrings } from "./strings.js";

/** Show what the address names: `#job=ID`, else the start. */
function route() {
  clearError();
  const id = /^#job=([0-9a-f]+)$/.exec(location.hash)?.[1];
  byId("home").hidden = id !== undefined;
  byId("job").hidden = id === undefined;
  closeJob();
  if (id === undefined) showJobs().catch(showError);
  else openJob(id).catch(showError);
}

await loadStrings();
for (const part of all("header, main")) part.hidden = false;
const submit = installForm();
installRecorder(submit);
installLive();
onKey(() => {
  offerModels().catch(showError);
  route();
});
addEventListener("hashchange", route);
offerModels().catch(showError);
route();
followJobs();
forgetOldRecordings().catch(showError);
