//! Passwords that `gpbackup_manager encrypt-password` encrypted (reference 3.5): hexadecimal text of a message of pgcrypto, whose key
//! gpbackup adds to the options under the plugin's name.

use std::collections::BTreeMap;

use crate::pgp;

/// Decrypts what is encrypted, in its place, where the options say that passwords are.
///
/// # Errors
/// One line that names the option. No value is repeated.
pub(crate) fn open(given: &mut BTreeMap<String, String>) -> Result<(), String> {
    let is_on = |name: &str| given.get(name).is_some_and(|value| value == "on");
    let remote = is_on("replication") && is_on("remote_password_encryption");
    if !(remote || is_on("password_encryption")) {
        return Ok(());
    }
    let key = given.get(crate::NAME).cloned();
    let mut open = |name: &str, may_be_plain: bool| -> Result<(), String> {
        let Some(value) = given.get_mut(name) else { return Ok(()) };
        let message = unhex(value.trim()).filter(|message| matches!(message.first(), Some(0xc3 | 0x8c)));
        let Some(message) = message else {
            if may_be_plain {
                return Ok(());
            }
            return Err(format!(
                "the option {name} is not encrypted by gpbackup_manager, and password_encryption is on"
            ));
        };
        let key = key.as_deref().ok_or_else(|| {
            format!(
                "the option {name} is encrypted, and its key, the option {}, is missing: gpbackup adds it, other callers do not",
                crate::NAME
            )
        })?;
        let plain = pgp::decrypt(&message, key.as_bytes());
        let plain = plain.map_err(|reason| format!("the option {name} cannot be decrypted: {reason}"))?;
        *value =
            String::from_utf8(plain).map_err(|_| format!("the option {name} is not UTF-8 when it is decrypted"))?;
        Ok(())
    };
    open("password", false)?;
    // One of Amazon's is never taken for a message: it is too short.
    open("aws_secret_access_key", true)
}

/// The bytes of hexadecimal digits; none for any other text.
pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGE: &str = "c30d04070302bca07e77264db0876bd24a012394d8b13bf85838a0af6140a592254ae602c8c0a0a31f1ac25d54611f425a17747ec1b333bd2b2c26fac6383123b979280d4f0ae83e09d1a990516b74cee65a89edaff392e7d4fcdd";
    const PLAIN: &str = "s3cr3t/+Key of the bucket";

    fn opened(options: &[(&str, &str)]) -> Result<BTreeMap<String, String>, String> {
        let mut given = options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        open(&mut given).map(|()| given)
    }

    #[test]
    fn passwords_are_decrypted_where_the_options_say_so() {
        let key = (crate::NAME, "the key in .encrypt");
        let on = ("password_encryption", "on");
        let given = opened(&[on, key, ("password", MESSAGE), ("aws_secret_access_key", MESSAGE)]).unwrap();
        assert_eq!((given["password"].as_str(), given["aws_secret_access_key"].as_str()), (PLAIN, PLAIN));
        let given = opened(&[on, key, ("aws_secret_access_key", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")]).unwrap();
        assert_eq!(given["aws_secret_access_key"], "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY");
        let given = opened(&[key, ("password", MESSAGE)]).unwrap();
        assert_eq!(given["password"], MESSAGE, "it is the password itself");
        let remote = [("replication", "on"), ("remote_password_encryption", "on"), key, ("password", MESSAGE)];
        assert_eq!(opened(&remote).unwrap()["password"], PLAIN);
    }

    #[test]
    fn what_is_wrong_is_named_and_no_value_repeated() {
        let on = ("password_encryption", "on");
        for (options, parts) in [
            (vec![on, ("password", MESSAGE)], ["password", "is missing"]),
            (vec![on, ("password", MESSAGE), (crate::NAME, "hush")], ["password", "key does not fit"]),
            (vec![on, ("password", "hush"), (crate::NAME, "hush")], ["password", "not encrypted"]),
            (vec![on, ("password", &MESSAGE[..100]), (crate::NAME, "hush")], ["password", "cut short"]),
        ] {
            let reason = opened(&options).unwrap_err();
            assert!(parts.iter().all(|part| reason.contains(part)) && !reason.contains("hush"), "{reason}");
        }
    }
}
