//! A line of JSON for each callback: what it was given, what it answered, what it left in the packet.

use std::fmt::Write;

use backstay_python_runtime::{Kind, Record};
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyString, PyTuple};

use crate::packets::{Classes, classes};
use crate::script::Answer;

/// Longest text of a value, in characters.
const LONGEST: usize = 4096;

/// The arguments of a callback, taken before it runs.
pub(crate) fn arguments(py: Python<'_>, arguments: &Bound<'_, PyTuple>) -> String {
    let values: Vec<String> = arguments.iter().map(|value| shown(py, &value)).collect();
    format!("[{}]", values.join(","))
}

/// The whole line.
pub(crate) fn line(
    py: Python<'_>,
    function: &str,
    before: &str,
    arguments: &Bound<'_, PyTuple>,
    answer: Answer,
) -> String {
    let after = self::arguments(py, arguments);
    let answer = match answer {
        Answer::Code(code) => code.to_string(),
        Answer::Missing => "\"missing\"".to_owned(),
        Answer::Raised => "\"raised\"".to_owned(),
        Answer::NotAnInteger => "\"no integer\"".to_owned(),
    };
    let mut line = format!("{{\"call\":{},\"arguments\":{before},\"answer\":{answer}", quoted(function));
    if after != before {
        let _ = write!(line, ",\"left\":{after}");
    }
    line.push('}');
    line
}

fn shown(py: Python<'_>, value: &Bound<'_, PyAny>) -> String {
    if let Ok(classes) = classes(py)
        && let Some(packet) = packet(classes, value)
    {
        return fields(py, &packet);
    }
    if value.is_none() {
        return "null".to_owned();
    }
    if let Ok(number) = value.extract::<i64>() {
        return number.to_string();
    }
    if let Ok(text) = value.cast::<PyString>() {
        return quoted(&text.to_string_lossy());
    }
    // Contents are told by their length: a trace is no second backup.
    let length = match (value.cast::<PyByteArray>(), value.cast::<PyBytes>()) {
        (Ok(bytes), _) => Some(bytes.len()),
        (_, Ok(bytes)) => Some(bytes.as_bytes().len()),
        _ => None,
    };
    match length {
        Some(length) => format!("{{\"bytes\":{length}}}"),
        None => quoted(&value.get_type().name().map_or_else(|_| "?".to_owned(), |name| name.to_string())),
    }
}

fn packet<'py>(classes: &Classes, value: &Bound<'py, PyAny>) -> Option<Record<'py>> {
    classes.exported().into_iter().find_map(|(_, class)| class.cast(value))
}

fn fields(py: Python<'_>, packet: &Record<'_>) -> String {
    let mut out = String::from("{");
    for (position, field) in packet.fields().iter().enumerate() {
        if position > 0 {
            out.push(',');
        }
        out.push_str(&quoted(&field.name.to_string_lossy()));
        out.push(':');
        out.push_str(&match field.kind {
            Kind::Object | Kind::Text => match packet.value(position) {
                Some(value) => shown(py, &value),
                None => "null".to_owned(),
            },
            Kind::Bool => packet.flag(position).to_string(),
            Kind::U64 => packet.unsigned(position).to_string(),
            Kind::U16 | Kind::I32 | Kind::U32 | Kind::I64 => packet.integer(position).to_string(),
        });
    }
    out.push('}');
    out
}

/// A JSON string.
pub(crate) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for letter in text.chars().take(LONGEST) {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            letter if (letter as u32) < 0x20 => {
                let _ = write!(out, "\\u{:04x}", letter as u32);
            }
            letter => out.push(letter),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_json() {
        assert_eq!(quoted("a\"b\\c\nd\u{1}é"), "\"a\\\"b\\\\c\\nd\\u0001é\"");
    }
}
