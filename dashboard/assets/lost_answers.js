// Callbacks that get no answer: the only place where we replace a function of the browser's, `fetch`.
//
// Dash does not tell a page that a request failed, so a table would wait for its rows forever. We therefore watch the
// answers to Dash's callbacks (and no other requests). After a failure, the first answer that arrives means that the
// server is back: the page then clears the study's revision, so that the server sends it again, and `reload` in
// atoll.js asks for the rows again.

// any: an answer was lost. rows: the table's rows were among them. asked: we have asked for the revision again.
const atollLost = { any: false, rows: false, asked: false };

function atollLose(request) {
  atollLost.any = true;
  atollLost.asked = false;
  // Dash names the outputs of a callback, such as "..study-grid.getRowsResponse...study-sort.data..".
  atollLost.rows ||= JSON.parse(request.body).output.includes("study-grid.getRowsResponse");
}

const atollFetch = window.fetch;
window.fetch = async (address, options) => {
  if (!String(address).includes("_dash-update-component")) return atollFetch(address, options);
  const answer = await atollFetch(address, options).catch((error) => {
    atollLose(options);
    throw error;
  });
  if (answer.status === 403) location.reload(); // the server has restarted with another token, and says what to do
  if (!answer.ok) atollLose(options);
  else if (atollLost.any && !atollLost.asked && document.getElementById("study-grid")) {
    atollLost.asked = true;
    window.dash_clientside.set_props("study-revision", { data: null });
  }
  return answer;
};
