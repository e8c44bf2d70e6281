//! The time of day that windows of a schedule go by: the machine's clock and zone (`TZ`, else /etc/localtime), as everybody
//! who reads its clock would say.

use std::ffi::OsStr;

use gantry_disk::schedule::Schedule;
use jiff::Zoned;
use jiff::tz::TimeZone;

use crate::stop::Stop;

/// What windows go by on a machine that has no zone.
const NO_ZONE: &str = "this machine has no time zone (/etc/localtime): windows count in UTC";

/// Minutes since midnight.
pub fn minute_of_day() -> u16 {
    let time = Zoned::now().time();
    u16::from(time.hour().unsigned_abs()) * 60 + u16::from(time.minute().unsigned_abs())
}

/// What the machine's clock shows, with the zone's distance from UTC: "14:05 +01:00".
pub fn local_time() -> String {
    Zoned::now().strftime("%H:%M %:z").to_string()
}

/// Whether windows mean what who wrote them thinks; if there are any, what must be said about them.
///
/// # Errors
/// When `TZ` names no zone that this machine knows: they would silently count in UTC.
pub fn check(schedules: &[&Schedule]) -> Result<Option<&'static str>, Stop> {
    if !schedules.iter().any(|schedule| schedule.has_windows()) {
        return Ok(None);
    }
    judge(std::env::var_os("TZ").as_deref(), TimeZone::try_system().is_ok())
}

fn judge(named: Option<&OsStr>, known: bool) -> Result<Option<&'static str>, Stop> {
    match named {
        _ if known => Ok(None),
        None => Ok(Some(NO_ZONE)),
        Some(zone) => Err(Stop(format!(
            "TZ is {zone:?}, which this machine does not know: windows would count in UTC; correct it, or install tzdata"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_day_is_the_one_that_date_shows() {
        let date = |format: &str| {
            let output = std::process::Command::new("date").arg(format).output().unwrap();
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        };
        let minute = || {
            let text = date("+%H %M");
            let (hour, minute) = text.split_once(' ').unwrap();
            hour.parse::<u16>().unwrap() * 60 + minute.parse::<u16>().unwrap()
        };
        let (before, ours, after) = (minute(), minute_of_day(), minute());
        assert!([before, after].contains(&ours), "{before} {ours} {after}");
        let (before, ours, after) = (date("+%H:%M %:z"), local_time(), date("+%H:%M %:z"));
        assert!([&before, &after].contains(&&ours), "{before} {ours} {after}");
    }

    #[test]
    fn windows_without_a_zone_are_told_and_with_a_misspelt_one_refused() {
        let misspelt = Some(OsStr::new("Asia/Tokio"));
        assert_eq!((judge(None, true).unwrap(), judge(misspelt, true).unwrap()), (None, None));
        assert!(judge(None, false).unwrap().unwrap().contains("UTC"));
        let refused = judge(misspelt, false).unwrap_err().to_string();
        assert!(refused.contains("Asia/Tokio") && refused.contains("tzdata"), "{refused}");
        assert_eq!(check(&[&"20M".parse().unwrap()]).unwrap(), None);
    }
}
