//! The percentile curve: how slow are the slow ones. Each nine has the same width.

use crate::failure::Failure;
use crate::kept;
use crate::plot::axis::Axis;
use crate::plot::chart::{Chart, Panel, Series};
use crate::plot::svg::COLOURS;
use crate::plot::{Named, essentials};
use crate::result::RunResult;
use hdrhistogram::Histogram;

/// Points per nine.
const RESOLUTION: i32 = 40;
const DASHED: &str = "7 5";

pub fn chart(files: &[Named<RunResult>]) -> Result<Chart, Failure> {
    let all: Vec<essentials::Parts> =
        files.iter().flat_map(|file| file.results.iter().map(essentials::of_run)).collect();
    let (shared, own) = essentials::shared_and_own(&all);
    let is_alone = all.len() == 1;
    let mut series = Vec::new();
    let mut own = own.into_iter();
    for (file_index, file) in files.iter().enumerate() {
        let own_of_file: Vec<String> = own.by_ref().take(file.results.len()).collect();
        for (run_index, run) in file.results.iter().enumerate() {
            let name = file.label(run_index, &own_of_file, &essentials::flags(run));
            let at = || file.place(run_index);
            let mut curve = |name: String, colour_index: usize, dash: &'static str, text: &str| {
                let histogram = kept::histogram(text).map_err(|why| Failure::Usage(format!("{}: {why}", at())))?;
                let colour = COLOURS[colour_index % COLOURS.len()];
                series.push(Series { name, colour, dash, line: points(&histogram), markers: Vec::new() });
                Ok(())
            };
            match (&run.response_histogram, is_alone) {
                (Some(response), true) => {
                    curve(format!("response time, from the intended send{}", essentials::flags(run)), 0, "", response)?;
                    curve("service time, from the actual send".to_owned(), 1, DASHED, &run.service_histogram)?;
                }
                (Some(response), false) => curve(name, file_index, "", response)?,
                (None, _) if run.loop_kind == "open" => {
                    return Err(Failure::Usage(format!("{}: no histogram of the response time", at())));
                }
                (None, _) => curve(name, file_index, DASHED, &run.service_histogram)?,
            }
        }
    }
    let x_max = series.iter().flat_map(|series| series.line.last()).map(|(x, _)| *x).fold(10.0, f64::max);
    let has = |kind: &str| files.iter().any(|file| file.results.iter().any(|run| run.loop_kind == kind));
    let what = match (has("open"), has("closed")) {
        (true, true) => "response time (open loop), service time (closed, dashed)",
        (false, _) => "service time",
        (true, false) if is_alone => "latency",
        (true, false) => "response time",
    };
    let y = Axis::latency(what, series.iter().flat_map(|series| series.line.iter().map(|(_, y)| *y)));
    let panel = Panel { x: Axis::percentiles(x_max), y, series, marks: Vec::new() };
    Ok(Chart { title: "Latency by percentile".to_owned(), notes: essentials::lines(&shared), panels: vec![panel] })
}

/// From the fastest to the slowest request: 1 / (1 - share of faster ones), and microseconds.
fn points(histogram: &Histogram<u64>) -> Vec<(f64, f64)> {
    let count = histogram.len() as f64;
    let us_at = |share: f64| histogram.value_at_quantile(share) as f64 / 1e3;
    let steps = 0..=(count.log10() * f64::from(RESOLUTION)).floor() as i32;
    let mut points: Vec<(f64, f64)> = steps
        .map(|step| 10f64.powf(f64::from(step) / f64::from(RESOLUTION)))
        .map(|x| (x, us_at(1.0 - 1.0 / x)))
        .collect();
    if points.last().is_none_or(|(x, _)| *x < count) {
        points.push((count, us_at(1.0)));
    }
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_never_falls_and_ends_at_the_slowest() {
        let mut histogram = Histogram::<u64>::new(3).unwrap();
        (1..=12_345u64).for_each(|value| histogram.record(value * 1000).unwrap());
        let points = points(&histogram);
        assert!(points.is_sorted_by(|one, other| one.0 < other.0 && one.1 <= other.1));
        assert_eq!((points[0].0, points.last().unwrap().0), (1.0, 12_345.0));
        let at_90 = points.iter().find(|(x, _)| (*x - 10.0).abs() < 1e-6).unwrap().1;
        assert!((at_90 / 11_110.0 - 1.0).abs() < 0.002, "{at_90}");
        assert!((points.last().unwrap().1 / 12_345.0 - 1.0).abs() < 0.002);
    }

    #[test]
    fn a_single_request_is_one_point() {
        let mut histogram = Histogram::<u64>::new(3).unwrap();
        histogram.record(5000).unwrap();
        assert_eq!(points(&histogram).len(), 1);
    }
}
