// What the pages do in the browser: the theme, downloads of figures, links in tables, and addresses that hold state.
// lost_answers.js handles requests that fail.

window.dash_clientside = window.dash_clientside || {};
var dagcomponentfuncs = (window.dashAgGridComponentFunctions = window.dashAgGridComponentFunctions || {});

// Enter follows the link in a table's cell.
document.addEventListener("keydown", (event) => {
  const cell = document.activeElement;
  if (event.key === "Enter" && cell && cell.classList.contains("ag-cell")) {
    const link = cell.querySelector("a");
    if (link) link.click();
  }
});

dagcomponentfuncs.AtollLink = function (props) {
  if (!props.data || props.value == null) return null;
  return React.createElement(window.dash_core_components.Link, { href: props.data.href, children: String(props.value) });
};

// A study's state in the words and the color of the study page; failed ones stand out.
dagcomponentfuncs.AtollState = function (props) {
  if (props.value == null) return null;
  const state = String(props.value).split(",")[0];
  return React.createElement("span", { className: "state state-" + state }, String(props.value));
};

// A figure's data as rows, one for each point of each trace, in the store's units.
function atollRows(traces, layout) {
  const list = (values) => (values == null ? [] : typeof values === "object" ? Array.from(values) : [values]);
  const axes = layout.meta && layout.meta.axes;
  const parallel = traces.find((trace) => trace.type === "parcoords");
  if (parallel) {
    const value = (axis, v) =>
      axis.words ? axis.words[v] : v === axis.missing ? null : axis.log ? Math.pow(10, v) : v;
    const rows = list(parallel.dimensions[0].values).map((_, i) =>
      axes.map((axis, place) => value(axis, parallel.dimensions[place].values[i])),
    );
    return [axes.map((axis) => axis.label)].concat(rows);
  }
  const flows = traces.find((trace) => trace.type === "sankey");
  if (flows) {
    const { node, link } = flows;
    const rows = list(link.value).map((n, i) => [node.label[link.source[i]], node.label[link.target[i]], n]);
    return [["from", "to", "count"]].concat(rows);
  }
  const rows = [["trace", "x", "y", "z", "from", "low", "high", "trial", "text"]];
  traces.forEach((trace) => {
    const x = list(trace.x), y = list(trace.y), base = list(trace.base), text = Array.isArray(trace.text) ? trace.text : [];
    if (trace.q1 != null) {
      const whole = { minimum: trace.lowerfence, q1: trace.q1, median: trace.median, q3: trace.q3, maximum: trace.upperfence };
      Object.entries(whole).forEach(([name, values]) => rows.push([trace.name, name, list(values)[0]]));
    } else if (trace.z != null) {
      list(trace.z).forEach((row, j) => list(row).forEach((z, i) => rows.push([trace.name, x[i], y[j], z])));
    } else {
      const error = [trace.error_x, trace.error_y].find((one) => one && one.visible && one.array);
      const middle = error === trace.error_x ? x : y;
      const named = list(trace.customdata).map((one) => (Array.isArray(one) ? one[0] : one));
      for (let i = 0; i < Math.max(x.length, y.length); i++)
        rows.push([
          trace.name, x[i], y[i], null, base[i],
          error && middle[i] - list(error.arrayminus || error.array)[i], error && middle[i] + list(error.array)[i],
          Number.isInteger(named[i]) ? named[i] : null, text[i],
        ]);
    }
  });
  return rows;
}

function atollCsv(rows) {
  const cell = (value) => {
    if (value == null || Number.isNaN(value)) return "";
    if (typeof value === "number") return String(value);
    // Names in figures are escaped for HTML. A spreadsheet takes text that begins with some signs for a formula.
    let text = String(value).replace(/&lt;/g, "<").replace(/&gt;/g, ">").replace(/&amp;/g, "&");
    if (/^[=+@-]/.test(text)) text = "'" + text;
    return /[",\n]/.test(text) ? '"' + text.replace(/"/g, '""') + '"' : text;
  };
  return rows.map((row) => row.map(cell).join(",")).join("\n") + "\n";
}

// A new figure with the zoom and the hidden traces of the one on the page, if both show the same thing.
function atollKept(figure, before) {
  if (before.layout.uirevision !== figure.layout.uirevision) return figure;
  const layout = { ...figure.layout };
  Object.keys(before.layout).forEach((axis) => {
    if (/^[xy]axis\d*$/.test(axis) && layout[axis] && before.layout[axis].autorange === false)
      layout[axis] = { ...layout[axis], range: before.layout[axis].range, autorange: false };
  });
  // We match traces by group and position in it, because names may contain counts that change.
  const keys = (traces) => {
    const seen = {};
    return traces.map((trace) => {
      const group = trace.legendgroup ?? "";
      seen[group] = (seen[group] ?? 0) + 1;
      return group + "|" + seen[group];
    });
  };
  const earlier = keys(before.data);
  const hidden = new Set(earlier.filter((_, i) => before.data[i].visible === "legendonly"));
  const now = keys(figure.data);
  const data = figure.data.map((trace, i) => (hidden.has(now[i]) ? { ...trace, visible: "legendonly" } : trace));
  return { ...figure, layout, data };
}

// Drawing the first figure blocks the browser, so we wait for the rows of tables first (at most 1.5 s).
async function atollTables() {
  const waits = (table) => !table.querySelector(".ag-row[row-id], .ag-overlay-no-rows-center");
  for (let i = 0; i < 75 && [...document.querySelectorAll(".table")].some(waits); i++)
    await new Promise((resolve) => setTimeout(resolve, 20));
}

// Loads plotly.js while the server computes the first figure; Dash's graph then does not load it again.
let atollPlotlyRuns = null;
function atollPlotly() {
  const program = document.querySelector('link[href$="plotly.min.js"]');
  if (window.Plotly || !program) return Promise.resolve();
  atollPlotlyRuns ??= new Promise((resolve) => {
    const script = document.createElement("script");
    script.src = program.href;
    script.onload = script.onerror = resolve; // if it fails, Dash's graph reports the error
    document.head.append(script);
  });
  return atollPlotlyRuns;
}

function atollSave(name, content) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type: "text/csv" }));
  link.download = name;
  link.click();
  URL.revokeObjectURL(link.href);
}

window.dash_clientside.atoll = {
  // The theme that was chosen last. Default: the system's.
  theme: function (clicks, chosen) {
    const preferred = window.matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
    let theme = chosen || preferred;
    if (window.dash_clientside.callback_context.triggered.some((one) => one.prop_id === "theme-toggle.n_clicks" && clicks))
      theme = theme === "dark" ? "light" : "dark";
    document.body.dataset.agThemeMode = theme;
    return [theme, theme, theme === "dark" ? "Light theme" : "Dark theme"];
  },

  download: function () {
    const triggered = window.dash_clientside.callback_context.triggered;
    if (!triggered.length || !triggered[0].value) return window.dash_clientside.no_update;
    const which = JSON.parse(triggered[0].prop_id.split(".")[0]);
    const plot = document.querySelector(`#${which.figure} .js-plotly-plot`);
    if (!plot) return window.dash_clientside.no_update;
    const file = (document.title + " " + which.figure).replace(/[^\w.-]+/g, "_");
    if (which.format === "csv") atollSave(file + ".csv", atollCsv(atollRows(plot._fullData, plot._fullLayout)));
    else {
      const size = plot.getBoundingClientRect();
      Plotly.downloadImage(plot, { format: which.format, filename: file, width: size.width, height: size.height, scale: 2 });
    }
    return window.dash_clientside.no_update;
  },

  // Shows a figure: adds the graph with the first figure, then keeps the reader's zoom and hidden traces.
  show: async function (figure, place) {
    if (!figure) return [];
    const id = place.replace(/-place$/, "");
    if (!document.getElementById(id)) await atollTables().then(atollPlotly);
    if (document.getElementById(id)) {
      const plot = document.querySelector(`#${id} .js-plotly-plot`);
      window.dash_clientside.set_props(id, { figure: plot && plot.layout ? atollKept(figure, plot) : figure });
      return window.dash_clientside.no_update;
    }
    const config = {
      displaylogo: false,
      showSendToCloud: false, // plotly's "Share chart" would upload the figure
      plotlyServerURL: "",
      responsive: true,
      modeBarButtonsToRemove: ["toImage", "lasso2d", "select2d"],
    };
    return { namespace: "dash_core_components", type: "Graph", props: { id, config, figure } };
  },

  // Loads plotly.js as soon as the table has its rows.
  hurry: function () {
    atollTables().then(atollPlotly);
    return window.dash_clientside.no_update;
  },

  // Asks again for the rows in view, and keeps the selection and the scroll position. The table already shows the first
  // revision that a page receives. Without a revision, the study cannot be read at the moment.
  reload: function (revision, brush, id, known, request) {
    const brushed = window.dash_clientside.callback_context.triggered.some((one) => one.prop_id.includes("brush"));
    if (!brushed && revision == null) return window.dash_clientside.no_update;
    const lost = { ...atollLost };
    Object.assign(atollLost, { any: false, rows: false, asked: false });
    if (!brushed && !lost.any && known == null) return revision;
    if (document.getElementById(id) && window.dash_ag_grid)
      dash_ag_grid.getApiAsync(id).then((api) => {
        // The table sends no further request until we report the lost one as failed.
        const waits = (block) => block.pageStatus === "loading" && block.startRow === request.startRow;
        if (lost.rows && Object.values(api.getCacheBlockState()).some(waits)) request.failCallback();
        if (brushed || lost.any) api.purgeInfiniteCache();
        else api.refreshInfiniteCache();
      }, () => {});
    return revision;
  },

  // Selects the trials in the address once their rows have arrived.
  choose: function (sorting, marked, chosen, id) {
    const hasRows = window.dash_clientside.callback_context.triggered.length;
    if (marked || !hasRows || !chosen || !chosen.length) return window.dash_clientside.no_update;
    dash_ag_grid.getApiAsync(id).then((api) =>
      setTimeout(() => {
        const nodes = [];
        const names = chosen.map(String);
        api.forEachNode((node) => {
          if (node.data && names.includes(String([node.data.number, node.data.attempt]))) nodes.push(node);
        });
        if (nodes.length === chosen.length) api.setNodesSelected({ nodes, newValue: true });
      }, 300),
    );
    return true;
  },

  // Writes what is shown into the address, so that it can be bookmarked and sent, without loading the page again.
  address: function () {
    const values = Array.from(arguments);
    const names = values.pop();
    const query = new URLSearchParams(window.location.search);
    names.forEach((name, i) => {
      const value = values[i];
      const empty = value == null || value === "" || value === false || (Array.isArray(value) && !value.length);
      const isObject = typeof value === "object" && !Array.isArray(value);
      if (empty || (isObject && value && !Object.keys(value).length)) query.delete(name);
      else query.set(name, typeof value === "object" ? JSON.stringify(value) : String(value));
    });
    const text = query.toString();
    window.history.replaceState(window.history.state, "", window.location.pathname + (text ? "?" + text : ""));
    return window.dash_clientside.no_update;
  },

  // Shows the controls of the tab in front and hides the others; tabs holds the tabs of each control.
  showControls: function (tab, tabs) {
    return tabs.map((names) => ({ display: names.includes(tab) ? "flex" : "none" }));
  },

  // The axes of the parallel coordinates on the page, by which brushes are read.
  axes: (figure) => figure?.layout?.meta?.axes ?? null,

  // The trials that are selected in the table.
  selected: (rows) => (rows ? rows.map((row) => [row.number, row.attempt]) : window.dash_clientside.no_update),

  // The link to the export of the selected trials.
  exportLink: function (chosen, href) {
    const address = new URL(href, window.location);
    address.searchParams.delete("trials");
    if (chosen && chosen.length) address.searchParams.set("trials", JSON.stringify(chosen));
    return address.pathname + address.search;
  },

  goTo: function (address) {
    window.location.assign(address);
    return address;
  },

  // Options of a table whose rows are searched for words.
  search: (words, options) => ({ ...options, quickFilterText: words || "" }),
};

// Sorts "3 of 10" by its first number.
var dagfuncs = (window.dashAgGridFunctions = window.dashAgGridFunctions || {});
dagfuncs.atollProgress = (a, b) => parseFloat(String(a).replace(/,/g, "")) - parseFloat(String(b).replace(/,/g, ""));
