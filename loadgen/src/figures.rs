//! Rates as people read them, and times as they type them.

/// Thousands apart, no fraction, but for what is small: `1,234,567`, `12.5`.
pub fn rate(per_second: f64) -> String {
    if !per_second.is_finite() {
        return "-".to_owned();
    }
    if per_second.abs() < 100.0 {
        let text = format!("{per_second:.2}");
        return text.trim_end_matches('0').trim_end_matches('.').to_owned();
    }
    let digits = format!("{:.0}", per_second.abs());
    let mut text = if per_second < 0.0 { "-".to_owned() } else { String::new() };
    for (index, digit) in digits.chars().enumerate() {
        if 0 < index && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Microseconds of what was typed with its unit: `10ms`, `500us`, `1.5 s`.
pub fn parse_time(text: &str) -> Result<f64, String> {
    let why = || "a time with its unit is expected: 500us, 10ms or 1s".to_owned();
    let unit_at = text.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(why)?;
    let (number, unit) = text.split_at(unit_at);
    let number: f64 = number.trim().parse().map_err(|_| why())?;
    let us = number
        * match unit {
            "us" => 1.0,
            "ms" => 1e3,
            "s" => 1e6,
            _ => return Err(why()),
        };
    if (1.0..=3.6e9).contains(&us) { Ok(us) } else { Err("a time between 1us and 3600s is expected".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_readable() {
        for (value, text) in [(0.0, "0"), (12.5, "12.5"), (100.0, "100"), (999.6, "1,000"), (1_234_567.0, "1,234,567")]
        {
            assert_eq!(rate(value), text);
        }
        assert_eq!(rate(-1500.0), "-1,500");
        assert_eq!(rate(f64::NAN), "-");
    }

    #[test]
    fn times_are_typed_with_a_unit() {
        for (text, us) in [("500us", 500.0), ("10ms", 10_000.0), ("1.5 s", 1_500_000.0)] {
            assert_eq!(parse_time(text), Ok(us));
        }
        for text in ["", "10", "ms", "10 minutes", "-1ms", "0us", "NaNms", "2h"] {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }
}
