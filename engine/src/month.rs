//! Months of the UTC calendar, as numbers: what quotas are counted in.
//!
//! Whole-number arithmetic on the proleptic Gregorian calendar, after Howard Hinnant, "chrono-compatible low-level date
//! algorithms": a year that begins in March has its leap day at its end, so that the days before a month are a straight
//! line, and 400 such years repeat themselves. Must never: read a clock or know a time zone.

use crate::ids::Micros;

const DAY_US: i64 = 86_400_000_000;
/// Days and months of 400 years, after which the calendar repeats itself.
const ERA_DAYS: i64 = 146_097;
const ERA_MONTHS: i64 = 4_800;
/// Days and months from 0000-03-01 to 1970-01-01.
const EPOCH_DAYS: i64 = 719_468;
const EPOCH_MONTHS: i64 = 1_970 * 12 - 2;

/// A month, counted from January 1970, which is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Month(pub i32);

impl Month {
    /// The month that a moment lies in.
    pub fn of(moment: Micros) -> Month {
        let days = moment.0.div_euclid(DAY_US) + EPOCH_DAYS;
        let era = days.div_euclid(ERA_DAYS);
        let day = days.rem_euclid(ERA_DAYS);
        // Without the leap days before it, every year has 365 days.
        let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
        let day_of_year = day - days_before_year(year);
        let month_of_year = (5 * day_of_year + 2) / 153;
        // Far inside of 32 bits: 64 bits of microseconds are 292,277 years to either side.
        Month((era * ERA_MONTHS + year * 12 + month_of_year - EPOCH_MONTHS) as i32)
    }

    /// Its first instant. What 64 bits of microseconds cannot say becomes the nearest that they can.
    pub fn begins_at(self) -> Micros {
        let months = i64::from(self.0) + EPOCH_MONTHS;
        let era = months.div_euclid(ERA_MONTHS);
        let month = months.rem_euclid(ERA_MONTHS);
        let (year, month_of_year) = (month / 12, month % 12);
        let days = era * ERA_DAYS + days_before_year(year) + (153 * month_of_year + 2) / 5 - EPOCH_DAYS;
        Micros(days.saturating_mul(DAY_US))
    }

    /// The first instant of the month after it.
    pub fn ends_at(self) -> Micros {
        Month(self.0.saturating_add(1)).begins_at()
    }
}

/// Days of an era before its `year`-th year.
fn days_before_year(year: i64) -> i64 {
    365 * year + year / 4 - year / 100
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_month_of_800_years_begins_where_counting_days_says() {
        let is_leap = |year: i64| (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
        let mut begins_at = 0;
        for month in 0..800 * 12 {
            let year = 1970 + i64::from(month / 12);
            let days = match month % 12 + 1 {
                2 => 28 + i64::from(is_leap(year)),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            let ends_at = begins_at + days * DAY_US;
            assert_eq!((Month(month).begins_at().0, Month(month).ends_at().0), (begins_at, ends_at), "{month}");
            for inside in [begins_at, begins_at + 15 * DAY_US, ends_at - 1] {
                assert_eq!(Month::of(Micros(inside)), Month(month), "{inside}");
            }
            begins_at = ends_at;
        }
    }

    #[test]
    fn months_before_1970_count_backwards() {
        assert_eq!(Month::of(Micros(-1)), Month(-1));
        assert_eq!(Month(-1).begins_at(), Micros(-31 * DAY_US));
        assert_eq!(Month::of(Micros(-31 * DAY_US - 1)), Month(-2));
    }

    #[test]
    fn known_months_have_their_numbers() {
        // 2026-11-21T22:40:00Z, and 2027-01-01.
        assert_eq!(Month::of(Micros(1_795_300_800_000_000)), Month((2026 - 1970) * 12 + 10));
        assert_eq!(Month((2027 - 1970) * 12).begins_at(), Micros(1_798_761_600_000_000));
    }

    #[test]
    fn the_ends_of_time_are_months_like_others() {
        for moment in [Micros(i64::MIN), Micros(i64::MAX)] {
            let month = Month::of(moment);
            assert!(month.begins_at() <= moment);
            assert!(moment <= month.ends_at());
        }
    }
}
