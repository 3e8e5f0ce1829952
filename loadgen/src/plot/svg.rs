//! The few shapes of SVG that a chart needs, as text. Whatever comes from a file is escaped here and nowhere else.

use std::fmt::Write;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Anchor {
    Start,
    Middle,
    End,
}

impl Anchor {
    fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Middle => "middle",
            Self::End => "end",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marker {
    Filled,
    Hollow,
    Cross,
}

#[derive(Debug)]
pub struct Svg {
    text: String,
}

/// Colours that people with any kind of colour vision can tell apart (Okabe and Ito, 2008), the best to read on white
/// first.
pub const COLOURS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"];
pub const INK: &str = "#222222";
pub const FAINT: &str = "#dddddd";

impl Svg {
    pub fn new(width: f64, height: f64, title: &str) -> Self {
        let mut svg = Self { text: String::new() };
        svg.write(format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
             height=\"{height}\" font-family=\"Helvetica, Arial, sans-serif\">\n<title>{}</title>\n\
             <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n",
            escaped(title)
        ));
        svg
    }

    pub fn finish(mut self) -> String {
        self.text.push_str("</svg>\n");
        self.text
    }

    /// Everything until the next `end_group` is one thing with a name, for scripts and style sheets.
    pub fn begin_group(&mut self, class: &str, name: &str) {
        self.write(format_args!("<g class=\"{}\" data-name=\"{}\">\n", escaped(class), escaped(name)));
    }

    pub fn end_group(&mut self) {
        self.text.push_str("</g>\n");
    }

    pub fn label(&mut self, at: (f64, f64), anchor: Anchor, size: f64, colour: &str, text: &str) {
        self.write(format_args!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{}\" font-size=\"{size}\" fill=\"{colour}\">{}</text>\n",
            at.0,
            at.1,
            anchor.name(),
            escaped(text)
        ));
    }

    pub fn title(&mut self, at: (f64, f64), text: &str) {
        self.write(format_args!(
            "<text x=\"{:.1}\" y=\"{:.1}\" font-size=\"17\" font-weight=\"bold\" fill=\"{INK}\">{}</text>\n",
            at.0,
            at.1,
            escaped(text)
        ));
    }

    /// Reads from the bottom to the top.
    pub fn upright_label(&mut self, at: (f64, f64), size: f64, text: &str) {
        self.write(format_args!(
            "<text x=\"{0:.1}\" y=\"{1:.1}\" text-anchor=\"middle\" font-size=\"{size}\" fill=\"{INK}\" \
             transform=\"rotate(-90 {0:.1} {1:.1})\">{2}</text>\n",
            at.0,
            at.1,
            escaped(text)
        ));
    }

    pub fn line(&mut self, from: (f64, f64), to: (f64, f64), colour: &str, width: f64, dash: &str) {
        self.write(format_args!(
            "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\" stroke-width=\"{width}\"{}/>\n",
            from.0,
            from.1,
            to.0,
            to.1,
            dash_attribute(dash)
        ));
    }

    pub fn frame(&mut self, from: (f64, f64), to: (f64, f64)) {
        self.write(format_args!(
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"none\" stroke=\"#888888\"/>\n",
            from.0,
            from.1,
            to.0 - from.0,
            to.1 - from.1
        ));
    }

    pub fn polyline(&mut self, points: &[(f64, f64)], colour: &str, dash: &str) {
        let mut places = String::new();
        for (x, y) in points {
            // Writing to a string cannot fail.
            let _ = write!(places, "{}{x:.1},{y:.1}", if places.is_empty() { "" } else { " " });
        }
        self.write(format_args!(
            "<polyline points=\"{places}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" \
             stroke-linejoin=\"round\"{}/>\n",
            dash_attribute(dash)
        ));
    }

    pub fn marker(&mut self, (x, y): (f64, f64), colour: &str, marker: Marker) {
        let fill = match marker {
            Marker::Filled => colour,
            Marker::Hollow => "#ffffff",
            Marker::Cross => {
                self.line((x - 4.0, y - 4.0), (x + 4.0, y + 4.0), colour, 2.0, "");
                self.line((x - 4.0, y + 4.0), (x + 4.0, y - 4.0), colour, 2.0, "");
                return;
            }
        };
        self.write(format_args!(
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{fill}\" stroke=\"{colour}\" stroke-width=\"2\"/>\n"
        ));
    }

    fn write(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = self.text.write_fmt(text);
    }
}

fn dash_attribute(dash: &str) -> String {
    if dash.is_empty() { String::new() } else { format!(" stroke-dasharray=\"{dash}\"") }
}

/// As text or attribute of XML; characters that XML does not have become a question mark.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\t' | '\n' | '\r' => safe.push(' '),
            '\u{0}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => safe.push('?'),
            _ => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_from_outside_becomes_markup() {
        assert_eq!(escaped("a<b>&\"c\"\u{7}\n"), "a&lt;b&gt;&amp;&quot;c&quot;? ");
        let mut svg = Svg::new(10.0, 10.0, "<script>");
        svg.begin_group("series", "\"><script>");
        svg.label((1.0, 2.0), Anchor::End, 12.0, INK, "</text><script>");
        svg.end_group();
        let text = svg.finish();
        assert!(!text.contains("<script>"), "{text}");
        assert!(text.contains("&lt;/text&gt;&lt;script&gt;</text>"), "{text}");
    }
}
