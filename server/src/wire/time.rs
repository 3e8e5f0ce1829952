//! Moments on the wire: RFC 3339 text and whole numbers, against microseconds since the Unix epoch.
//!
//! Owns both directions. Must never: read a clock, or know a time zone other than an offset that was sent.
//! What goes out has always the same 27 bytes; what comes in may be written in every way the RFC allows.
//!
//! ```text
//! 2026-10-27T10:00:00.123456Z     out
//! 2026-10-27t12:00:00.1+02:00     in, 0 to 9 digits of a second, of which 6 count; a space may stand for the plus
//! 1792922400123                   in, milliseconds, or microseconds from 100,000,000,000,000 on
//! ```

use std::fmt;

use ringlog_engine::ids::Micros;

/// Length of a moment as it goes out.
pub const MOMENT_BYTES: usize = 27;

/// 0000-01-01T00:00:00Z and the last microsecond of the year 9999: what four digits of a year can say.
pub const MOMENT_MIN: Micros = Micros(-62_167_219_200_000_000);
pub const MOMENT_MAX: Micros = Micros(253_402_300_799_999_999);

/// Whole numbers below are milliseconds (up to the year 5138), others microseconds (from March 1973 on).
pub const MICROS_FROM: i64 = 100_000_000_000_000;

const DAY_US: i64 = 86_400_000_000;
/// Days from 0000-03-01 to 1970-01-01.
const EPOCH_DAYS: i64 = 719_468;
/// Days of 400 years, after which the calendar repeats itself.
const ERA_DAYS: i64 = 146_097;

/// Why text is no moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeError {
    /// Neither of the forms, from this byte on.
    Form { at: usize },
    /// A month, day, hour, minute, second or offset that does not exist, at this byte.
    Field { at: usize },
    /// No `Z` and no offset.
    NoOffset,
    /// Before the year 0 or after the year 9999.
    Range,
}

impl fmt::Display for TimeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TimeError::Form { at } => {
                write!(f, "expected a time such as 2026-10-27T10:00:00Z or 1792922400000, wrong at byte {at}")
            }
            TimeError::Field { at } => write!(f, "no such date or time, wrong at byte {at}"),
            TimeError::NoOffset => f.write_str("the time has no offset; end it with Z or +02:00"),
            TimeError::Range => f.write_str("the time is outside of the years 0 to 9999"),
        }
    }
}

impl std::error::Error for TimeError {}

/// The moment in UTC with six digits of a second. What the year's four digits cannot say becomes the nearest that they can.
#[inline]
pub fn format_moment(moment: Micros) -> [u8; MOMENT_BYTES] {
    // From the year 0 on, so that nothing is negative.
    let micros = (moment.clamp(MOMENT_MIN, MOMENT_MAX).0 - MOMENT_MIN.0) as u64;
    let days = micros / DAY_US as u64;
    let in_day = micros - days * DAY_US as u64;
    let (year, month, day) = civil_from_days(days as u32);
    let seconds = (in_day / 1_000_000) as u32;
    let fraction = (in_day % 1_000_000) as u32;
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let century = year / 100;
    let date = two_digits([century, year - century * 100, month, day]);
    let time = two_digits([hours, minutes - hours * 60, seconds - minutes * 60, 0]);
    let fraction = two_digits([fraction / 10_000, fraction / 100 % 100, fraction % 100, 0]);
    // Whole words, so that whoever copies the text does not wait for many small stores.
    let first = (date & 0xffff_ffff) | (((date >> 32) & 0xffff) << 40) | lane(b'-', 4) | lane(b'-', 7);
    let second =
        (date >> 48) | ((time & 0xffff) << 24) | (((time >> 16) & 0xffff) << 48) | lane(b'T', 2) | lane(b':', 5);
    let third = (((time >> 32) & 0xffff) << 8) | (fraction << 32) | lane(b':', 0) | lane(b'.', 3);
    let last = ((fraction >> 32) & 0xffff) | lane(b'Z', 2);
    let mut out = [0; MOMENT_BYTES];
    out[0..8].copy_from_slice(&first.to_le_bytes());
    out[8..16].copy_from_slice(&second.to_le_bytes());
    out[16..24].copy_from_slice(&third.to_le_bytes());
    out[24..27].copy_from_slice(&last.to_le_bytes()[..3]);
    out
}

/// A byte at a place of a word.
const fn lane(byte: u8, place: u32) -> u64 {
    (byte as u64) << (8 * place)
}

/// Reads RFC 3339 with any offset, or a whole number of milliseconds or microseconds. Digits below the microsecond are
/// dropped. A leap second (`:60`) is read as the second before it, since the epoch does not count it.
pub fn parse_moment(text: &str) -> Result<Micros, TimeError> {
    let bytes = text.as_bytes();
    let digits = bytes.strip_prefix(b"-").unwrap_or(bytes);
    if !digits.is_empty() && digits.iter().all(u8::is_ascii_digit) {
        return parse_number(text);
    }
    parse_rfc3339(bytes, NoOffset::Refused)
}

/// RFC 3339 alone, for senders that leave the offset out and mean UTC: `2026-10-27T10:00:00.123`.
pub fn parse_moment_or_utc(text: &str) -> Result<Micros, TimeError> {
    parse_rfc3339(text.as_bytes(), NoOffset::Utc)
}

/// What a time without an offset is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum NoOffset {
    Refused,
    Utc,
}

fn parse_rfc3339(bytes: &[u8], no_offset: NoOffset) -> Result<Micros, TimeError> {
    let year = number(bytes, 0, 4)?;
    literal(bytes, 4, b"-")?;
    let month = bounded(bytes, 5, 1, 12)?;
    literal(bytes, 7, b"-")?;
    let day = bounded(bytes, 8, 1, days_of_month(year, month))?;
    literal(bytes, 10, b"Tt ")?;
    let hour = bounded(bytes, 11, 0, 23)?;
    literal(bytes, 13, b":")?;
    let minute = bounded(bytes, 14, 0, 59)?;
    literal(bytes, 16, b":")?;
    let second = bounded(bytes, 17, 0, 60)?;
    let mut at = 19;
    let mut fraction = 0;
    if bytes.get(at) == Some(&b'.') {
        at += 1;
        let count = bytes[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        if count == 0 || count > 9 {
            return Err(TimeError::Form { at: at + count.min(9) });
        }
        for place in 0..6 {
            fraction = fraction * 10 + if place < count { i64::from(bytes[at + place] - b'0') } else { 0 };
        }
        at += count;
    }
    let offset_minutes = match bytes.get(at) {
        None if no_offset == NoOffset::Utc => 0,
        None => return Err(TimeError::NoOffset),
        Some(b'Z' | b'z') => {
            at += 1;
            0
        }
        // A plus in a query string that was not encoded arrives as a space.
        Some(sign @ (b'+' | b'-' | b' ')) => {
            let hours = bounded(bytes, at + 1, 0, 23)?;
            literal(bytes, at + 3, b":")?;
            let minutes = hours * 60 + bounded(bytes, at + 4, 0, 59)?;
            at += 6;
            if *sign == b'-' { -minutes } else { minutes }
        }
        Some(_) => return Err(TimeError::Form { at }),
    };
    if at < bytes.len() {
        return Err(TimeError::Form { at });
    }
    Civil { year, month, day, hour, minute, second, fraction_us: fraction }.at_offset(offset_minutes)
}

/// A date and a time of day as a calendar and a clock show them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Civil {
    pub year: i64,
    pub month: i64,
    pub day: i64,
    pub hour: i64,
    pub minute: i64,
    /// 60 is a leap second, and read as the second before it.
    pub second: i64,
    pub fraction_us: i64,
}

impl Civil {
    /// Whether the calendar has such a day and the clock such a time.
    pub fn exists(&self) -> bool {
        (1..=12).contains(&self.month)
            && (1..=days_of_month(self.year, self.month)).contains(&self.day)
            && (0..24).contains(&self.hour)
            && (0..60).contains(&self.minute)
            && (0..=60).contains(&self.second)
            && (0..1_000_000).contains(&self.fraction_us)
    }

    /// The moment at which clocks that are so many minutes ahead of UTC show it. It must exist.
    pub fn at_offset(&self, minutes: i64) -> Result<Micros, TimeError> {
        let days = days_from_civil(self.year, self.month, self.day);
        let minutes = self.hour * 60 + self.minute - minutes;
        checked(days * DAY_US + (minutes * 60 + self.second.min(59)) * 1_000_000 + self.fraction_us)
    }
}

/// The year of a moment in UTC, 0 to 9999.
pub fn year_of(moment: Micros) -> i64 {
    let days = (moment.clamp(MOMENT_MIN, MOMENT_MAX).0 - MOMENT_MIN.0) / DAY_US;
    i64::from(civil_from_days(days as u32).0)
}

fn parse_number(text: &str) -> Result<Micros, TimeError> {
    let number: i64 = text.parse().map_err(|_| TimeError::Range)?;
    if number.unsigned_abs() < MICROS_FROM.unsigned_abs() { checked(number * 1000) } else { checked(number) }
}

fn checked(micros: i64) -> Result<Micros, TimeError> {
    let moment = Micros(micros);
    if (MOMENT_MIN..=MOMENT_MAX).contains(&moment) { Ok(moment) } else { Err(TimeError::Range) }
}

fn number(bytes: &[u8], at: usize, count: usize) -> Result<i64, TimeError> {
    let mut number = 0;
    for place in at..at + count {
        match bytes.get(place) {
            Some(digit @ b'0'..=b'9') => number = number * 10 + i64::from(digit - b'0'),
            _ => return Err(TimeError::Form { at: place }),
        }
    }
    Ok(number)
}

/// Two digits within bounds.
fn bounded(bytes: &[u8], at: usize, min: i64, max: i64) -> Result<i64, TimeError> {
    let number = number(bytes, at, 2)?;
    if (min..=max).contains(&number) { Ok(number) } else { Err(TimeError::Field { at }) }
}

fn literal(bytes: &[u8], at: usize, any_of: &[u8]) -> Result<(), TimeError> {
    match bytes.get(at) {
        Some(byte) if any_of.contains(byte) => Ok(()),
        _ => Err(TimeError::Form { at }),
    }
}

fn days_of_month(year: i64, month: i64) -> i64 {
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 => 28 + i64::from(is_leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01. Years begin in March here, so that the leap day is the last one.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * ERA_DAYS + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - EPOCH_DAYS
}

/// Year, month and day of a day since 0000-01-01: Neri and Schneider, "Euclidean affine functions and
/// their application to calendar algorithms" (2022).
#[inline]
fn civil_from_days(days: u32) -> (u32, u32, u32) {
    // Their years begin in March, 60 days later; one era more keeps January and February of the year 0 above zero.
    let shifted = days + ERA_DAYS as u32 - 60;
    let quarters = 4 * shifted + 3;
    let century = quarters / ERA_DAYS as u32;
    let day_of_century = quarters % ERA_DAYS as u32 / 4;
    let product = 2_939_745 * u64::from(4 * day_of_century + 3);
    let year_of_century = (product >> 32) as u32;
    let day_of_year = product as u32 / 2_939_745 / 4;
    let month_and_day = 2141 * day_of_year + 197_913;
    let month = month_and_day >> 16;
    let day = (month_and_day & 0xffff) / 2141 + 1;
    let is_next_year = day_of_year >= 306;
    let year = 100 * century + year_of_century + u32::from(is_next_year) - 400;
    (year, if is_next_year { month - 12 } else { month }, day)
}

/// Four numbers below 100 as two digits each, in four lanes of one word, the first in the lowest. 103 / 1024 is a tenth for all of them.
#[inline(always)]
fn two_digits(numbers: [u32; 4]) -> u64 {
    let [first, second, third, fourth] = numbers.map(u64::from);
    let lanes = first | second << 16 | third << 32 | fourth << 48;
    let tens = ((lanes * 103) >> 10) & 0x000f_000f_000f_000f;
    let ones = lanes - tens * 10;
    tens | (ones << 8) | 0x3030_3030_3030_3030
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;
    use std::time::Instant;

    use jiff::Timestamp;

    use super::*;

    fn text(micros: i64) -> String {
        String::from_utf8(format_moment(Micros(micros)).to_vec()).unwrap()
    }

    fn check(moment: &str, expected: Result<i64, TimeError>) {
        assert_eq!(parse_moment(moment).map(|found| found.0), expected, "{moment:?}");
    }

    /// Compares both directions with the oracle, which ends a day and some hours before the year 9999 does.
    fn compare(micros: i64) {
        if micros > Timestamp::MAX.as_microsecond() {
            check(&text(micros), Ok(micros));
            return;
        }
        let expected = format!("{:.6}", Timestamp::from_microsecond(micros).unwrap());
        assert_eq!(text(micros), expected);
        check(&expected, Ok(micros));
    }

    #[test]
    fn every_day_of_ten_thousand_years_is_what_the_oracle_says() {
        let first: Timestamp = "0001-01-01T00:00:00Z".parse().unwrap();
        let mut micros = first.as_microsecond();
        let mut seconds = 0;
        while micros <= MOMENT_MAX.0 {
            compare(micros + seconds % 86_400 * 1_000_000 + seconds * 7 % 1_000_000);
            micros += DAY_US;
            seconds += 12_347;
        }
    }

    #[test]
    fn borders_are_exact() {
        for micros in [0, -1, 1, 999_999, 1_000_000, -1_000_000, 951_782_400_000_000, 951_868_799_999_999, MOMENT_MAX.0]
        {
            compare(micros);
        }
        assert_eq!(text(MOMENT_MIN.0), "0000-01-01T00:00:00.000000Z");
        assert_eq!(text(MOMENT_MAX.0), "9999-12-31T23:59:59.999999Z");
        assert_eq!(text(i64::MIN), "0000-01-01T00:00:00.000000Z");
        assert_eq!(text(i64::MAX), "9999-12-31T23:59:59.999999Z");
        check("0000-01-01T00:00:00Z", Ok(MOMENT_MIN.0));
        check("0000-02-29T00:00:00Z", Ok(MOMENT_MIN.0 + 59 * DAY_US));
        check("0000-01-01T00:00:00+00:01", Err(TimeError::Range));
        check("9999-12-31T23:59:59.999999-00:01", Err(TimeError::Range));
    }

    #[test]
    fn every_way_to_write_a_moment_is_read() {
        const AT: i64 = 1_793_095_200_000_000;
        for moment in [
            "2026-10-27T10:00:00Z",
            "2026-10-27t10:00:00z",
            "2026-10-27 10:00:00Z",
            "2026-10-27T10:00:00.0Z",
            "2026-10-27T10:00:00.000000000Z",
            "2026-10-27T10:00:00.0000009Z",
            "2026-10-27T10:00:00+00:00",
            "2026-10-27T10:00:00-00:00",
            "2026-10-27T12:00:00+02:00",
            "2026-10-27T12:00:00 02:00",
            "2026-10-27T04:30:00-05:30",
            "2026-10-28T09:59:00+23:59",
            "1793095200000",
            "1793095200000000",
        ] {
            check(moment, Ok(AT));
            if !moment.contains(" 02") && moment.contains(':') {
                assert_eq!(moment.parse::<Timestamp>().unwrap().as_microsecond(), AT, "{moment}");
            }
        }
        check("2026-10-27T10:00:00.1Z", Ok(AT + 100_000));
        check("2026-10-27T10:00:00.123456789Z", Ok(AT + 123_456));
        check("1969-12-31T23:59:59.9999999Z", Ok(-1));
        check("0", Ok(0));
        check("-1", Ok(-1000));
        check("99999999999999", Ok(99_999_999_999_999_000));
        check("100000000000000", Ok(100_000_000_000_000));
        check("2024-02-29T00:00:00Z", Ok(1_709_164_800_000_000));
    }

    #[test]
    fn a_leap_second_is_the_second_before_it() {
        check("2016-12-31T23:59:60Z", Ok(1_483_228_799_000_000));
        check("2016-12-31T23:59:60.5Z", Ok(1_483_228_799_500_000));
        check("2016-12-31T23:59:61Z", Err(TimeError::Field { at: 17 }));
    }

    #[test]
    fn a_time_without_an_offset_may_be_utc() {
        for moment in ["2026-10-27T10:00:00", "2026-10-27T10:00:00Z", "2026-10-27T12:00:00.000+02:00"] {
            assert_eq!(parse_moment_or_utc(moment), Ok(Micros(1_793_095_200_000_000)), "{moment}");
        }
        assert_eq!(parse_moment_or_utc("1793095200000"), Err(TimeError::Form { at: 4 }));
        assert_eq!(parse_moment_or_utc("2026-10-27T10:00:00x"), Err(TimeError::Form { at: 19 }));
    }

    #[test]
    fn a_civil_time_exists_only_in_its_calendar() {
        let civil = |year, month, day, second| Civil { year, month, day, hour: 23, minute: 59, second, fraction_us: 1 };
        assert!(civil(2024, 2, 29, 59).exists());
        for (year, month, day, second) in
            [(2023, 2, 29, 0), (2024, 0, 1, 0), (2024, 13, 1, 0), (2024, 4, 31, 0), (2024, 1, 1, 61)]
        {
            assert!(!civil(year, month, day, second).exists(), "{year}-{month}-{day} :{second}");
        }
        assert_eq!(civil(2016, 12, 31, 60).at_offset(0), Ok(Micros(1_483_228_799_000_001)));
        assert_eq!(civil(2016, 12, 31, 59).at_offset(-60), Ok(Micros(1_483_232_399_000_001)));
        assert_eq!(civil(9999, 12, 31, 59).at_offset(-60), Err(TimeError::Range));
        for (moment, year) in [(MOMENT_MIN, 0), (Micros(-1), 1969), (Micros(0), 1970), (MOMENT_MAX, 9999)] {
            assert_eq!(year_of(moment), year);
        }
    }

    #[test]
    fn what_is_no_moment_is_refused() {
        for (moment, error) in [
            ("", TimeError::Form { at: 0 }),
            ("-", TimeError::Form { at: 0 }),
            ("yesterday", TimeError::Form { at: 0 }),
            ("2026-10-27", TimeError::Form { at: 10 }),
            ("2026-10-27T10:00Z", TimeError::Form { at: 16 }),
            ("2026-10-27T10:00:00", TimeError::NoOffset),
            ("2026-10-27T10:00:00.1", TimeError::NoOffset),
            ("2026-10-27T10:00:00.Z", TimeError::Form { at: 20 }),
            ("2026-10-27T10:00:00,5Z", TimeError::Form { at: 19 }),
            ("2026-10-27T10:00:00.1234567890Z", TimeError::Form { at: 29 }),
            ("2026-10-27T10:00:00Zx", TimeError::Form { at: 20 }),
            ("2026-10-27T10:00:00Z ", TimeError::Form { at: 20 }),
            (" 2026-10-27T10:00:00Z", TimeError::Form { at: 0 }),
            ("2026-10-27T10:00:00+0200", TimeError::Form { at: 22 }),
            ("2026-10-27T10:00:00+02", TimeError::Form { at: 22 }),
            ("2026-10-27T10:00:00+24:00", TimeError::Field { at: 20 }),
            ("2026-10-27T10:00:00+02:60", TimeError::Field { at: 23 }),
            ("2026-10-27T24:00:00Z", TimeError::Field { at: 11 }),
            ("2026-10-27T10:60:00Z", TimeError::Field { at: 14 }),
            ("2026-00-27T10:00:00Z", TimeError::Field { at: 5 }),
            ("2026-13-27T10:00:00Z", TimeError::Field { at: 5 }),
            ("2026-10-00T10:00:00Z", TimeError::Field { at: 8 }),
            ("2026-02-29T10:00:00Z", TimeError::Field { at: 8 }),
            ("1900-02-29T10:00:00Z", TimeError::Field { at: 8 }),
            ("2026-04-31T10:00:00Z", TimeError::Field { at: 8 }),
            ("+2026-10-27T10:00:00Z", TimeError::Form { at: 0 }),
            ("-2026-10-27T10:00:00Z", TimeError::Form { at: 0 }),
            ("2026-1-27T10:00:00Z", TimeError::Form { at: 6 }),
            ("\u{662}026-10-27T10:00:00Z", TimeError::Form { at: 0 }),
            ("1793095200000000000", TimeError::Range),
            ("99999999999999999999", TimeError::Range),
            ("1.5", TimeError::Form { at: 1 }),
            ("1e3", TimeError::Form { at: 1 }),
        ] {
            check(moment, Err(error));
        }
        assert!(parse_moment("2000-02-29T10:00:00Z").is_ok());
    }

    /// `cargo test --release -p ringlog --lib timing -- --ignored --nocapture --test-threads 1`
    #[test]
    #[ignore = "a measurement, not a check"]
    fn timing_of_moments() {
        const COUNT: i64 = 2_000_000;
        let start = Instant::now();
        for step in 0..COUNT {
            black_box(format_moment(Micros(black_box(1_793_095_200_000_000 + step * 997))));
        }
        println!("format_moment: {:.1} ns", start.elapsed().as_nanos() as f64 / COUNT as f64);
        let start = Instant::now();
        for _ in 0..COUNT {
            black_box(parse_moment(black_box("2026-10-27T10:00:00.123456Z"))).unwrap();
        }
        println!("parse_moment: {:.1} ns", start.elapsed().as_nanos() as f64 / COUNT as f64);
    }
}
