//! Writes a target's first inputs into a folder, one file each: `fuzz-corpus TARGET FOLDER`.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use backstay_fuzzing::TARGETS;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match &arguments[..] {
        [name, folder] => write(name, Path::new(folder)),
        _ => Err("usage: fuzz-corpus TARGET FOLDER".to_owned()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody to tell it to.
            let _ = writeln!(std::io::stderr().lock(), "fuzz-corpus: {error}");
            ExitCode::FAILURE
        }
    }
}

fn write(name: &str, folder: &Path) -> Result<(), String> {
    let target =
        TARGETS.iter().find(|target| target.name == name).ok_or_else(|| format!("there is no target {name}"))?;
    for (number, input) in (target.corpus)().iter().enumerate() {
        let path = folder.join(format!("first-{number}"));
        std::fs::write(&path, input).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}
