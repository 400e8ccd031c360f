//! The parameters after the plugin's name (reference 2.2).

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

/// `key=value`, as bytes: whoever hands them on decides what is text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Before the first `=`.
    pub key: String,
    /// After it; may be empty.
    pub value: OsString,
}

/// Takes one argument apart; none when it is bare.
///
/// A key starts with an ASCII letter and has only letters, digits, `.`, `_` and `-`.
#[must_use]
pub fn split(argument: &OsStr) -> Option<Parameter> {
    let bytes = argument.as_bytes();
    let equals = bytes.iter().position(|byte| *byte == b'=')?;
    let (key, value) = (&bytes[..equals], &bytes[equals + 1..]);
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
    if !key.first()?.is_ascii_alphabetic() || !key.iter().all(plain) {
        return None;
    }
    Some(Parameter { key: String::from_utf8_lossy(key).into_owned(), value: OsStr::from_bytes(value).to_owned() })
}

/// All parameters of a plugin: the first argument may be bare where there is a `magic` key, and then stands for
/// `magic=ARGUMENT`.
///
/// # Errors
/// One sentence for any other bare argument.
pub fn parameters(magic: Option<&str>, arguments: &[OsString]) -> Result<Vec<Parameter>, String> {
    let mut list = Vec::with_capacity(arguments.len());
    for (position, argument) in arguments.iter().enumerate() {
        match (split(argument), magic) {
            (Some(parameter), _) => list.push(parameter),
            (None, Some(magic)) if position == 0 => {
                list.push(Parameter { key: magic.to_owned(), value: argument.clone() });
            }
            (None, _) => {
                return Err(format!("expecting key=value on the command line but got: {}", argument.display()));
            }
        }
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_argument_is_a_parameter_by_its_key() {
        let parts = |text: &str| split(OsStr::new(text)).map(|p| (p.key, p.value.into_string().unwrap()));
        let pair = |key: &str, value: &str| Some((key.to_owned(), value.to_owned()));
        assert_eq!(parts("b=1"), pair("b", "1"));
        assert_eq!(parts("a=x=y"), pair("a", "x=y"));
        assert_eq!(parts("c="), pair("c", ""));
        assert_eq!(parts("a.b_c-d=2"), pair("a.b_c-d", "2"));
        assert_eq!(parts("a=b.py"), pair("a", "b.py"));
        for bare in ["./a=b.py", "1a=b", "=b", "a b=c", "plain", "-"] {
            assert_eq!(parts(bare), None, "{bare}");
        }
    }

    #[test]
    fn only_the_first_may_be_bare() {
        let arguments = |list: &[&str]| list.iter().map(OsString::from).collect::<Vec<_>>();
        let list = parameters(Some("script"), &arguments(&["x.py", "a=b"])).unwrap();
        assert_eq!((list[0].key.as_str(), list[1].key.as_str()), ("script", "a"));
        assert!(parameters(Some("script"), &arguments(&["x.py", "y.py"])).unwrap_err().contains("y.py"));
        assert!(parameters(None, &arguments(&["x"])).unwrap_err().contains('x'));
    }
}
