//! Copies of the journal behind the plugin, and the way back from them when the file of this host is lost.
//!
//! A copy is the object `journal` of a timestamp whose number says what it is (`numbers.rs`): numbers that end in 00 hold the whole
//! journal, those up to 99 behind each what came since the one before. So whoever knows the series finds the last copy without
//! a list: the whole ones first, number after number, then those that continue the last of them. Numbers that failed are gaps, never more than
//! [`WINDOW`] less one in a row (`state.rs` sees to that); a window without an object is the end. That costs two windows of look-ups of
//! missing objects, each up to a minute with gpbackup's S3 plugin, at once as far as connections allow; nothing else here ever asks for an object that is not known to exist.

use std::collections::BTreeSet;

use backstay_core::Id;
use backstay_gpbackup_host::{Failure, Key};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use crate::driver::Driver;
use crate::journal::{Chain, Copy, Journal, read_line};
use crate::numbers::{CLASSES, Class, Generation, Series};
use crate::record::Record;
use crate::state::{PIECES, State, WINDOW};

const MAGIC: &str = "backstay-gpbackup-piece 1";
/// The name of every copy.
const NAME: &str = "journal";
/// The largest copy that is read, in bytes: tens of millions of objects.
const LARGEST: usize = 1 << 32;
/// Numbers that a journal leaves free when it begins from copies: the host that lost its file may have used them since.
const LEAP: u32 = 1000;

/// The key of a copy.
fn key(series: Series, number: u32) -> Result<Key, Failure> {
    let generation = Generation { class: Class::Journal, number };
    let timestamp = generation.timestamp(series).ok_or_else(|| Failure::Refused(format!("no number {number}")))?;
    Key::new(timestamp, NAME)
}

/// Stores a copy of what is new in the journal, if anything is. Nothing was lost when this fails: the next copy has it too.
///
/// # Errors
/// One line.
pub fn store(driver: &Driver, journal: &Journal) -> Result<(), String> {
    let Some(copy) = journal.copy().map_err(|error| error.to_string())? else { return Ok(()) };
    let text = write(&copy, seconds());
    let stored = key(copy.series, copy.number).and_then(|key| driver.put(&key, text.as_bytes()));
    stored.map_err(|failure| failure.to_string())?;
    let kept = vec![Record::Kept { piece: copy.number, line: copy.upto }];
    journal.write(|_| Ok((kept, ()))).map_err(|error| error.to_string())
}

/// Seconds since 1970.
fn seconds() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

fn write(copy: &Copy, time: u64) -> String {
    let Copy { number, first, seed, lines, series, .. } = copy;
    let mut text = format!("{MAGIC} {series} {number} {first} {} {time}\n{lines}", Id(*seed).to_hex());
    let sum: [u8; 32] = Sha256::digest(&text).into();
    text.push_str(&format!("end {}\n", Id(sum).to_hex()));
    text
}

/// A copy as it was read.
struct Piece<'a> {
    number: u32,
    first: u64,
    seed: Chain,
    time: u64,
    lines: &'a str,
}

/// Takes a copy apart; none if it is not whole, or of another number.
fn read(bytes: &[u8], series: Series, number: u32) -> Option<Piece<'_>> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (body, sum) = text.strip_suffix('\n')?.rsplit_once("end ")?;
    if <[u8; 32]>::from(Sha256::digest(body)) != sum.parse::<Id>().ok()?.0 {
        return None;
    }
    let (head, lines) = body.split_once('\n')?;
    let words: Vec<&str> = head.strip_prefix(MAGIC)?.strip_prefix(' ')?.split(' ').collect();
    let [of, called, first, seed, time] = *words.as_slice() else { return None };
    let (of, called) = (Series::parse(of)?, called.parse::<u32>().ok()?);
    let (first, seed, time) = (first.parse().ok()?, seed.parse::<Id>().ok()?.0, time.parse().ok()?);
    (of == series && called == number).then_some(Piece { number, first, seed, time, lines })
}

/// The lines that were put together so far.
struct Replay {
    state: State,
    first: u64,
    /// The checksum before each line, from `first` on, and behind the last.
    chains: Vec<Chain>,
}

impl Replay {
    fn begin(piece: &Piece<'_>) -> Result<Self, String> {
        let mut replay = Self { state: State::default(), first: piece.first, chains: vec![piece.seed] };
        replay.add(piece)?;
        Ok(replay)
    }

    /// Adds a copy; lines that are here already are passed over.
    fn add(&mut self, piece: &Piece<'_>) -> Result<(), String> {
        let number = piece.number;
        let at = piece.first.checked_sub(self.first).and_then(|at| usize::try_from(at).ok());
        let at = at.filter(|at| self.chains.get(*at) == Some(&piece.seed));
        let mut at = at.ok_or_else(|| {
            format!(
                "copy {number} of the journal does not continue the one before it: more than one host wrote to this place, or a \
                 copy is lost"
            )
        })?;
        for line in piece.lines.lines() {
            let (record, chain, _) = read_line(&self.chains[at], line)
                .ok_or_else(|| format!("copy {number} of the journal holds a line that is none"))?;
            at += 1;
            match self.chains.get(at) {
                Some(known) if *known == chain => {}
                Some(_) => {
                    return Err(format!("copy {number} of the journal says other things than the one before it"));
                }
                None => {
                    self.state.apply(&record).map_err(|reason| format!("copy {number} of the journal: {reason}"))?;
                    self.chains.push(chain);
                }
            }
        }
        let line = self.first + at as u64;
        self.state.apply(&Record::Kept { piece: number, line }).map_err(str::to_owned)
    }
}

/// Begins the journal of this host with what copies behind the plugin say, and tells what was found.
///
/// `from` is the number of the first whole copy to look at.
///
/// # Errors
/// One line: nothing was found, the copies contradict each other, the plugin fails.
pub fn rebuild(driver: &Driver, journal: &Journal, series: Series, from: u32) -> Result<String, String> {
    let fetch = &|number: u32| -> Result<Option<Vec<u8>>, Failure> {
        let bytes = driver.get_unknown(&key(series, number)?, LARGEST)?;
        Ok(read(&bytes, series, number).is_some().then_some(bytes))
    };
    // Each number of a window, at once, and none that was missing before; what failed and why is of interest only if nothing is found.
    let missing = Mutex::new(BTreeSet::new());
    let window = |numbers: &mut dyn Iterator<Item = u32>| {
        let numbers: Vec<u32> = numbers.filter(|number| !missing.lock().contains(number)).collect();
        std::thread::scope(|scope| {
            let asked: Vec<_> =
                numbers.into_iter().map(|number| (number, scope.spawn(move || fetch(number)))).collect();
            let answers = asked.into_iter().map(|(number, thread)| {
                let answer = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                if !matches!(answer, Ok(Some(_))) {
                    missing.lock().insert(number);
                }
                (number, answer)
            });
            answers.collect::<Vec<_>>()
        })
    };
    // Hooks run once, before the first of many.
    driver.plugin().map_err(|failure| failure.to_string())?;
    let mut whole: Option<(u32, Vec<u8>)> = None;
    let mut next = from / PIECES;
    let mut last_failure = String::new();
    loop {
        let mut numbers =
            (next..next + WINDOW).map(|number| number * PIECES).filter(|number| *number < Generation::END);
        let mut found = None;
        for (number, answer) in window(&mut numbers) {
            match answer {
                Ok(Some(bytes)) => found = Some((number, bytes)),
                Ok(None) => last_failure = format!("what lies under number {number} is no whole copy of a journal"),
                Err(failure @ Failure::Refused(_)) => return Err(failure.to_string()),
                Err(failure) => last_failure = failure.to_string(),
            }
        }
        let Some(found) = found else { break };
        next = found.0 / PIECES + 1;
        whole = Some(found);
    }
    let Some((base, bytes)) = whole else {
        return Err(format!("no copy of the journal was found under {series}: {last_failure}"));
    };
    let piece = read(&bytes, series, base).ok_or("a copy of the journal changed while it was read")?;
    let mut replay = Replay::begin(&piece)?;
    let (mut copies, mut last, mut time) = (1_usize, base, piece.time);
    loop {
        let mut numbers = (last + 1..=last + WINDOW).filter(|number| number / PIECES == base / PIECES);
        let before = last;
        for (number, answer) in window(&mut numbers) {
            let Ok(Some(bytes)) = answer else { continue };
            let piece = read(&bytes, series, number).ok_or("a copy of the journal changed while it was read")?;
            replay.add(&piece)?;
            (copies, last, time) = (copies + 1, number, piece.time);
        }
        if last == before {
            break;
        }
    }
    // A plugin that cannot read any more looks like one without further copies.
    if !matches!(fetch(last), Ok(Some(_))) {
        return Err("the plugin ceased to read in the midst of the search: try again".to_owned());
    }
    let Replay { mut state, first, chains } = replay;
    for class in CLASSES.into_iter().filter(|class| *class != Class::Journal) {
        let number =
            state.fresh(class).map_or(Generation::END, |generation| (generation.number + LEAP).min(Generation::END));
        state.apply(&Record::Next { class, number }).map_err(str::to_owned)?;
    }
    let objects = state.objects.len();
    let line = first + chains.len() as u64 - 1;
    let chain = chains.last().copied().unwrap_or_default();
    journal.take_over(series, line, chain, &state).map_err(|error| error.to_string())?;
    Ok(format!(
        "the journal was rebuilt from {} behind the plugin, the last of them {series}{} of {}: it knows {}. What \
         was stored after that copy is not in it. The host that had the journal before must not write here any more",
        count(copies, "copy", "copies"),
        Generation { class: Class::Journal, number: last },
        utc(time),
        count(objects, "object", "objects")
    ))
}

fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// A time in words, in UTC.
fn utc(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Civil from days, counted from the 1st of March of the year 0.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let date = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{date:02} {:02}:{:02}:{:02} UTC", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_as_dates() {
        assert_eq!(utc(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(utc(951_782_399), "2000-02-28 23:59:59 UTC");
        assert_eq!(utc(951_868_800), "2000-03-01 00:00:00 UTC");
        assert_eq!(utc(1_795_699_805), "2026-11-26 13:30:05 UTC");
    }

    #[test]
    fn a_copy_that_is_not_whole_is_none() {
        let series = Series::parse("4123456").unwrap();
        let copy = Copy { number: 0, upto: 9, first: 4, seed: [7; 32], lines: "a b\n".to_owned(), series };
        let text = write(&copy, 5);
        let piece = read(text.as_bytes(), series, 0).unwrap();
        assert_eq!((piece.first, piece.time, piece.lines), (4, 5, "a b\n"));
        assert!(read(text.as_bytes(), series, 1).is_none(), "another number");
        for end in 0..text.len() {
            assert!(read(&text.as_bytes()[..end], series, 0).is_none(), "{end}");
            let mut wrong = text.clone().into_bytes();
            wrong[end] ^= 1;
            assert!(read(&wrong, series, 0).is_none(), "{end}");
        }
    }
}
