//! The arguments of the functions that plugins call, checked as the original checks them (reference 2.4).

use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};

/// The arguments of one call, taken apart the way `PyArg_ParseTuple` does.
pub(crate) struct Arguments<'a, 'py> {
    pub(crate) function: &'static str,
    pub(crate) values: &'a Bound<'py, PyTuple>,
}

impl<'a, 'py> Arguments<'a, 'py> {
    /// Those of a function of `bareosfd`.
    pub(crate) fn new(
        function: &'static str,
        values: &'a Bound<'py, PyTuple>,
        keywords: Option<&Bound<'py, PyDict>>,
        least: usize,
        most: usize,
    ) -> PyResult<Self> {
        Self::of("bareosfd", function, values, keywords, least, most)
    }

    /// Those of a function of this module.
    pub(crate) fn of(
        module: &str,
        function: &'static str,
        values: &'a Bound<'py, PyTuple>,
        keywords: Option<&Bound<'py, PyDict>>,
        least: usize,
        most: usize,
    ) -> PyResult<Self> {
        if keywords.is_some_and(|keywords| !keywords.is_empty()) {
            return Err(PyTypeError::new_err(format!("{module}.{function}() takes no keyword arguments")));
        }
        let given = values.len();
        if given < least || given > most {
            let (bound, number) = match (least == most, given < least) {
                (true, _) => ("exactly", least),
                (false, true) => ("at least", least),
                (false, false) => ("at most", most),
            };
            let plural = if number == 1 { "" } else { "s" };
            return Err(PyTypeError::new_err(format!(
                "Bareos{function}() takes {bound} {number} argument{plural} ({given} given)"
            )));
        }
        Ok(Self { function, values })
    }

    /// Any object.
    pub(crate) fn object(&self, position: usize) -> PyResult<Bound<'py, PyAny>> {
        self.values.get_item(position)
    }

    /// A C `int`.
    pub(crate) fn int(&self, position: usize) -> PyResult<i32> {
        int(&self.object(position)?)
    }

    /// An optional `str`; `None` stands for none.
    pub(crate) fn text(&self, position: usize) -> PyResult<Option<String>> {
        if position >= self.values.len() {
            return Ok(None);
        }
        let value = self.object(position)?;
        if value.is_none() {
            return Ok(None);
        }
        let Ok(text) = value.cast::<PyString>() else {
            return Err(PyTypeError::new_err(format!(
                "Bareos{}() argument {} must be str or None, not {}",
                self.function,
                position + 1,
                value.get_type().name()?
            )));
        };
        let text = text.to_str()?.to_owned();
        if text.contains('\0') {
            return Err(PyValueError::new_err("embedded null character"));
        }
        Ok(Some(text))
    }
}

/// A C `int`.
pub(crate) fn int(value: &Bound<'_, PyAny>) -> PyResult<i32> {
    let number: i64 = value.extract()?;
    i32::try_from(number).map_err(|_| {
        PyOverflowError::new_err(if number > 0 {
            "signed integer is greater than maximum"
        } else {
            "signed integer is less than minimum"
        })
    })
}

/// The numbers of a sequence of events that are in range, 1 to `last`.
pub(crate) fn event_numbers(sequence: &Bound<'_, PyAny>, last: u8) -> PyResult<Vec<u8>> {
    let items = sequence.try_iter().map_err(|_| PyTypeError::new_err("Expected a sequence of events"))?;
    let mut numbers = Vec::new();
    for item in items {
        let number: i64 = item?.extract()?;
        if let Ok(number) = u8::try_from(number)
            && (1..=last).contains(&number)
        {
            numbers.push(number);
        }
    }
    Ok(numbers)
}
