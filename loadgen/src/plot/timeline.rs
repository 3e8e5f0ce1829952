//! The rate and the latency of runs, second by second.

use crate::failure::Failure;
use crate::plot::axis::Axis;
use crate::plot::chart::{Chart, Panel, Series};
use crate::plot::svg::COLOURS;
use crate::plot::{Named, essentials};
use crate::result::RunResult;

const DOTTED: &str = "2 4";
const DASHED: &str = "7 5";

pub fn chart(files: &[Named<RunResult>]) -> Result<Chart, Failure> {
    let runs: Vec<&RunResult> = files.iter().flat_map(|file| &file.results).collect();
    let all: Vec<essentials::Parts> = runs.iter().map(|run| essentials::of_run(run)).collect();
    let (shared, own) = essentials::shared_and_own(&all);
    let mut own = own.into_iter();
    let is_alone = runs.len() == 1;
    let counts_events = runs.iter().any(|run| 0.0 < run.events_per_second);
    let unit = if counts_events { "events" } else { "requests" };
    let (mut rates, mut latencies) = (Vec::new(), Vec::new());
    for (file_index, file) in files.iter().enumerate() {
        let own_of_file: Vec<String> = own.by_ref().take(file.results.len()).collect();
        for (run_index, run) in file.results.iter().enumerate() {
            let series = &run.series;
            if series.request_rate.is_empty() {
                let place = file.place(run_index);
                return Err(Failure::Usage(format!("{place}: no seconds: the run was shorter than one")));
            }
            let name = file.label(run_index, &own_of_file, &essentials::flags(run));
            let colour = COLOURS[file_index % COLOURS.len()];
            let rate = if counts_events { &series.event_rate } else { &series.request_rate };
            let has_errors = series.error_rate.iter().any(|rate| 0.0 < *rate);
            if is_alone {
                rates.push(line(format!("{unit} per second{}", essentials::flags(run)), COLOURS[0], "", rate));
                latencies.push(line("slowest request".to_owned(), COLOURS[4], DOTTED, &positive(&series.max)));
                latencies.push(line("p99".to_owned(), COLOURS[1], "", &positive(&series.p99)));
                latencies.push(line("p50".to_owned(), COLOURS[2], DASHED, &positive(&series.p50)));
            } else {
                rates.push(line(name.clone(), colour, "", rate));
                latencies.push(line(name.clone(), colour, "", &positive(&series.p99)));
            }
            if has_errors {
                let (name, colour) = if is_alone {
                    ("errors per second".to_owned(), COLOURS[6])
                } else {
                    (format!("{name}: errors per second"), colour)
                };
                rates.push(line(name, colour, DOTTED, &series.error_rate));
            }
        }
    }
    let has_open = runs.iter().any(|run| run.loop_kind == "open");
    let which = if is_alone { "" } else { ", p99" };
    let what = if has_open { "response time" } else { "service time" };
    let ys =
        |series: &[Series]| series.iter().flat_map(|series| series.line.clone()).map(|(_, y)| y).collect::<Vec<_>>();
    let seconds = runs.iter().map(|run| run.series.request_rate.len()).max().unwrap_or(1);
    let x = |title: &str| Axis::from_zero(title, [seconds as f64 / 1.02]);
    let rate_axis = Axis::from_zero(&format!("{unit} per second"), ys(&rates));
    let latency_axis = Axis::latency(&format!("{what}{which}"), ys(&latencies));
    let panels = vec![
        Panel { x: x(""), y: rate_axis, series: rates, marks: Vec::new() },
        Panel { x: x("measured time, seconds"), y: latency_axis, series: latencies, marks: Vec::new() },
    ];
    Ok(Chart { title: "Rate and latency over time".to_owned(), notes: essentials::lines(&shared), panels })
}

/// Each value in the middle of its second.
fn line(name: String, colour: &'static str, dash: &'static str, values: &[f64]) -> Series {
    let line = values.iter().enumerate().map(|(second, value)| (second as f64 + 0.5, *value));
    Series { name, colour, dash, line: line.collect(), markers: Vec::new() }
}

/// A second without an answer has no latency: the line is interrupted there.
fn positive(values: &[f64]) -> Vec<f64> {
    values.iter().map(|value| if 0.0 < *value { *value } else { f64::NAN }).collect()
}
