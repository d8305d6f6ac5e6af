//! What a run found: a table for people, JSON for machines, a plot for the documentation.

use crate::load::Load;
use anyhow::{Result, anyhow};
use plotters::prelude::*;
use serde::Serialize;
use std::fmt;
use std::path::Path;

/// Which side of the bar is the good one.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Bar {
    AtLeast(f64),
    Below(f64),
    None,
}

/// One figure.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    /// Compared with what, and how many times as much.
    pub(crate) ratio: Option<(String, f64)>,
    /// What the ratio, or the value where there is none, has to be.
    pub(crate) bar: Bar,
}

impl Row {
    pub(crate) fn new(name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { name: name.into(), value, unit, ratio: None, bar: Bar::None }
    }

    pub(crate) fn times(mut self, of: &str, base: f64) -> Self {
        self.ratio = Some((of.to_owned(), self.value / base));
        self
    }

    pub(crate) fn bar(mut self, bar: Bar) -> Self {
        self.bar = bar;
        self
    }

    fn reached(&self) -> Option<bool> {
        let figure = self.ratio.as_ref().map_or(self.value, |(_, ratio)| *ratio);
        match self.bar {
            Bar::AtLeast(least) => Some(figure >= least),
            Bar::Below(most) => Some(figure < most),
            Bar::None => None,
        }
    }
}

/// Where it was measured.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Machine {
    processor: String,
    cores: usize,
    memory_gb: u64,
    kernel: String,
    postgres: String,
}

impl Machine {
    pub(crate) fn this(postgres: String) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            line.split_once(':').map_or_else(String::new, |(_, value)| value.trim().to_owned())
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal");
        let kilobytes = memory.split_whitespace().next().and_then(|kb| kb.parse::<u64>().ok()).unwrap_or_default();
        Self {
            processor: field(&read("/proc/cpuinfo"), "model name"),
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            memory_gb: kilobytes / 1_048_576,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            postgres,
        }
    }
}

/// A line of a plot: its name, what it shows of a load, its colour.
type Series = (&'static str, fn(&Load) -> f64, RGBColor);

/// What a run found.
#[derive(Debug, Serialize)]
pub struct Report {
    pub(crate) machine: Machine,
    pub(crate) rows: Vec<Row>,
    /// Single requests as connections grow.
    pub(crate) loads: Vec<Load>,
    /// Commands of a backlog applied, and the process's memory in megabytes then.
    pub(crate) memory: Vec<(i64, u64)>,
}

impl Report {
    pub(crate) fn add(&mut self, row: Row) {
        crate::progress(&row.to_string());
        self.rows.push(row);
    }

    /// The bars that were not reached.
    #[must_use]
    pub fn missed(&self) -> Vec<String> {
        self.rows.iter().filter(|row| row.reached() == Some(false)).map(ToString::to_string).collect()
    }

    /// As JSON.
    pub fn json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)?)
    }

    /// Throughput and latency as load grows, as SVG.
    pub fn plot(&self, path: &Path) -> Result<()> {
        let failed = |error: &dyn fmt::Display| anyhow!("{}: {error}", path.display());
        let root = SVGBackend::new(path, (900, 340)).into_drawing_area();
        root.fill(&WHITE).map_err(|error| failed(&error))?;
        let (left, right) = root.split_horizontally(450);
        let latencies: [Series; 2] = [("p50, ms", |load| load.p50_ms, BLUE), ("p99, ms", |load| load.p99_ms, RED)];
        let rates: [Series; 1] = [("requests/s", |load| load.per_second, BLUE)];
        self.chart(&left, "requests a second", &rates).map_err(|error| failed(&error))?;
        self.chart(&right, "latency, milliseconds", &latencies).map_err(|error| failed(&error))?;
        root.present().map_err(|error| failed(&error))
    }

    fn chart<'a>(
        &self,
        area: &DrawingArea<SVGBackend<'a>, plotters::coord::Shift>,
        caption: &str,
        series: &[Series],
    ) -> Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>> {
        let most = series.iter().flat_map(|(_, value, _)| self.loads.iter().map(value)).fold(1.0, f64::max) * 1.1;
        let last = self.loads.iter().map(|load| load.connections).max().unwrap_or(1) as f64;
        let mut chart = ChartBuilder::on(area)
            .caption(caption, ("sans-serif", 16))
            .margin(12)
            .x_label_area_size(34)
            .y_label_area_size(56)
            .build_cartesian_2d((1.0..last).log_scale(), 0.0..most)?;
        chart.configure_mesh().x_desc("connections").light_line_style(WHITE).draw()?;
        for (name, value, colour) in series {
            let points: Vec<_> = self.loads.iter().map(|load| (load.connections as f64, value(load))).collect();
            let colour = *colour;
            chart
                .draw_series(LineSeries::new(points.clone(), colour.stroke_width(2)))?
                .label(*name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour));
            chart.draw_series(points.into_iter().map(|point| Circle::new(point, 3, colour.filled())))?;
        }
        chart.configure_series_labels().border_style(BLACK.mix(0.2)).background_style(WHITE).draw()?;
        Ok(())
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = if self.value < 100.0 { 2 } else { 0 };
        write!(f, "{:<58} {:>10.digits$} {:<11}", self.name, self.value, self.unit)?;
        if let Some((of, ratio)) = &self.ratio {
            write!(f, " {ratio:>6.2} × {of}")?;
        }
        match (self.bar, self.reached()) {
            (Bar::AtLeast(least), Some(reached)) => {
                write!(f, "  (at least {least}: {})", if reached { "reached" } else { "MISSED" })
            }
            (Bar::Below(most), Some(reached)) => {
                write!(f, "  (below {most}: {})", if reached { "reached" } else { "MISSED" })
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let machine = &self.machine;
        writeln!(
            f,
            "{}, {} cores, {} GB, Linux {}, PostgreSQL {}",
            machine.processor, machine.cores, machine.memory_gb, machine.kernel, machine.postgres
        )?;
        self.rows.iter().try_for_each(|row| writeln!(f, "{row}"))
    }
}
