//! Socket activation: the sockets are there before the server (reference 2.6). Looks at the environment only.

use crate::options::Options;

/// The first descriptor that is handed over.
pub const FIRST_DESCRIPTOR: i32 = 3;
/// The most that are taken.
const MOST: i32 = 16;
/// The variables, which children must not see.
pub const VARIABLES: [&str; 3] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];

/// What the environment says about sockets that were handed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    None,
    /// They are somebody else's: a line to say so.
    Foreign(String),
    /// So many, from [`FIRST_DESCRIPTOR`] on.
    Sockets(i32),
}

/// Reads the two variables, as the process of this number.
///
/// # Errors
/// One sentence: they are ours and wrong.
pub fn read(own: u32, process: Option<&str>, count: Option<&str>) -> Result<Activation, String> {
    let (Some(process), Some(count)) = (process, count) else { return Ok(Activation::None) };
    let number: u32 = process.parse().map_err(|_| format!("malformed LISTEN_PID environment variable: {process}"))?;
    if number != own {
        let line =
            format!("LISTEN_PID was not for us (ours: {own}, LISTEN_PID: {number}): socket activation is ignored");
        return Ok(Activation::Foreign(line));
    }
    match count.parse() {
        Ok(count @ 1..=MOST) => Ok(Activation::Sockets(count)),
        _ => Err(format!("LISTEN_FDS must be 1 to {MOST}, not {count}")),
    }
}

/// Refuses options that make no sense with sockets that are there.
///
/// # Errors
/// One sentence.
pub fn check(options: &Options) -> Result<(), String> {
    if options.address.is_some()
        || options.port.is_some()
        || options.single
        || options.unix.is_some()
        || options.vsock
        || options.run.is_some()
        || options.print_uri
        || options.selinux_label.is_some()
    {
        let names = "-i, -p, -s, -U, --vsock, --run, --print-uri or --selinux-label";
        return Err(format!("cannot use socket activation with {names} options"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_taken_only_when_they_are_ours() {
        assert_eq!(read(7, None, None), Ok(Activation::None));
        assert_eq!(read(7, Some("7"), Some("2")), Ok(Activation::Sockets(2)));
        assert!(matches!(read(7, Some("8"), Some("2")), Ok(Activation::Foreign(_))));
        for count in ["0", "17", "x", "-1"] {
            assert!(read(7, Some("7"), Some(count)).is_err(), "{count}");
        }
        assert!(read(7, Some("x"), Some("1")).is_err());
    }
}
