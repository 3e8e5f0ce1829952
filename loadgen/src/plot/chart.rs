//! A chart as data, and how it is laid out: title, notes, one panel under the other, the legend.
//!
//! ```text
//! title
//! notes
//! ┌───────────┐
//! │ panel     │   one or two, each with its axes
//! └───────────┘
//! ── legend
//! ```

use crate::plot::axis::Axis;
use crate::plot::svg::{Anchor, FAINT, INK, Marker, Svg};

const WIDTH: f64 = 960.0;
const LEFT: f64 = 96.0;
/// Half of the last label lies beyond the frame.
const RIGHT: f64 = 44.0;
const NOTE_HEIGHT: f64 = 18.0;
const LEGEND_HEIGHT: f64 = 20.0;
/// Below a panel: its labels and its title.
const AXIS_HEIGHT: f64 = 52.0;
/// What fits into the width at the size of notes and legend; no font is asked.
pub const LINE_CHARS: usize = 130;

#[derive(Debug)]
pub struct Chart {
    pub title: String,
    pub notes: Vec<String>,
    pub panels: Vec<Panel>,
}

#[derive(Debug)]
pub struct Panel {
    pub x: Axis,
    pub y: Axis,
    pub series: Vec<Series>,
    pub marks: Vec<Mark>,
}

#[derive(Debug, Clone)]
pub struct Series {
    /// As in the legend, where neighbours of one name share an entry; a nameless one has none.
    pub name: String,
    pub colour: &'static str,
    pub dash: &'static str,
    /// What is no number interrupts the line.
    pub line: Vec<(f64, f64)>,
    pub markers: Vec<((f64, f64), Marker)>,
}

/// A line across the panel with a word beside it.
#[derive(Debug)]
pub enum Mark {
    Horizontal { y: f64, label: String },
    Vertical { x: f64, label: String, colour: &'static str },
}

impl Chart {
    pub fn to_svg(&self) -> String {
        let notes: Vec<String> = self.notes.iter().flat_map(|note| wrapped(note, LINE_CHARS)).collect();
        let panel_height = if self.panels.len() == 1 { 420.0 } else { 240.0 };
        let legend = self.legend();
        let top = 48.0 + notes.len() as f64 * NOTE_HEIGHT;
        let legend_lines: usize = legend.iter().map(|(_, lines)| lines.len()).sum();
        let height =
            top + self.panels.len() as f64 * (panel_height + AXIS_HEIGHT) + 12.0 + legend_lines as f64 * LEGEND_HEIGHT;
        let mut svg = Svg::new(WIDTH, height, &self.title);
        svg.title((LEFT, 28.0), &self.title);
        for (index, note) in notes.iter().enumerate() {
            svg.label((LEFT, 48.0 + index as f64 * NOTE_HEIGHT), Anchor::Start, 12.5, "#555555", note);
        }
        for (index, panel) in self.panels.iter().enumerate() {
            let from = (LEFT, top + index as f64 * (panel_height + AXIS_HEIGHT));
            Placed { panel, from, to: (WIDTH - RIGHT, from.1 + panel_height) }.draw(&mut svg);
        }
        let mut y = height - legend_lines as f64 * LEGEND_HEIGHT;
        for (series, lines) in &legend {
            svg.begin_group("legend", &series.name);
            svg.line((LEFT, y - 4.0), (LEFT + 34.0, y - 4.0), series.colour, 2.5, series.dash);
            for line in lines {
                svg.label((LEFT + 44.0, y), Anchor::Start, 13.0, INK, line);
                y += LEGEND_HEIGHT;
            }
            svg.end_group();
        }
        svg.finish()
    }

    fn legend(&self) -> Vec<(&Series, Vec<String>)> {
        let mut entries: Vec<(&Series, Vec<String>)> = Vec::new();
        for series in self.panels.iter().flat_map(|panel| &panel.series) {
            let is_known = entries.iter().any(|(other, _)| other.name == series.name);
            if !series.name.is_empty() && !is_known {
                entries.push((series, wrapped(&series.name, LINE_CHARS - 10)));
            }
        }
        entries
    }
}

/// A panel and the corners of its frame.
struct Placed<'a> {
    panel: &'a Panel,
    from: (f64, f64),
    to: (f64, f64),
}

impl Placed<'_> {
    fn x(&self, value: f64) -> f64 {
        self.from.0 + self.panel.x.share(value) * (self.to.0 - self.from.0)
    }

    fn y(&self, value: f64) -> f64 {
        self.to.1 - self.panel.y.share(value) * (self.to.1 - self.from.1)
    }

    fn draw(&self, svg: &mut Svg) {
        self.draw_axes(svg);
        for series in &self.panel.series {
            svg.begin_group("series", &series.name);
            for part in series.line.split(|(x, y)| !x.is_finite() || !y.is_finite()) {
                let places: Vec<(f64, f64)> = part.iter().map(|(x, y)| (self.x(*x), self.y(*y))).collect();
                match places[..] {
                    [] => {}
                    [place] if series.markers.is_empty() => svg.marker(place, series.colour, Marker::Filled),
                    _ => svg.polyline(&places, series.colour, series.dash),
                }
            }
            for ((x, y), marker) in &series.markers {
                svg.marker((self.x(*x), self.y(*y)), series.colour, *marker);
            }
            svg.end_group();
        }
        // One word below the other, so that neighbours stay readable.
        let mut word_y = self.from.1;
        for mark in &self.panel.marks {
            word_y += 18.0;
            self.draw_mark(svg, mark, word_y);
        }
    }

    fn draw_axes(&self, svg: &mut Svg) {
        let ((left, top), (right, bottom)) = (self.from, self.to);
        svg.begin_group("axes", "");
        for (value, label) in &self.panel.x.ticks {
            let x = self.x(*value);
            svg.line((x, top), (x, bottom), FAINT, 1.0, "");
            svg.label((x, bottom + 18.0), Anchor::Middle, 12.5, INK, label);
        }
        for (value, label) in &self.panel.y.ticks {
            let y = self.y(*value);
            svg.line((left, y), (right, y), FAINT, 1.0, "");
            svg.label((left - 8.0, y + 4.0), Anchor::End, 12.5, INK, label);
        }
        svg.frame(self.from, self.to);
        svg.label((f64::midpoint(left, right), bottom + 38.0), Anchor::Middle, 13.0, INK, &self.panel.x.title);
        svg.upright_label((22.0, f64::midpoint(top, bottom)), 13.0, &self.panel.y.title);
        svg.end_group();
    }

    fn draw_mark(&self, svg: &mut Svg, mark: &Mark, word_y: f64) {
        let ((left, top), (right, bottom)) = (self.from, self.to);
        match mark {
            Mark::Horizontal { y, label } => {
                let y = self.y(*y);
                svg.begin_group("mark", label);
                svg.line((left, y), (right, y), INK, 1.5, "2 4");
                svg.label((left + 8.0, y - 6.0), Anchor::Start, 12.5, INK, label);
            }
            Mark::Vertical { x, label, colour } => {
                let x = self.x(*x);
                let is_right = left + 0.6 * (right - left) < x;
                let (anchor, aside) = if is_right { (Anchor::End, -7.0) } else { (Anchor::Start, 7.0) };
                svg.begin_group("mark", label);
                svg.line((x, top), (x, bottom), colour, 1.5, "6 4");
                svg.label((x + aside, word_y), anchor, 12.5, INK, label);
            }
        }
        svg.end_group();
    }
}

/// Lines of at most so many characters, broken between words; a longer word stands alone, cut.
fn wrapped(text: &str, chars_max: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        let word: String = word.chars().take(chars_max).collect();
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= chars_max => {
                line.push(' ');
                line.push_str(&word);
            }
            _ => lines.push(word),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::wrapped;

    #[test]
    fn lines_break_between_words() {
        assert_eq!(wrapped("one two three", 7), ["one two", "three"]);
        assert_eq!(wrapped("abcdefghij k", 4), ["abcd", "k"]);
        assert!(wrapped("  ", 4).is_empty());
    }
}
