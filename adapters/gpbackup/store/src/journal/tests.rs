use backstay_core::ObjectKind;

use super::*;
use crate::numbers::{Class, Generation};
use crate::record::Object;

const GENERATION: Generation = Generation { class: Class::Packs, number: 0 };

fn journal(folder: &Path) -> Journal {
    Journal::open(folder).unwrap()
}

fn begun(folder: &Path) -> Journal {
    let journal = journal(folder);
    journal.begin().unwrap().unwrap();
    append(&journal, vec![Record::Open { generation: GENERATION, writer: "w".to_owned() }]);
    journal
}

fn append(journal: &Journal, records: Vec<Record>) {
    journal.write(|_| Ok((records, ()))).unwrap();
}

fn put(number: u32) -> Record {
    let id = Id::of(&number.to_le_bytes());
    let object = Object { size: 4, generation: GENERATION, name: format!("pack-{number}"), sha256: id };
    Record::Put { kind: ObjectKind::Pack, id, object }
}

fn count(journal: &Journal) -> usize {
    journal.read(|loaded| loaded.unwrap().state.objects.len()).unwrap()
}

#[test]
fn what_one_process_writes_another_sees() {
    let folder = tempfile::tempdir().unwrap();
    let first = begun(folder.path());
    let second = journal(folder.path());
    assert_eq!(second.begin().unwrap(), None, "there is one");
    append(&first, vec![put(1)]);
    append(&second, vec![put(2)]);
    assert_eq!((count(&first), count(&second)), (2, 2));
    let ids = std::thread::scope(|scope| {
        let threads: Vec<_> = [&first, &second]
            .into_iter()
            .zip([100, 200])
            .map(|(journal, from)| {
                scope.spawn(move || (from..from + 50).for_each(|number| append(journal, vec![put(number)])))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).count()
    });
    assert_eq!((ids, count(&first), count(&second), count(&journal(folder.path()))), (2, 102, 102, 102));
}

#[test]
fn a_torn_last_line_is_dropped_wherever_it_tore() {
    let folder = tempfile::tempdir().unwrap();
    let first = begun(folder.path());
    append(&first, vec![put(1)]);
    let whole = fs::read(first.path()).unwrap();
    append(&first, vec![put(2)]);
    let longer = fs::read(first.path()).unwrap();
    drop(first);
    let path = folder.path().join("journal");
    for end in whole.len()..longer.len() {
        fs::write(&path, &longer[..end]).unwrap();
        let journal = journal(folder.path());
        assert_eq!(count(&journal), 1, "{end}");
        append(&journal, vec![put(3)]);
        assert_eq!(count(&Journal::open(folder.path()).unwrap()), 2, "{end}");
    }
    // A line of zeros, as some file systems leave it.
    fs::write(&path, [&whole[..], &[0; 50], b"\n"].concat()).unwrap();
    assert_eq!(count(&journal(folder.path())), 1);
}

#[test]
fn damage_in_the_middle_is_told_and_nothing_is_believed() {
    let folder = tempfile::tempdir().unwrap();
    let first = begun(folder.path());
    append(&first, vec![put(1), put(2), put(3)]);
    let good = fs::read_to_string(first.path()).unwrap();
    for (from, to) in [(" 4 ", " 5 "), ("pack-2", "pack-7"), ("open", "Open")] {
        fs::write(first.path(), good.replacen(from, to, 1)).unwrap();
        let error = journal(folder.path()).read(|_| ()).unwrap_err().to_string();
        assert!(error.contains("does not fit") && error.contains("gpbackup.rebuild"), "{error}");
    }
    fs::write(first.path(), "something else\n").unwrap();
    assert!(journal(folder.path()).read(|_| ()).unwrap_err().to_string().contains("no journal"));
}

#[test]
fn copies_continue_each_other_until_a_whole_one_is_due() {
    let folder = tempfile::tempdir().unwrap();
    let journal = begun(folder.path());
    let keep = |copy: &Copy| append(&journal, vec![Record::Kept { piece: copy.number, line: copy.upto }]);
    assert!(journal.copy().unwrap().is_none(), "nothing is worth a copy");
    append(&journal, vec![put(1)]);
    let first = journal.copy().unwrap().unwrap();
    assert_eq!((first.number, first.first), (0, 0));
    keep(&first);
    assert!(journal.copy().unwrap().is_none());
    append(&journal, vec![put(2)]);
    let lost = journal.copy().unwrap().unwrap();
    append(&journal, vec![put(3)]);
    let second = journal.copy().unwrap().unwrap();
    assert_eq!((lost.number, second.number, lost.first, second.first), (1, 2, first.upto, first.upto));
    assert_eq!(lost.seed, second.seed);
    assert!(second.lines.starts_with(&lost.lines) && second.lines.len() > lost.lines.len());
    keep(&second);
    for number in 3..=99 {
        append(&journal, vec![put(1000 + number)]);
        let copy = journal.copy().unwrap().unwrap();
        assert_eq!(copy.number, number);
        keep(&copy);
    }
    let before = fs::metadata(journal.path()).unwrap().ino();
    append(&journal, vec![put(5)]);
    let whole = journal.copy().unwrap().unwrap();
    assert_eq!(whole.number, 100);
    assert_ne!(fs::metadata(journal.path()).unwrap().ino(), before, "it was written anew");
    let objects = whole.lines.lines().filter(|line| line.starts_with("put ")).count();
    assert_eq!((objects, count(&journal)), (101, 101));
}

#[test]
fn another_process_follows_when_the_file_is_written_anew() {
    let folder = tempfile::tempdir().unwrap();
    let first = begun(folder.path());
    let second = journal(folder.path());
    append(&first, (0..3000).map(|number| put(number % 10)).collect());
    assert_eq!(count(&second), 10);
    let copy = first.copy().unwrap().unwrap();
    append(&first, vec![Record::Kept { piece: copy.number, line: copy.upto }, put(11)]);
    let long = fs::metadata(first.path()).unwrap().len();
    let copy = first.copy().unwrap().unwrap();
    assert_eq!(copy.number, 100);
    assert!(fs::metadata(first.path()).unwrap().len() < long / 10);
    append(&second, vec![put(12)]);
    assert_eq!((count(&first), count(&second)), (12, 12));
}
