//! What names, intervals and sizes mean, and which dates a rotation keeps, for Python.

use std::collections::BTreeMap;

use backstay_bakthat::names;
use backstay_bakthat::rotation::{self, Settings, Unit};
use jiff::civil::DateTime;
use pyo3::exceptions::{PyException, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyMapping};

use super::user_error;

const FIRST_WEEK_DAY: &str = "first_week_day";
/// The day that weeks begin with where nobody says so, from Monday on.
const SATURDAY: u8 = 5;

/// A date of Python's, its zone left out.
fn moment(value: &Bound<'_, PyAny>) -> PyResult<DateTime> {
    let number = |name: &str| value.getattr(name)?.extract::<i32>();
    let small = |name: &str| value.getattr(name)?.extract::<i8>();
    let year = value.getattr("year")?.extract::<i16>()?;
    let nanoseconds = number("microsecond")? * 1000;
    DateTime::new(year, small("month")?, small("day")?, small("hour")?, small("minute")?, small("second")?, nanoseconds)
        .map_err(|error| PyValueError::new_err(error.to_string()))
}

/// The settings of a profile's rotation as numbers; units that it does not name are none.
#[pyfunction]
pub(super) fn rotation_settings<'py>(rotation: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyDict>> {
    let py = rotation.py();
    let units = Unit::ALL.map(|unit| format!("{}s", unit.name()));
    let Some(rotation) = rotation.cast::<PyMapping>().ok().filter(|rotation| !rotation.is_empty().unwrap_or(true))
    else {
        let text = "No rotation settings for the current profile: run bakthat configure_backups_rotation";
        return Err(user_error(py, "BakthatError", text));
    };
    let settings = PyDict::new(py);
    settings.set_item(FIRST_WEEK_DAY, SATURDAY)?;
    for unit in &units {
        settings.set_item(unit, 0)?;
    }
    let int = py.import("builtins")?.getattr("int")?;
    for item in rotation.items()? {
        let (key, value): (Bound<'_, PyAny>, Bound<'_, PyAny>) = item.extract()?;
        if !settings.contains(&key)? {
            let text = format!("Unknown rotation setting {key}: known are first_week_day, {}", units.join(", "));
            return Err(user_error(py, "BadKey", &text));
        }
        let number = int.call1((&value,)).map_err(|_| {
            let shown = value.repr().map_or_else(|_| "this".to_owned(), |shown| shown.to_string());
            user_error(py, "BadValue", &format!("The rotation setting {key} must be a whole number, not {shown}"))
        })?;
        if number.lt(0)? || (key.eq(FIRST_WEEK_DAY)? && number.gt(6)?) {
            return Err(user_error(py, "BadValue", &format!("The rotation setting {key} cannot be {value}")));
        }
        settings.set_item(key, number)?;
    }
    Ok(settings)
}

/// The dates to keep, each with the reason; all others are to be deleted.
#[pyfunction]
pub(super) fn reasons_to_keep<'py>(
    dates: &Bound<'py, PyAny>,
    now: &Bound<'py, PyAny>,
    settings: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyDict>> {
    let known = dates
        .try_iter()?
        .map(|date| date.and_then(|date| Ok((moment(&date)?, date))))
        .collect::<PyResult<BTreeMap<DateTime, Bound<'py, PyAny>>>>()?;
    let mut counts = [0; 7];
    for (unit, count) in Unit::ALL.into_iter().zip(&mut counts) {
        // More than there are numbers for is all of them.
        *count = settings.get_item(format!("{}s", unit.name()))?.extract().unwrap_or(u64::MAX);
    }
    let settings = Settings { counts, first_week_day: settings.get_item(FIRST_WEEK_DAY)?.extract()? };
    let kept = rotation::reasons_to_keep(&known.keys().copied().collect(), moment(now)?, &settings);
    let told = PyDict::new(dates.py());
    for (date, reasons) in kept {
        let reasons: Vec<String> = reasons.iter().map(ToString::to_string).collect();
        told.set_item(&known[&date], reasons.join(", "))?;
    }
    Ok(told)
}

/// The seconds of an interval such as `1M3W4h2s`.
#[pyfunction]
pub(super) fn interval_seconds(interval: &Bound<'_, PyAny>) -> PyResult<u64> {
    let text = interval.str()?;
    names::interval(&text.to_cow()?).ok_or_else(|| PyException::new_err(format!("Bad interval format for {text}")))
}

/// A size by thousands, whole where it is a whole multiple: `3.1 KB`, `1 KB`.
#[pyfunction]
pub(super) fn size_text(size: u128) -> String {
    names::size_text(size)
}

/// Name, clock of UTC, kind and container of a stored name.
type Parsed<'py> = (String, Bound<'py, PyAny>, String, String);

/// What a stored name tells; nothing where it is another kind of name.
#[pyfunction]
pub(super) fn parse_stored_name<'py>(py: Python<'py>, stored_name: &str) -> PyResult<Option<Parsed<'py>>> {
    let Some(found) = names::parse(stored_name) else { return Ok(None) };
    let at = found.clock;
    let clock = (at.year(), at.month(), at.day(), at.hour(), at.minute(), at.second());
    let clock = py.import("datetime")?.getattr("datetime")?.call1(clock)?;
    Ok(Some((found.name.to_owned(), clock, found.kind.to_owned(), found.container.to_owned())))
}
