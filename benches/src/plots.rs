//! The plots of the report, one a question, as SVG.

use crate::document::published;
use crate::error::Error;
use crate::median::Repeated;
use crate::peers;
use crate::report::{Row, thousands};
use plotters::coord::Shift;
use plotters::prelude::*;
use std::path::Path;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

const WIDTH: u32 = 960;
const OURS: RGBColor = RGBColor(31, 119, 180);
const THEIRS: RGBColor = RGBColor(190, 190, 190);
const FONT: &str = "sans-serif";
/// Height of one row of bars.
const BAR_STEP: i32 = 26;
/// Where bars begin, right of their names.
const BARS_AT: i32 = 330;
/// The longest bar; its figure stands right of it.
const BARS_WIDTH: i32 = WIDTH as i32 - BARS_AT - 110;

/// A drawn plot.
#[derive(Clone, Debug)]
pub struct Plot {
    /// What it answers.
    pub question: &'static str,
    /// Its file beside the page.
    pub file: &'static str,
}

/// Draws every plot that `rows` have something to show in.
pub fn draw(rows: &[Repeated], out: &Path) -> Result<Vec<Plot>, Error> {
    let valid: Vec<&Row> = rows
        .iter()
        .map(|repeated| &repeated.row)
        .filter(|row| row.invalid.is_none() && !peers::is_peers_row(row))
        .collect();
    let mut plots = Vec::new();
    let mut add =
        |question, file: &'static str, height, rows: &[&Row], draw: fn(&Area, &[&Row]) -> Drawn| {
            if rows.is_empty() {
                return Ok::<(), Error>(());
            }
            let path = out.join(file);
            let area = SVGBackend::new(&path, (WIDTH, height)).into_drawing_area();
            let drawn =
                area.fill(&WHITE).and_then(|()| draw(&area, rows)).and_then(|()| area.present());
            drawn.map_err(|error| {
                Error::Cluster(format!("cannot draw {}: {error}", path.display()))
            })?;
            plots.push(Plot { question, file });
            Ok(())
        };
    let height = |rows: &[&Row]| (rows.len() as i32 * BAR_STEP + 60) as u32;
    let open = pick(&valid, |row| row.sent.offered_rate.is_some());
    let beside = pick(&valid, |row| published(row).is_some());
    add(
        "Beside the published figures",
        "throughput-published.svg",
        height(&beside),
        &beside,
        bars,
    )?;
    // One operation at a time is a latency, an open loop's rate was chosen.
    let others = pick(&valid, |row| {
        published(row).is_none() && row.sent.offered_rate.is_none() && row.sent.in_flight > 1
    });
    add("Throughput of other rows", "throughput-by-row.svg", height(&others), &others, log_bars)?;
    add("Latency against offered rate", "latency-by-rate.svg", 420, &open, latency_by_rate)?;
    let groups = pick(&valid, |row| row.name.starts_with("groups-"));
    add(
        "Throughput against number of groups",
        "throughput-by-groups.svg",
        420,
        &groups,
        by_groups,
    )?;
    Ok(plots)
}

fn pick<'a>(rows: &[&'a Row], which: impl Fn(&Row) -> bool) -> Vec<&'a Row> {
    rows.iter().copied().filter(|row| which(row)).collect()
}

fn text(size: i32) -> TextStyle<'static> {
    (FONT, size).into_font().color(&BLACK)
}

/// A bar a row, ours in colour, the published figure in grey below it.
fn bars(area: &Area, rows: &[&Row]) -> Drawn {
    let most = rows
        .iter()
        .map(|row| published(row).map_or(0.0, |p| p.ops_per_s as f64).max(row.ops_per_s))
        .fold(1.0, f64::max);
    let scale = f64::from(BARS_WIDTH) / most;
    area.draw(&Text::new("operations a second, this machine", (BARS_AT, 12), text(14)))?;
    let published_text = "published, 48 server cores";
    area.draw(&Rectangle::new([(BARS_AT + 250, 14), (BARS_AT + 264, 24)], THEIRS.filled()))?;
    area.draw(&Text::new(published_text, (BARS_AT + 270, 12), text(14)))?;
    for (number, row) in rows.iter().enumerate() {
        bar(area, number, row, (row.ops_per_s * scale) as i32)?;
        if let Some(published) = published(row) {
            let top = bar_top(number) + 14;
            let end = BARS_AT + (published.ops_per_s as f64 * scale) as i32;
            area.draw(&Rectangle::new([(BARS_AT, top), (end, top + 6)], THEIRS.filled()))?;
            let label = Text::new(published.text, (end + 6, top - 2), text(10));
            area.draw(&label)?;
        }
    }
    Ok(())
}

/// A bar a row over powers of ten.
fn log_bars(area: &Area, rows: &[&Row]) -> Drawn {
    let rates = || rows.iter().map(|row| row.ops_per_s.max(1.0).log10());
    let first = rates().fold(f64::MAX, f64::min).floor();
    let last = rates().fold(first + 1.0, f64::max).ceil();
    let at = |log: f64| (f64::from(BARS_WIDTH) * (log - first) / (last - first)) as i32;
    let bottom = bar_top(rows.len());
    for power in first as i32..=last as i32 {
        let x = BARS_AT + at(f64::from(power));
        area.draw(&PathElement::new([(x, 30), (x, bottom)], THEIRS.stroke_width(1)))?;
        area.draw(&Text::new(thousands(10_u64.pow(power as u32)), (x - 10, 12), text(13)))?;
    }
    for (number, row) in rows.iter().enumerate() {
        bar(area, number, row, at(row.ops_per_s.max(1.0).log10()))?;
    }
    area.draw(&Text::new("operations a second, log scale", (8, 12), text(14)))
}

fn bar_top(number: usize) -> i32 {
    36 + number as i32 * BAR_STEP
}

/// The name, the bar and the figure of a row.
fn bar(area: &Area, number: usize, row: &Row, width: i32) -> Drawn {
    let (top, end) = (bar_top(number), BARS_AT + width);
    let name = format!("{}, {}, {}", row.name, row.sent.keys, row.storage());
    area.draw(&Text::new(name, (8, top + 3), text(13)))?;
    area.draw(&Rectangle::new([(BARS_AT, top), (end, top + 13)], OURS.filled()))?;
    area.draw(&Text::new(thousands(row.ops_per_s as u64), (end + 6, top), text(13)))
}

fn latency_by_rate(area: &Area, rows: &[&Row]) -> Drawn {
    let mut rows = rows.to_vec();
    rows.sort_by_key(|row| row.sent.offered_rate.map(|rate| rate as u64));
    let rate = |row: &Row| row.sent.offered_rate.unwrap_or(0.0) / 1e3;
    let ms = |us: u64| us as f64 / 1e3;
    let right = rows.iter().map(|row| rate(row)).fold(1.0, f64::max) * 1.05;
    let top = rows.iter().map(|row| ms(row.latency.p999_us)).fold(1.0, f64::max) * 1.3;
    let bottom = rows.iter().map(|row| ms(row.latency.p50_us)).fold(top, f64::min).max(0.01) / 1.3;
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..right, (bottom..top).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("offered, thousand operations a second")
        .y_desc("latency from the intended start, ms")
        .label_style(text(13))
        .draw()?;
    type Percentile = (&'static str, fn(&Row) -> u64, RGBColor);
    let lines: [Percentile; 3] = [
        ("p50", |row| row.latency.p50_us, RGBColor(44, 160, 44)),
        ("p99", |row| row.latency.p99_us, OURS),
        ("p99.9", |row| row.latency.p999_us, RGBColor(214, 39, 40)),
    ];
    for (label, of, color) in lines {
        let point = |row: &&Row| (rate(row), ms(of(row)));
        // Shares of one maximum are one curve; those of another run are not on it.
        for rows in by_maximum(&rows) {
            chart.draw_series(line(rows.iter().map(point), color))?;
        }
        chart
            .draw_series(rows.iter().map(point).map(|at| Circle::new(at, 4, color.filled())))?
            .label(label)
            .legend(move |at| Circle::new(at, 4, color.filled()));
    }
    let mut labels = chart.configure_series_labels();
    labels.position(SeriesLabelPosition::UpperLeft).label_font(text(13));
    labels.background_style(WHITE.mix(0.8)).border_style(BLACK).draw()
}

/// Rows that took their rates from the same maximum.
fn by_maximum<'a>(rows: &[&'a Row]) -> Vec<Vec<&'a Row>> {
    // Rates are kept with one decimal.
    let maximum = |row: &Row| row.sent.maximum().map(|rate| (rate / 10.0).round() as u64);
    let mut curves: Vec<Vec<&Row>> = Vec::new();
    for row in rows {
        let of_row = maximum(row);
        match curves.iter_mut().find(|rows| of_row.is_some() && maximum(rows[0]) == of_row) {
            Some(rows) => rows.push(row),
            None => curves.push(vec![row]),
        }
    }
    curves
}

/// A line through points; a single one has none.
fn line<'a>(
    points: impl Iterator<Item = (f64, f64)>,
    color: RGBColor,
) -> LineSeries<SVGBackend<'a>, (f64, f64)> {
    let points: Vec<(f64, f64)> = points.collect();
    let joined = if points.len() > 1 { points } else { Vec::new() };
    LineSeries::new(joined, color.stroke_width(2))
}

fn by_groups(area: &Area, rows: &[&Row]) -> Drawn {
    let mut rows = rows.to_vec();
    rows.sort_by_key(|row| row.setup.regions);
    let points: Vec<(f64, f64)> =
        rows.iter().map(|row| (row.setup.regions as f64, row.ops_per_s / 1e3)).collect();
    let top = points.iter().map(|(_, rate)| *rate).fold(1.0, f64::max) * 1.15;
    let right = points.iter().map(|(groups, _)| *groups).fold(10.0, f64::max) * 1.5;
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d((0.8..right).log_scale(), 0.0..top)?;
    chart
        .configure_mesh()
        .x_desc("groups, all active")
        .y_desc("thousand operations a second")
        .label_style(text(13))
        .draw()?;
    chart.draw_series(line(points.iter().copied(), OURS))?;
    chart.draw_series(points.iter().map(|at| Circle::new(*at, 4, OURS.filled())))?;
    let label = |at: &(f64, f64)| Text::new(format!("{:.0}: {:.0} k", at.0, at.1), *at, text(13));
    chart.draw_series(points.iter().map(label))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::median::row;

    fn open(rate: f64, percent: Option<u32>) -> Row {
        let mut row = row("open", rate, false);
        (row.sent.offered_rate, row.sent.offered_percent) = (Some(rate), percent);
        row.sent.in_flight = 512;
        row
    }

    #[test]
    fn only_shares_of_one_maximum_are_one_curve() {
        let rows = [
            open(250.1, Some(25)),
            open(500.2, Some(50)),
            open(900.0, Some(50)),
            open(1.0, None),
            open(2.0, None),
        ];
        let rows: Vec<&Row> = rows.iter().collect();
        let curves: Vec<usize> = by_maximum(&rows).iter().map(Vec::len).collect();
        assert_eq!(curves, [2, 1, 1, 1]);
    }

    #[test]
    fn every_plot_is_drawn_of_rows_that_belong_there() {
        let dir = tempfile::tempdir().unwrap();
        let mut rows =
            vec![row("batched-memory", 400_000.0, false), row("value-16", 90_000.0, false)];
        rows[1].sent.in_flight = 512;
        rows.push(row("groups-24", 10.0, false));
        rows.push(open(250.1, Some(25)));
        draw(&crate::median::of(&rows), dir.path()).unwrap();
        let svg = |file: &str| std::fs::read_to_string(dir.path().join(file)).unwrap();
        let (beside, others) = (svg("throughput-published.svg"), svg("throughput-by-row.svg"));
        assert!(beside.contains("batched-memory") && !beside.contains("value-16"));
        assert!(others.contains("value-16") && !others.contains("batched-memory"));
        assert!(!others.contains("open"), "an open loop is no throughput");
        // The axes are such lines, too.
        let ours = format!("stroke=\"#{:02X}{:02X}{:02X}\"", OURS.0, OURS.1, OURS.2);
        let groups = svg("throughput-by-groups.svg");
        let drawn = groups.lines().filter(|line| line.contains("<polyline"));
        let joined = drawn.filter(|line| line.contains(&ours) && !line.contains("points=\"\""));
        assert_eq!(joined.count(), 0, "one point has no line");
    }
}
