//! `%START_TIME%`: a moment by the parts of its format.

use crate::snapshot::access_log::TimePart;
use std::time::Duration;

/// For how long the text stays the same, nanoseconds: a second, or as its fraction says.
pub(super) fn resolution(parts: &[TimePart]) -> u64 {
    let digits = |part: &TimePart| if let TimePart::Fraction(digits) = part { u32::from(*digits).min(9) } else { 0 };
    10_u64.pow(9 - parts.iter().map(digits).max().unwrap_or(0))
}

/// In UTC; `since` 1970.
pub(super) fn write(parts: &[TimePart], since: Duration, out: &mut Vec<u8>) {
    let (seconds, of_day) = (since.as_secs(), since.as_secs() % 86_400);
    let (year, month, day) = civil(seconds / 86_400);
    for part in parts {
        match part {
            TimePart::Literal(literal) => out.extend_from_slice(literal.as_bytes()),
            TimePart::Year => padded(year, 4, out),
            TimePart::Month => padded(month, 2, out),
            TimePart::Day => padded(day, 2, out),
            TimePart::Hour => padded(of_day / 3600, 2, out),
            TimePart::Minute => padded(of_day / 60 % 60, 2, out),
            TimePart::Second => padded(of_day % 60, 2, out),
            TimePart::Epoch => out.extend_from_slice(itoa::Buffer::new().format(seconds).as_bytes()),
            TimePart::Fraction(digits) => {
                let digits = u32::from(*digits).min(9);
                padded(u64::from(since.subsec_nanos()) / 10_u64.pow(9 - digits), digits, out);
            }
        }
    }
}

/// The last `width` digits of a number, 9 at most.
fn padded(mut number: u64, width: u32, out: &mut Vec<u8>) {
    let mut text = [b'0'; 9];
    let text = &mut text[..width as usize];
    for place in text.iter_mut().rev() {
        *place += (number % 10) as u8;
        number /= 10;
    }
    out.extend_from_slice(text);
}

/// Days since 1970-01-01 → year, month, day of the Gregorian calendar. Years are counted from March, so that the leap day
/// is the last one: day 0 is day 306 of the year that began in March 1969; 11016 is 2000-02-29.
fn civil(days: u64) -> (u64, u64, u64) {
    /// From 0000-03-01 to 1970-01-01.
    const TO_EPOCH: u64 = 719_468;
    /// Days of 400 years, after which the calendar repeats.
    const ERA: u64 = 146_097;
    let days = days + TO_EPOCH;
    let (era, of_era) = (days / ERA, days % ERA);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_have_dates() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(11_016), (2000, 2, 29));
        assert_eq!(civil(20_778), (2026, 11, 21));
        assert_eq!(civil(47_540), (2100, 2, 28));
        assert_eq!(civil(47_541), (2100, 3, 1), "2100 is no leap year");
    }
}
