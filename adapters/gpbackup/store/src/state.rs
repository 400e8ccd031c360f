//! What the lines of the journal say in the end: which objects there are, what lies in each generation, which numbers are used.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use backstay_core::{Id, ObjectKind};

use crate::numbers::{CLASSES, Class, Generation};
use crate::record::{Object, Record};

/// Copies of the journal with numbers that end in two zeros are whole; the others continue the one before them.
pub const PIECES: u32 = 100;
/// At most so many numbers in a row hold nothing that could be read: who looks for copies gives up after as many.
pub const WINDOW: u32 = 4;

/// What a generation holds.
#[derive(Clone, Debug, Default)]
pub struct Fill {
    /// The process that fills it, or filled it.
    pub writer: String,
    /// Whether that process still does, if it lives.
    pub open: bool,
    /// Objects that are wanted.
    pub live: u64,
    /// Their bytes.
    pub live_bytes: u64,
    /// Bytes of garbage.
    pub dead_bytes: u64,
}

/// Everything.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// The objects.
    pub objects: HashMap<(ObjectKind, Id), Object>,
    /// The generations that were begun and not deleted.
    pub generations: BTreeMap<Generation, Fill>,
    /// The last copy that is stored, and the line before which it ends.
    pub kept: Option<(u32, u64)>,
    /// Copies that were tried since.
    tries: Vec<u32>,
    /// Copies that continue others, and are not deleted.
    pub pieces: BTreeSet<u32>,
    next: [u32; CLASSES.len()],
}

impl State {
    /// Adds a line.
    ///
    /// # Errors
    /// It contradicts what came before it.
    pub fn apply(&mut self, record: &Record) -> Result<(), &'static str> {
        match record {
            Record::Open { generation, writer } => {
                let fill = Fill { writer: writer.clone(), open: true, ..Fill::default() };
                if self.generations.insert(*generation, fill).is_some() {
                    return Err("a generation begins twice");
                }
                self.used(generation.class, generation.number);
            }
            Record::Full(generation) => {
                if let Some(fill) = self.generations.get_mut(generation) {
                    fill.open = false;
                }
            }
            Record::Put { kind, id, object } => {
                let fill = self.generations.get_mut(&object.generation).ok_or("an object lies in no generation")?;
                fill.live += 1;
                fill.live_bytes = fill.live_bytes.saturating_add(object.size);
                if let Some(old) = self.objects.insert((*kind, *id), object.clone()) {
                    self.bury(&old);
                }
            }
            Record::Dead { generation, bytes } => {
                if let Some(fill) = self.generations.get_mut(generation) {
                    fill.dead_bytes = fill.dead_bytes.saturating_add(*bytes);
                }
            }
            Record::Delete { kind, id } => {
                if let Some(old) = self.objects.remove(&(*kind, *id)) {
                    self.bury(&old);
                }
            }
            Record::Gone(Generation { class: Class::Journal, number }) => {
                self.pieces.remove(number);
            }
            Record::Gone(generation) => {
                if self.generations.get(generation).is_some_and(|fill| fill.live > 0) {
                    return Err("a generation was deleted with objects in it");
                }
                self.generations.remove(generation);
            }
            Record::Piece(number) => {
                // One of another process can come late.
                if self.kept.is_none_or(|(kept, _)| kept < *number) {
                    self.tries.push(*number);
                }
                if number % PIECES != 0 {
                    self.pieces.insert(*number);
                }
                self.used(Class::Journal, *number);
            }
            Record::Kept { piece, line } => {
                if self.kept.is_none_or(|(_, known)| known < *line) {
                    self.kept = Some((*piece, *line));
                    self.tries.retain(|number| number > piece);
                }
            }
            Record::Next { class, number } => {
                let next = &mut self.next[*class as usize];
                *next = (*next).max(*number);
            }
        }
        Ok(())
    }

    fn used(&mut self, class: Class, number: u32) {
        let next = &mut self.next[class as usize];
        *next = (*next).max(number.saturating_add(1));
    }

    fn bury(&mut self, object: &Object) {
        if let Some(fill) = self.generations.get_mut(&object.generation) {
            fill.live = fill.live.saturating_sub(1);
            fill.live_bytes = fill.live_bytes.saturating_sub(object.size);
            fill.dead_bytes = fill.dead_bytes.saturating_add(object.size);
        }
    }

    /// A generation that was never used; none when all were.
    #[must_use]
    pub fn fresh(&self, class: Class) -> Option<Generation> {
        let number = self.next[class as usize];
        (number < Generation::END).then_some(Generation { class, number })
    }

    /// The number for the next copy: a whole one, or one that continues. None when there is none left.
    ///
    /// Each attempt has a number of its own, up to as many as whoever looks for copies looks past; then the last of them, which
    /// never succeeded, is tried again.
    #[must_use]
    pub fn next_piece(&self, whole: bool) -> Option<u32> {
        let kept = self.kept.map(|(piece, _)| piece);
        let number = if whole {
            let kept = kept.map_or(0, |piece| piece / PIECES + 1);
            let tried = self.tries.iter().map(|number| number / PIECES + 1).max().unwrap_or(0);
            tried.clamp(kept, kept + WINDOW - 1) * PIECES
        } else {
            let kept = kept?;
            let tried = self.tries.iter().filter(|number| **number / PIECES == kept / PIECES).max();
            let number = tried.map_or(kept, |number| (*number).max(kept)) + 1;
            let number = number.min(kept + WINDOW);
            if number / PIECES != kept / PIECES {
                return None;
            }
            number
        };
        (number < Generation::END).then_some(number)
    }

    /// Lines that say the same as all lines so far.
    #[must_use]
    pub fn checkpoint(&self) -> Vec<Record> {
        let mut records: Vec<_> =
            CLASSES.into_iter().map(|class| Record::Next { class, number: self.next[class as usize] }).collect();
        let tried: BTreeSet<u32> = self.pieces.iter().chain(&self.tries).copied().collect();
        records.extend(tried.into_iter().map(Record::Piece));
        records.extend(self.kept.map(|(piece, line)| Record::Kept { piece, line }));
        for (generation, fill) in &self.generations {
            records.push(Record::Open { generation: *generation, writer: fill.writer.clone() });
            if !fill.open {
                records.push(Record::Full(*generation));
            }
            if fill.dead_bytes > 0 {
                records.push(Record::Dead { generation: *generation, bytes: fill.dead_bytes });
            }
        }
        let mut objects: Vec<_> = self.objects.iter().collect();
        objects.sort_unstable_by(|(a, one), (b, other)| (one.generation, a).cmp(&(other.generation, b)));
        records.extend(objects.into_iter().map(|((kind, id), object)| Record::Put {
            kind: *kind,
            id: *id,
            object: object.clone(),
        }));
        records
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generation(number: u32) -> Generation {
        Generation { class: Class::Packs, number }
    }

    fn put(content: &[u8], number: u32) -> Record {
        let object = Object {
            size: content.len() as u64,
            generation: generation(number),
            name: format!("pack-{number}"),
            sha256: Id::of(content),
        };
        Record::Put { kind: ObjectKind::Pack, id: Id::of(content), object }
    }

    fn state(records: &[Record]) -> State {
        let mut state = State::default();
        records.iter().for_each(|record| state.apply(record).unwrap());
        state
    }

    #[test]
    fn what_is_moved_or_deleted_is_garbage_of_its_generation() {
        let open = |number| Record::Open { generation: generation(number), writer: "w".to_owned() };
        let mut state = state(&[open(0), open(1), put(b"one", 0), put(b"three", 0), put(b"one", 1)]);
        let fill = &state.generations[&generation(0)];
        assert_eq!((fill.live, fill.live_bytes, fill.dead_bytes), (1, 5, 3));
        assert!(state.clone().apply(&Record::Gone(generation(0))).is_err(), "something lies in it");
        state.apply(&Record::Delete { kind: ObjectKind::Pack, id: Id::of(b"three") }).unwrap();
        state.apply(&Record::Gone(generation(0))).unwrap();
        assert_eq!(state.objects.len(), 1);
        assert_eq!(state.fresh(Class::Packs), Some(generation(2)));
        assert!(state.apply(&put(b"x", 9)).is_err());
    }

    #[test]
    fn a_checkpoint_says_the_same() {
        let open = |number| Record::Open { generation: generation(number), writer: "w".to_owned() };
        let first = state(&[
            open(0),
            put(b"one", 0),
            Record::Full(generation(0)),
            open(1),
            put(b"two", 1),
            Record::Dead { generation: generation(1), bytes: 9 },
            Record::Piece(0),
            Record::Kept { piece: 0, line: 5 },
            Record::Piece(1),
            Record::Kept { piece: 1, line: 7 },
            Record::Piece(2),
            Record::Next { class: Class::Packs, number: 77 },
        ]);
        let again = state(&first.checkpoint());
        assert_eq!(format!("{:?}", again.generations), format!("{:?}", first.generations));
        assert_eq!(again.objects, first.objects);
        assert_eq!(again.checkpoint(), first.checkpoint());
        assert_eq!(again.next_piece(false), Some(3));
        assert_eq!(again.fresh(Class::Packs), Some(generation(77)));
    }

    #[test]
    fn whatever_lines_come_a_checkpoint_says_the_same() {
        // Lines of few words in any order: most contradict each other somewhere.
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = |below: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % below
        };
        for _ in 0..20_000 {
            let mut state = State::default();
            for _ in 0..next(30) {
                let class = CLASSES[next(5) as usize];
                let generation = Generation { class, number: next(3) as u32 };
                let (kind, id) = ([ObjectKind::Pack, ObjectKind::Index][next(2) as usize], Id::of(&[next(3) as u8]));
                let bytes = [0, 1, u64::MAX][next(3) as usize];
                let piece = [0, 1, 2, 99, 100, 999_999][next(6) as usize];
                let object = Object { size: bytes, generation, name: "x".to_owned(), sha256: id };
                let record = match next(9) {
                    0 | 1 => Record::Open { generation, writer: "w".to_owned() },
                    2 => Record::Full(generation),
                    3 | 4 => Record::Put { kind, id, object },
                    5 => [Record::Dead { generation, bytes }, Record::Delete { kind, id }][next(2) as usize].clone(),
                    6 => Record::Gone(generation),
                    7 => [Record::Piece(piece), Record::Kept { piece, line: next(9) }][next(2) as usize].clone(),
                    _ => Record::Next { class, number: piece },
                };
                assert_eq!(Record::parse(&record.to_string()), Some(record.clone()));
                if state.apply(&record).is_err() {
                    break;
                }
            }
            let _ = (state.next_piece(true), state.next_piece(false));
            let mut again = State::default();
            for record in state.checkpoint() {
                assert_eq!(again.apply(&record), Ok(()), "{record}: {state:?}");
            }
            assert_eq!(again.objects, state.objects);
            assert_eq!(again.checkpoint(), state.checkpoint());
        }
    }

    #[test]
    fn no_run_of_failed_copies_is_longer_than_who_looks_for_them_looks() {
        let mut state = State::default();
        let mut tried = Vec::new();
        for _ in 0..6 {
            let number = state.next_piece(true).unwrap();
            tried.push(number);
            state.apply(&Record::Piece(number)).unwrap();
        }
        assert_eq!(tried, [0, 100, 200, 300, 300, 300]);
        state.apply(&Record::Kept { piece: 300, line: 1 }).unwrap();
        tried.clear();
        for _ in 0..6 {
            let number = state.next_piece(false).unwrap();
            tried.push(number);
            state.apply(&Record::Piece(number)).unwrap();
        }
        assert_eq!(tried, [301, 302, 303, 304, 304, 304]);
        assert_eq!(state.next_piece(true), Some(400));
        state.apply(&Record::Kept { piece: 399, line: 2 }).unwrap();
        assert_eq!((state.next_piece(false), state.next_piece(true)), (None, Some(400)));
    }
}
