// Draws a dashboard as Grafana does: each panel by the component that Grafana's own panel of that type uses. A gauge is
// drawn as a bar gauge, since the package has no other.
import React from "react";
import { createRoot } from "react-dom/client";
import { BarGauge, BigValue, PanelChrome, TimeSeries } from "@grafana/ui";
import { TableNG } from "@grafana/ui/unstable";
import { FieldType, ThemeContext, createDataFrame, createTheme, dateTime, getDisplayProcessor, getFieldDisplayValues } from "@grafana/data";

const theme = createTheme({ colors: { mode: "light" } });
const CELL = 1560 / 24, ROW = 38;
const LINES = { drawStyle: "line", lineInterpolation: "linear", showPoints: "never", axisPlacement: "auto", scaleDistribution: { type: "linear" } };

// The colour that an override of the panel gives to a line.
function overridden(panel, name) {
  const found = panel.fieldConfig.overrides.find(({ matcher }) => new RegExp(matcher.options.slice(1, -1)).test(name));
  return found && found.properties[0].value;
}

// A table has a row for each series, and a column for each label that all of them have.
function table(series) {
  const labels = Object.keys(series[0].labels);
  const fields = labels.map((name) => ({ name, type: FieldType.string, values: series.map((one) => one.labels[name]), config: {} }));
  const made = createDataFrame({ fields });
  for (const field of made.fields) field.display = getDisplayProcessor({ field, theme, timeZone: "utc" });
  return made;
}

function frames(panel, series) {
  if (panel.type === "table") return [table(series)];
  const { custom, ...defaults } = panel.fieldConfig.defaults;
  const usual = { mode: panel.type === "timeseries" ? "palette-classic" : "thresholds" };
  return series.map(({ name, times, values: texts }, at) => {
    const isLine = panel.type === "timeseries"; // a line has a gap where there is no number
    const values = texts.map(Number).map((value) => (isLine && Number.isNaN(value) ? null : value));
    const numbers = values.filter(Number.isFinite);
    const color = overridden(panel, name) ?? usual;
    const config = { color, ...defaults, displayName: name, custom: { ...LINES, ...custom } };
    const made = createDataFrame({
      refId: String(at),
      name,
      fields: [
        { name: "Time", type: FieldType.time, values: times, config: {} },
        { name, type: FieldType.number, values, config },
      ],
    });
    const [min, max] = [Math.min(...numbers), Math.max(...numbers)];
    for (const field of made.fields) {
      field.state = { seriesIndex: at, range: { min, max, delta: max - min } };
      field.display = getDisplayProcessor({ field, theme, timeZone: "utc" });
    }
    return made;
  });
}

function Graph({ panel, data, range, width, height }) {
  if (panel.type === "timeseries") return <TimeSeries frames={data} structureRev={1} timeRange={range} timeZone="utc" width={width} height={height} legend={panel.options.legend} options={{}} />;
  if (panel.type === "table") return <TableNG data={data[0]} width={width} height={height} />;
  const shown = getFieldDisplayValues({ fieldConfig: panel.fieldConfig, reduceOptions: panel.options.reduceOptions, replaceVariables: (text) => text, theme, data, sparkline: panel.type === "stat", timeZone: "utc" });
  const isHorizontal = panel.options.orientation === "horizontal"; // one bar below the other
  const [wide, high] = isHorizontal ? [width, Math.min(height / shown.length, 40)] : [width / shown.length, height];
  return <div style={{ display: isHorizontal ? "block" : "flex" }}>{shown.map(({ display, field, sparkline }, at) => {
    if (panel.type === "stat") return <BigValue key={at} value={display} sparkline={sparkline} width={wide} height={high} theme={theme} colorMode="value" graphMode="area" />;
    return <BarGauge key={at} value={display} field={field} width={wide} height={high} theme={theme} orientation={isHorizontal ? "horizontal" : "vertical"} />;
  })}</div>;
}

function PanelView({ panel, series, range }) {
  const { w, h, x, y } = panel.gridPos;
  const data = series.length ? frames(panel, series) : [];
  const style = { position: "absolute", left: x * CELL, top: y * ROW, padding: 4 };
  return <div style={style} data-panel={panel.title} data-series={series.length}>
    <PanelChrome title={panel.title} description={panel.description} width={w * CELL - 8} height={h * ROW - 8}>
      {(width, height) => series.length ? <Graph {...{ panel, data, range, width, height }} /> : <p>No data</p>}
    </PanelChrome>
  </div>;
}

window.draw = ({ dashboard, series, from, to }) => {
  const range = { from: dateTime(from), to: dateTime(to), raw: { from: dateTime(from), to: dateTime(to) } };
  createRoot(document.getElementById("root")).render(
    <ThemeContext.Provider value={theme}>
      {dashboard.panels.map((panel) => <PanelView key={panel.id} panel={panel} series={series[panel.id]} range={range} />)}
    </ThemeContext.Provider>,
  );
};
