//! Where the password comes from: options, then `BACKSTAY_*`, then `RESTIC_*`, then a prompt. It never stands in an
//! argument, a log or an error.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use backstay_repository::password;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::args::GlobalOptions;
use crate::failure::Failure;
use crate::location::variable;

/// A password; it does not print itself.
pub struct Password(Vec<u8>);

impl Password {
    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password")
    }
}

/// The password of the repository. `new` is true where it opens nothing yet: then a prompt asks twice.
///
/// # Errors
/// [`Failure::Fatal`] when a source that was named cannot be read, or gives nothing, or there is no terminal to ask on.
pub fn password(options: &GlobalOptions, new: bool) -> Result<Password, Failure> {
    let sources = Sources {
        file: options.password_file.as_deref(),
        command: options.password_command.as_deref(),
        command_option: "--password-command",
        family: "",
    };
    let (question, hint) = (
        if new { "Password for the new repository: " } else { "Password of the repository: " },
        "no password: use --password-file, --password-command or the variable BACKSTAY_PASSWORD",
    );
    given(sources.named()?.map_or_else(|| prompt(question, new, hint), Ok)?)
}

/// The password of the repository that is copied from: its own options, `BACKSTAY_FROM_*`, `RESTIC_FROM_*`, a prompt.
///
/// # Errors
/// As [`password`].
pub fn from_password(file: Option<&Path>, command: Option<&str>) -> Result<Password, Failure> {
    let sources = Sources { file, command, command_option: "--from-password-command", family: "FROM_" };
    let (question, hint) = (
        "Password of the repository to copy from: ",
        "no password for the repository to copy from: use --from-password-file, --from-password-command or the \
         variable BACKSTAY_FROM_PASSWORD",
    );
    given(sources.named()?.map_or_else(|| prompt(question, false, hint), Ok)?)
}

/// The password of a key that is being made: from a file or a command, or asked for twice.
///
/// # Errors
/// As [`password`].
pub fn new_password(file: Option<&Path>, command: Option<&str>) -> Result<Password, Failure> {
    let hint = "no new password: use --new-password-file or --new-password-command";
    given(match (file, command) {
        (Some(file), _) => from_file(file)?,
        (None, Some(command)) => from_command(command, "--new-password-command")?,
        (None, None) => prompt("Password for the new key: ", true, hint)?,
    })
}

fn given(password: Password) -> Result<Password, Failure> {
    if password.0.is_empty() {
        return Err(Failure::fatal("the password is empty"));
    }
    Ok(password)
}

/// Where a password may stand.
struct Sources<'a> {
    file: Option<&'a Path>,
    command: Option<&'a str>,
    command_option: &'static str,
    /// What stands between the program's name and `PASSWORD` in the names of variables.
    family: &'static str,
}

impl Sources<'_> {
    fn named(&self) -> Result<Option<Password>, Failure> {
        if let Some(file) = self.file {
            return from_file(file).map(Some);
        }
        if let Some(command) = self.command {
            return from_command(command, self.command_option).map(Some);
        }
        let name = |program: &str, what: &str| format!("{program}_{}PASSWORD{what}", self.family);
        if let Some(text) = variable(&name("BACKSTAY", ""))? {
            return Ok(Some(Password(text.into_bytes())));
        }
        if let Some(file) = variable(&name("BACKSTAY", "_FILE"))? {
            return from_file(Path::new(&file)).map(Some);
        }
        let origin = name("BACKSTAY", "_COMMAND");
        if let Some(command) = variable(&origin)? {
            return from_command(&command, &origin).map(Some);
        }
        // restic's own order: a file or a command goes before the plain text, and both at once are a contradiction.
        let origin = name("RESTIC", "_COMMAND");
        let (file, command) = (variable(&name("RESTIC", "_FILE"))?, variable(&origin)?);
        match (file, command) {
            (Some(_), Some(_)) => Err(Failure::fatal(format!(
                "{} and {origin} are both set: keep one of them, or use an option",
                name("RESTIC", "_FILE")
            ))),
            (Some(file), None) => from_file(Path::new(&file)).map(Some),
            (None, Some(command)) => from_command(&command, &origin).map(Some),
            (None, None) => Ok(variable(&name("RESTIC", ""))?.map(|text| Password(text.into_bytes()))),
        }
    }
}

fn from_file(file: &Path) -> Result<Password, Failure> {
    password::from_file(file).map(Password).map_err(Failure::fatal)
}

/// Runs the command without a shell, as restic does; `origin` names the option or variable in errors, never its text:
/// a command line can hold a secret.
fn from_command(text: &str, origin: &str) -> Result<Password, Failure> {
    let words = backstay_stores::words::split(text).map_err(|reason| Failure::fatal(format!("{origin}: {reason}")))?;
    let Some((program, arguments)) = words.split_first() else {
        return Err(Failure::fatal(format!("{origin} is empty")));
    };
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::inherit())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| Failure::fatal(format!("{origin}: cannot run {program}: {error}")))?;
    if !output.status.success() {
        return Err(Failure::fatal(format!("{origin}: {program} ended with {}", output.status)));
    }
    let password = Password(password::trimmed(&output.stdout));
    if password.0.is_empty() {
        return Err(Failure::fatal(format!("{origin}: {program} printed no password")));
    }
    Ok(password)
}

fn prompt(question: &str, twice: bool, hint: &'static str) -> Result<Password, Failure> {
    let mut terminal = File::options().read(true).write(true).open("/dev/tty").map_err(|_| Failure::fatal(hint))?;
    let ask = |terminal: &mut File, question: &str| {
        ask(terminal, question)
            .map_err(|error| Failure::fatal(format!("cannot read a password from the terminal: {error}")))
    };
    let first = ask(&mut terminal, question)?;
    if twice && ask(&mut terminal, "The same password again: ")?.0 != first.0 {
        return Err(Failure::fatal("the two passwords differ: nothing was done"));
    }
    Ok(first)
}

/// The terminal's modes while its echo is off: the thread that waits for signals puts them back before it ends us.
static SILENCED: Mutex<Option<(File, Termios)>> = Mutex::new(None);

/// Switches the terminal's echo on again, where a prompt switched it off.
pub(crate) fn restore_terminal() -> std::io::Result<()> {
    if let Some((terminal, modes)) = SILENCED.lock().unwrap_or_else(PoisonError::into_inner).take() {
        tcsetattr(&terminal, OptionalActions::Flush, &modes)?;
    }
    Ok(())
}

/// Asks one question with the terminal's echo switched off, and switches it on again whatever happened.
fn ask(terminal: &mut File, question: &str) -> std::io::Result<Password> {
    let before = tcgetattr(&*terminal)?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    silent.local_modes.insert(LocalModes::ICANON | LocalModes::ISIG);
    let again = terminal.try_clone()?;
    *SILENCED.lock().unwrap_or_else(PoisonError::into_inner) = Some((again, before));
    tcsetattr(&*terminal, OptionalActions::Flush, &silent)?;
    // Only now: whoever waits for the question has no echo and loses nothing.
    let answer = terminal.write_all(question.as_bytes()).and_then(|()| line(terminal));
    let restored = restore_terminal();
    terminal.write_all(b"\n")?;
    restored?;
    answer
}

fn line(terminal: &mut File) -> std::io::Result<Password> {
    let mut text = Vec::new();
    let mut byte = [0];
    while terminal.read(&mut byte)? == 1 && byte[0] != b'\n' {
        text.push(byte[0]);
    }
    if text.last() == Some(&b'\r') {
        text.pop();
    }
    Ok(Password(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_does_not_print_itself() {
        assert_eq!(format!("{:?}", Password(password::trimmed(b"secret\n"))), "Password");
        assert_eq!(password::trimmed(b" s \r\n"), b"s");
    }
}
