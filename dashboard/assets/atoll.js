// What the pages do in the browser: the theme, downloads of figures, links inside tables, and addresses that hold state.

window.dash_clientside = window.dash_clientside || {};
var dagcomponentfuncs = (window.dashAgGridComponentFunctions = window.dashAgGridComponentFunctions || {});

// Go to another page of the app without loading all of it again.
function atollGo(event) {
  if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
  event.preventDefault();
  window.history.pushState({}, "", event.currentTarget.getAttribute("href"));
  window.dispatchEvent(new CustomEvent("_dashprivate_pushstate"));
  window.scrollTo(0, 0);
}

dagcomponentfuncs.AtollLink = function (props) {
  if (!props.data || props.value == null) return null;
  return React.createElement("a", { href: props.data.href, onClick: atollGo }, String(props.value));
};

// A figure's data as rows: one for each point of each trace.
function atollRows(traces) {
  const rows = [["trace", "x", "y", "z", "text"]];
  const list = (values) => (values == null ? [] : Array.from(values));
  traces.forEach((trace) => {
    const name = trace.name == null ? "" : trace.name;
    if (trace.type === "parcoords") {
      rows[0] = trace.dimensions.map((dimension) => dimension.label);
      list(trace.dimensions[0].values).forEach((_, i) => rows.push(trace.dimensions.map((d) => d.values[i])));
    } else if (trace.type === "sankey") {
      rows[0] = ["from", "to", "count"];
      list(trace.link.value).forEach((value, i) =>
        rows.push([trace.node.label[trace.link.source[i]], trace.node.label[trace.link.target[i]], value]),
      );
    } else if (trace.z != null) {
      list(trace.z).forEach((row, j) =>
        list(row).forEach((value, i) => rows.push([name, list(trace.x)[i], list(trace.y)[j], value, ""])),
      );
    } else {
      const x = list(trace.x), y = list(trace.y), base = list(trace.base), text = Array.isArray(trace.text) ? trace.text : [];
      for (let i = 0; i < Math.max(x.length, y.length); i++) rows.push([name, x[i], y[i], base[i], text[i]]);
    }
  });
  return rows;
}

function atollCsv(rows) {
  const cell = (value) => {
    const text = value == null ? "" : String(value);
    return /[",\n]/.test(text) ? '"' + text.replace(/"/g, '""') + '"' : text;
  };
  return rows.map((row) => row.map(cell).join(",")).join("\n") + "\n";
}

function atollSave(name, content) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type: "text/csv" }));
  link.download = name;
  link.click();
  URL.revokeObjectURL(link.href);
}

window.dash_clientside.atoll = {
  // The theme: what was chosen last, else what the system prefers.
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
    const plot = document.getElementById(which.figure).querySelector(".js-plotly-plot");
    const file = (document.title + " " + which.figure).replace(/[^\w.-]+/g, "_");
    if (which.format === "csv") atollSave(file + ".csv", atollCsv(atollRows(plot._fullData)));
    else {
      const size = plot.getBoundingClientRect();
      Plotly.downloadImage(plot, { format: which.format, filename: file, width: size.width, height: size.height, scale: 2 });
    }
    return window.dash_clientside.no_update;
  },

  // A new figure with the zoom and the hidden traces of the one before, where both show the same.
  keepView: function (figure, before) {
    if (!figure) return window.dash_clientside.no_update;
    if (!before || before.layout.uirevision !== figure.layout.uirevision) return figure;
    const layout = { ...figure.layout };
    Object.keys(before.layout).forEach((axis) => {
      if (/^[xy]axis\d*$/.test(axis) && layout[axis] && before.layout[axis].autorange === false)
        layout[axis] = { ...layout[axis], range: before.layout[axis].range, autorange: false };
    });
    const hidden = new Set(before.data.filter((trace) => trace.visible === "legendonly").map((trace) => trace.name));
    const data = figure.data.map((trace) => (hidden.has(trace.name) ? { ...trace, visible: "legendonly" } : trace));
    return { ...figure, layout, data };
  },

  // Rows are asked for again where they are shown; what is chosen and where the table stands stays.
  reload: function (revision, brush, id) {
    const brushed = window.dash_clientside.callback_context.triggered.some((one) => one.prop_id.includes("brush"));
    if (document.getElementById(id) && window.dash_ag_grid)
      dash_ag_grid.getApiAsync(id).then((api) => (brushed ? api.purgeInfiniteCache() : api.refreshInfiniteCache()), () => {});
    return window.dash_clientside.no_update;
  },

  // Marks the trials that the address names, once their rows are there.
  choose: function (sorting, marked, chosen, id) {
    const hasRows = window.dash_clientside.callback_context.triggered.length;
    if (marked || !hasRows || !chosen || !chosen.length) return window.dash_clientside.no_update;
    dash_ag_grid.getApiAsync(id).then((api) =>
      setTimeout(() => {
        const nodes = [];
        api.forEachNode((node) => node.data && chosen.includes(node.data.number) && nodes.push(node));
        if (nodes.length === chosen.length) api.setNodesSelected({ nodes, newValue: true });
      }, 300),
    );
    return true;
  },

  // The address says what is shown, so that it can be kept and sent; the page is not loaded again.
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
};

// Sorts "3 of 10" by its first number.
var dagfuncs = (window.dashAgGridFunctions = window.dashAgGridFunctions || {});
dagfuncs.atollProgress = (a, b) => parseFloat(String(a).replace(/,/g, "")) - parseFloat(String(b).replace(/,/g, ""));
