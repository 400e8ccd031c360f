//! Bareos' FileSet: the parser of its configuration syntax, and the rule by which it selects files.
//!
//! * `input` takes the text apart: words, quoted strings, comments, files that are included with `@`,
//! * `keywords` has the words of the language, and finds the one that was meant,
//! * `parser` reads FileSet resources,
//! * `model` holds what was read: Includes, Options blocks with their option bits, patterns,
//! * `wildcard` and `regular` match names as Bareos' `fnmatch` and POSIX extended regular expressions do,
//! * `selection` decides about one name (reference 6.5, last paragraph).
//!
//! Imports nothing of ours, and does no input or output itself: whoever parses lends it a [`Surroundings`].

mod input;
mod keywords;
mod model;
mod parser;
mod regular;
mod selection;
mod wildcard;

pub use model::{DEFAULT_FLAGS, Exclude, FileSet, Include, Options, Pattern, PatternKind, SizeRule, bit};
pub use parser::{ParseError, Surroundings, parse};
pub use regular::{Regular, RegularError};
pub use selection::{Decision, Selection};
pub use wildcard::{Wildcard, WildcardOptions};
