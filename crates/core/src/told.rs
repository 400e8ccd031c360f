//! Errors as they are told: one line each.

use std::error::Error;

/// The error with all its causes, on one line; a cause that its parent's text contains already is not repeated.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let part = cause.to_string();
        if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        next = cause.source();
    }
    one_line(&text)
}

/// The text with its line breaks replaced, so that an error stays one line whatever it quotes.
#[must_use]
pub fn one_line(text: &str) -> String {
    if text.contains(['\n', '\r']) {
        text.split(['\n', '\r']).map(str::trim).filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; ")
    } else {
        text.to_owned()
    }
}
