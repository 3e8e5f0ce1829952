//! Latency against the rate, as a sweep found it: where it bends, and how far below the bound it is before.

use crate::figures::rate;
use crate::plot::axis::Axis;
use crate::plot::chart::{Chart, Mark, Panel, Series};
use crate::plot::svg::{COLOURS, INK, Marker};
use crate::plot::{Named, essentials};
use crate::report::time;
use crate::result::{SweepPoint, SweepResult};

type Figure = fn(&SweepPoint) -> f64;

const FIGURES: [(&str, &str, Figure); 3] = [
    ("p99.9", "2 4", |point| point.response_p999),
    ("p99", "", |point| point.response_p99),
    ("p50", "8 5", |point| point.response_p50),
];

pub fn chart(files: &[Named<SweepResult>]) -> Chart {
    let all: Vec<(&SweepResult, String)> = files
        .iter()
        .flat_map(|file| file.results.iter().enumerate().map(|(index, sweep)| (sweep, file.label(index, &[], ""))))
        .collect();
    let parts: Vec<essentials::Parts> = all.iter().map(|(sweep, _)| describe(sweep)).collect();
    let (shared, own) = essentials::shared_and_own(&parts);
    let mut series = Vec::new();
    let mut marks: Vec<Mark> = Vec::new();
    let mut bounds: Vec<f64> = Vec::new();
    for (index, (sweep, label)) in all.iter().enumerate() {
        let is_alone = all.len() == 1;
        for (figure_index, (figure, dash, of)) in FIGURES.iter().enumerate() {
            let (name, colour_index) = match (is_alone, own[index].is_empty()) {
                (true, _) => (format!("response time {figure}"), [1, 0, 2][figure_index]),
                (false, true) => (format!("{label}: {figure}"), index),
                (false, false) => (format!("{label}: {figure} ({})", own[index]), index),
            };
            series.push(line(sweep, name, COLOURS[colour_index % COLOURS.len()], dash, *of));
        }
        if let Some(knee) = sweep.knee_per_second {
            let word = if sweep.knee_found { "knee" } else { "no knee, at least" };
            let of_whom = if is_alone { String::new() } else { format!("{label}: ") };
            let colour = if is_alone { INK } else { COLOURS[index % COLOURS.len()] };
            marks.push(Mark::Vertical { x: knee, label: format!("{of_whom}{word} {}/s", rate(knee)), colour });
        }
        if !bounds.contains(&sweep.p99_us_max) {
            bounds.push(sweep.p99_us_max);
            let label = format!("bound of p99: {}", time(sweep.p99_us_max));
            marks.push(Mark::Horizontal { y: sweep.p99_us_max, label });
        }
    }
    let mut units: Vec<&str> = all.iter().map(|(sweep, _)| sweep.rates_of.as_str()).collect();
    units.dedup();
    let rates = all.iter().flat_map(|(sweep, _)| sweep.points.iter().map(|point| point.offered));
    let values = series.iter().flat_map(|series: &Series| series.markers.iter().map(|((_, y), _)| *y)).chain(bounds);
    let y = Axis::latency("response time, from the intended send", values);
    let panel =
        Panel { x: Axis::rates(&format!("offered rate, {} per second", units.join(" or ")), rates), y, series, marks };
    let markers = "Filled: good. Hollow: too slow, behind or with errors. Cross: bound by the loader.".to_owned();
    let mut notes = essentials::lines(&shared);
    notes.extend(all.iter().filter(|(sweep, _)| !sweep.knee_found).map(|(sweep, label)| {
        if all.len() == 1 { sweep.ended_by.clone() } else { format!("{label}: {}", sweep.ended_by) }
    }));
    notes.push(markers);
    Chart { title: "Latency by rate (open loop)".to_owned(), notes, panels: vec![panel] }
}

fn describe(sweep: &SweepResult) -> essentials::Parts {
    match &sweep.half {
        Some(half) => essentials::of_sweep_half(half),
        None => vec![sweep.command.clone()],
    }
}

/// The line joins the medians of the measurements at one rate; each measurement is a marker.
fn line(sweep: &SweepResult, name: String, colour: &'static str, dash: &'static str, of: Figure) -> Series {
    let mut measured: Vec<(f64, f64)> = sweep.points.iter().map(|point| (point.offered, of(point))).collect();
    measured.sort_by(|one, other| one.0.total_cmp(&other.0).then(one.1.total_cmp(&other.1)));
    let medians = measured.chunk_by(|one, other| one.0 == other.0).map(|same| same[same.len() / 2]);
    let markers = sweep.points.iter().map(|point| {
        let marker = match point.verdict.as_str() {
            "good" => Marker::Filled,
            "bound by the loader" => Marker::Cross,
            _ => Marker::Hollow,
        };
        ((point.offered, of(point)), marker)
    });
    Series { name, colour, dash, line: medians.collect(), markers: markers.collect() }
}
